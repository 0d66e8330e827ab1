"""Writes a page, as a whole or not at all, and over nobody else's file."""

from __future__ import annotations

from pathlib import Path

from pme_lightning.errors import BadInput
from pme_lightning.pages.elements import GENERATOR
from pme_lightning.written_whole import written_whole


def write_page(page: str, path: Path) -> Path:
    """Writes a page; one that was made before is replaced.

    Raises:
        BadInput: The place is taken by a file that is not ours, or cannot be written.
    """
    check_place(path)
    try:
        with written_whole(path) as partial:
            partial.write_text(page, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"report: cannot write '{path}': {error.strerror}") from error
    return path


def check_place(path: Path) -> None:
    """Refuses a place that a page cannot be written to.

    Raises:
        BadInput: It is a folder, its folder does not exist, or there is a file that is not ours.
    """
    if path.is_dir():
        raise BadInput(f"report: '{path}' is a folder; name a file in it, out={path / 'report.html'}")
    if not path.parent.is_dir():
        raise BadInput(f"report: there is no folder '{path.parent}' to write '{path.name}' to")
    if path.exists() and not _is_ours(path):
        raise BadInput(f"report: '{path}' is there already and not a page of ours; name another file with out=FILE")


def _is_ours(path: Path) -> bool:
    with path.open("rb") as file:
        return f'name="generator" content="{GENERATOR} '.encode() in file.read(1000)
