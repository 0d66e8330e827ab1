"""Every search choice names classes that exist and takes the arguments it gives them."""

from __future__ import annotations

import importlib
from importlib.resources import files

import pytest
import yaml

from pme_lightning.search import Allocator, Criterion, NoTraining, Schedule, parse_budget

CHOICES = ["at_init", "fisher", "magnitude", "mde", "pep", "pme", "popularity", "random", "sseds", "uniform"]


def build(spec: dict[str, object]) -> object:
    module, name = str(spec["class_path"]).rsplit(".", 1)
    return getattr(importlib.import_module(module), name)(**spec["init_args"])  # type: ignore[arg-type]


@pytest.mark.parametrize("choice", CHOICES)
def test_choice(choice: str) -> None:
    text = files("pme_lightning.configs").joinpath(f"search/{choice}.yaml").read_text()
    assert text.startswith("# ")
    arguments = yaml.safe_load(text)["search"]["init_args"]
    parse_budget(arguments["budget"])
    schedule = build(arguments["schedule"])
    assert isinstance(schedule, Schedule)
    assert isinstance(build(arguments["allocator"]), Allocator)
    if choice == "pep":  # its callback brings the criterion that its thresholds need
        assert "criterion" not in arguments
        return
    criterion = build(arguments["criterion"])
    assert isinstance(criterion, Criterion)
    # A criterion that needs gradients needs steps to get them from.
    assert not ((criterion.needs_gradients or criterion.needs_rows) and isinstance(schedule, NoTraining))


def test_there_are_no_others() -> None:
    folder = files("pme_lightning.configs").joinpath("search")
    assert sorted(file.name.removesuffix(".yaml") for file in folder.iterdir()) == CHOICES
