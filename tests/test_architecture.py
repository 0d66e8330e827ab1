"""The arrows between the four folders, and that what the package exports is there."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import pme_lightning

ROOT = Path(__file__).parents[1]


def imported(file: Path) -> Iterator[str]:
    """The modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files(folder: str) -> list[Path]:
    found = sorted((ROOT / folder).rglob("*.py"))
    assert found
    return found


@pytest.mark.parametrize("file", files("pme_lightning"), ids=lambda f: str(f.relative_to(ROOT)))
def test_the_core_imports_neither_backbones_nor_callbacks(file: Path) -> None:
    wrong = [m for m in imported(file) if m.startswith(("pme_lightning.backbones", "pme_lightning.callbacks"))]
    assert not wrong


@pytest.mark.parametrize("file", files("callbacks"), ids=lambda f: f.name)
def test_callbacks_import_no_backbone(file: Path) -> None:
    assert not [m for m in imported(file) if m.startswith("pme_lightning.backbones")]


@pytest.mark.parametrize("file", files("pme_lightning/search"), ids=lambda f: f.name)
def test_the_search_knows_no_lightning(file: Path) -> None:
    assert not [m for m in imported(file) if m.split(".")[0] in ("lightning", "torchmetrics", "jsonargparse")]


@pytest.mark.parametrize("name", pme_lightning.__all__)
def test_every_exported_name_is_there(name: str) -> None:
    assert getattr(pme_lightning, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nope'"):
        _ = pme_lightning.Nope


def test_no_module_is_named_for_nothing() -> None:
    names = {file.stem for folder in ("pme_lightning", "backbones", "callbacks") for file in files(folder)}
    assert not names & {"utils", "util", "common", "helpers", "misc"}
