"""Every example in a docstring does what it says."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import pme_lightning
from pme_lightning.callbacks import PruningCallback, TransferCallback
from pme_lightning.search import Fisher, Prefix

ROOT = Path(__file__).parents[1]
FINDER = doctest.DocTestFinder(exclude_empty=True)
# The four folders of the source tree are one package.
FOLDERS = {
    "pme_lightning": "pme_lightning",
    "backbones": "pme_lightning.backbones",
    "callbacks": "pme_lightning.callbacks",
}


def examples() -> list[doctest.DocTest]:
    """The examples of all modules of the package, each of which runs in the namespace of its module."""
    found = []
    for folder, package in FOLDERS.items():
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = file.relative_to(ROOT / folder).with_suffix("").parts
            if parts[-1] != "__main__":
                name = ".".join((package, *parts)).removesuffix(".__init__")
                found += [test for test in FINDER.find(importlib.import_module(name)) if test.examples]
    return found


EXAMPLES = examples()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_the_example(example: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    failed, _ = runner.run(example, out=said.append, clear_globs=False)
    assert not failed, "".join(said)


@pytest.mark.parametrize(
    "name", [name for name in pme_lightning.__all__ if name not in ("__version__", "BadInput", "Outcome")]
)
def test_what_is_exported_has_an_example(name: str) -> None:
    home = getattr(pme_lightning, name)
    assert any(example.name == f"{home.__module__}.{home.__name__}" for example in EXAMPLES)


@pytest.mark.parametrize("cls", [PruningCallback, TransferCallback, Prefix, Fisher], ids=lambda cls: cls.__name__)
def test_the_pieces_of_a_search_have_an_example(cls: type) -> None:
    assert any(example.name == f"{cls.__module__}.{cls.__name__}" for example in EXAMPLES)
