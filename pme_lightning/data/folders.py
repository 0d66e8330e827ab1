"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from pme_lightning.errors import BadInput

_PARTIAL = ".partial-"
_ABANDONED_SECONDS = 24 * 3600


@contextmanager
def whole_folder(final: Path, replace: bool = True) -> Iterator[Path]:
    """Yields a temporary folder beside ``final`` and renames it to ``final`` when the block ends well.

    After an error the temporary folder is removed; after a kill it stays under its hidden temporary name, which
    nothing reads, until :func:`remove_abandoned` finds it a day later.

    Args:
        final: the folder to write.
        replace: whether a folder that is there already is replaced; otherwise it is kept and ours removed (another
            process has written the same in the meantime).
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = final.parent / f"{_PARTIAL}{final.name}-{uuid4().hex[:12]}"
    partial.mkdir()
    try:
        yield partial
        if replace and final.exists():
            old = final.parent / f"{_PARTIAL}old-{uuid4().hex[:12]}"
            os.rename(final, old)
            os.rename(partial, final)
            shutil.rmtree(old)
            return
        try:
            os.rename(partial, final)
        except OSError:
            # Renaming onto a folder that holds files fails: the other process won.
            if not final.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_only_own(folder: Path, own: str, what: str) -> None:
    """Raises BadInput where a folder that is to be replaced is a file or holds anything but files of our own.

    Args:
        folder: may be missing.
        own: pattern of the whole names of our own files.
        what: the folder is for, for the message.
    """
    if folder.is_dir():
        foreign = next(
            (one.name for one in folder.iterdir() if not (one.is_file() and re.fullmatch(own, one.name))), ""
        )
        if foreign:
            raise BadInput(f"'{folder}' holds something other than {what} ('{foreign}'): name a folder of its own")
    elif folder.exists() or folder.is_symlink():
        raise BadInput(f"'{folder}' is not a folder: name a folder of its own for {what}")


def remove_abandoned(folder: Path) -> None:
    """Removes the temporary folders of killed runs: those that nothing was written to for a day."""
    for partial in folder.glob(f"{_PARTIAL}*"):
        try:
            newest = max(path.stat().st_mtime for path in (partial, *partial.rglob("*")))
        except FileNotFoundError:
            continue  # its own process has just renamed or removed it
        if time.time() - newest > _ABANDONED_SECONDS:
            shutil.rmtree(partial, ignore_errors=True)
