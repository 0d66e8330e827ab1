"""The ``list`` command: the choices of every group, each with the comment on the first line of its file."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from pme_lightning.configuration.group_files import GROUPS, GroupFiles
from pme_lightning.errors import BadInput, did_you_mean
from pme_lightning.help.layout import text_width, two_columns

_ABOUT = {
    "backbone": "the network behind the embeddings",
    "data": "where the rows are",
    "search": "how sizes are found",
    "optimizer": "what trains the network and the embedding table",
    "averaging": "which weights of a training are kept",
    "trainer": "which devices, and how",
    "logger": "where curves go",
    "experiment": "several choices and settings under one name",
}


def list_text(files: GroupFiles, groups: Sequence[str] = ()) -> str:
    """Returns the choices of groups, wrapped to the terminal's width.

    Args:
        files: The files of the choices.
        groups: Which groups; all of them if none is named.

    Raises:
        BadInput: There is no such group.
    """
    for group in groups:
        if group not in GROUPS:
            raise BadInput(f"list: '{group}' is no group; {did_you_mean(group, GROUPS)}")
    default = files.defaults()["groups"]
    blocks = [[_heading(group, default), *_choices(files, group)] for group in groups or GROUPS]
    return "\n\n".join("\n".join(block) for block in blocks)


def _heading(group: str, default: dict[str, str]) -> str:
    usual = f" (default: {default[group]})" if group in default else ""
    return textwrap.fill(f"{group}=NAME: {_ABOUT[group]}{usual}", text_width(), subsequent_indent="  ")


def _choices(files: GroupFiles, group: str) -> list[str]:
    told = {name: files.description(group, name) for name in files.choices(group)}
    return two_columns(told) if told else ["  (none)"]
