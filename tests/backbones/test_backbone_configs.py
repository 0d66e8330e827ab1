"""Each file of the backbone group builds its model and shows every argument at its default."""

from __future__ import annotations

import importlib
import inspect
from importlib.resources import files

import pytest
import yaml

FOLDER = files("pme_lightning.configs") / "backbone"
CHOICES = {
    "fm": "FM",
    "deepfm": "DeepFM",
    "dcn": "DCN",
    "dcnv2": "DCNv2",
    "autoint": "AutoInt",
    "autoint_plus": "AutoIntPlus",
}


def test_there_is_one_file_for_each_model() -> None:
    assert {entry.name for entry in FOLDER.iterdir() if entry.name.endswith(".yaml")} == {
        f"{choice}.yaml" for choice in CHOICES
    }


@pytest.mark.parametrize("choice", CHOICES)
def test_file_shows_every_argument_at_its_default(choice: str) -> None:
    text = (FOLDER / f"{choice}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# ")
    content = yaml.safe_load(text)
    assert list(content) == ["backbone"]
    package, _, name = content["backbone"]["class_path"].rpartition(".")
    assert name == CHOICES[choice]
    model = getattr(importlib.import_module(package), name)
    arguments = content["backbone"]["init_args"]
    model(num_fields=2, embedding_dim=4, **arguments)
    defaults = {
        key: list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        for key, parameter in inspect.signature(model).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    assert arguments == defaults
