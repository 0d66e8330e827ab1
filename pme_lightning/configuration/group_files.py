"""The groups of the command line, and the YAML files that hold their choices: ``configs/GROUP/CHOICE.yaml``."""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import Any

from pme_lightning.configuration.yaml_files import read_yaml
from pme_lightning.errors import BadInput, did_you_mean

GROUPS = ("backbone", "data", "search", "optimizer", "averaging", "trainer", "logger", "experiment")
# Keys that a choice of a group may set beside the group's own; another choice resets them.
BESIDE = {"optimizer": ("embedding_optimizer",)}


class GroupFiles:
    """The YAML files of the choices of each group: ours, and before them a user's own.

    Args:
        config_dir: A folder with group folders of the user's (``backbone/mine.yaml``).

    Raises:
        BadInput: There is no such folder.
    """

    def __init__(self, config_dir: str | Path | None = None) -> None:
        ours = importlib.resources.files("pme_lightning.configs")
        self.folders = [Path(str(ours))]
        if config_dir is not None:
            own = Path(config_dir).expanduser()
            if not own.is_dir():
                raise BadInput(f"config_dir: there is no folder '{config_dir}'")
            self.folders.insert(0, own)

    def choices(self, group: str) -> dict[str, Path]:
        """Returns the file of each choice of a group, by name."""
        found: dict[str, Path] = {}
        for folder in reversed(self.folders):
            found |= {path.stem: path for path in (folder / group).glob("*.yaml")}
        return dict(sorted(found.items()))

    def load(self, group: str, choice: str) -> dict[str, Any]:
        """Returns what a choice says.

        Raises:
            BadInput: The group has no such choice.
        """
        choices = self.choices(group)
        if choice not in choices:
            raise BadInput(f"{group}={choice}: no such choice; {did_you_mean(choice, choices)}")
        return read_yaml(choices[choice])

    def defaults(self) -> dict[str, Any]:
        """Returns what holds when nothing else is said, the default choice of each group included."""
        return read_yaml(self.folders[-1] / "defaults.yaml")

    def description(self, group: str, choice: str) -> str:
        """Returns the comment on the first line of a choice's file."""
        first = self.choices(group)[choice].read_text(encoding="utf-8").partition("\n")[0]
        return first.lstrip("# ").strip() if first.startswith("#") else ""
