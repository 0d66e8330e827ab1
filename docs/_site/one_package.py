"""For the API reference: the four folders of the source tree as the one package that they are installed as."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority

ROOT = Path(__file__).parents[2]
_FOLDERS = ("backbones", "callbacks")
_made: list[tempfile.TemporaryDirectory[str]] = []


# Before the plugin reads it.
@event_priority(100)
def on_config(config: Any) -> Any:
    """Points the reader of docstrings to links in the shape of the package; nothing is installed or imported."""
    made = tempfile.TemporaryDirectory(prefix="pme-lightning-docs-")
    _made.append(made)
    package = Path(made.name) / "pme_lightning"
    package.mkdir()
    for item in (ROOT / "pme_lightning").iterdir():
        if item.name != "__pycache__":
            (package / item.name).symlink_to(item)
    for folder in _FOLDERS:
        (package / folder).symlink_to(ROOT / folder)
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [made.name]
    return config


def on_shutdown() -> None:
    """Takes the links away."""
    while _made:
        _made.pop().cleanup()
