"""The backbones stand alone: they import torch, the standard library and each other."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import pme_lightning.backbones

FOLDER = Path(pme_lightning.backbones.__file__).parent
MODULES = sorted(FOLDER.rglob("*.py"))


def test_every_module_is_seen() -> None:
    assert {"__init__", "layers", "fm", "deepfm", "dcn", "autoint"} <= {path.stem for path in MODULES}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_imports_torch_and_the_standard_library_only(path: Path) -> None:
    allowed = {"torch", *sys.stdlib_module_names}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        elif isinstance(node, ast.ImportFrom):
            depth = len(path.relative_to(FOLDER).parts)
            assert node.level <= depth, f"line {node.lineno} leaves the folder"
            continue
        else:
            continue
        strangers = [name for name in names if name.partition(".")[0] not in allowed]
        assert strangers == [], f"line {node.lineno}"
