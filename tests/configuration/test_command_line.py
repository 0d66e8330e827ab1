"""Sorting the words of a command line."""

from __future__ import annotations

import pytest

from pme_lightning.configuration.command_line import parse_words
from pme_lightning.errors import BadInput


def test_words_are_sorted_by_kind() -> None:
    words = ["search", "backbone=fm", "search.budget=0.1", "--trainer.max_epochs", "3", "--config=a.yaml", "-c"]
    words += ["b.yaml", "config_dir=mine", "--print_config", "sizes=x=y.safetensors", "data.columns=[a.b,c]"]
    line = parse_words(words)
    assert line.command == "search"
    assert line.choices == {"backbone": "fm"}
    assert line.overrides == [
        ("search.budget", "0.1"),
        ("trainer.max_epochs", "3"),
        ("sizes", "x=y.safetensors"),
        ("data.columns", "[a.b,c]"),
    ]
    assert line.files == ["a.yaml", "b.yaml"]
    assert line.config_dir == "mine"
    assert line.flags == ["--print_config"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["serch"], "did you mean 'search'"),
        (["search", "fit"], "two commands"),
        (["--seed"], "needs a value"),
        (["2x=3"], "not a name"),
    ],
)
def test_words_that_mean_nothing_are_named(words: list[str], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        parse_words(words)


def test_options_of_groups_are_choices_or_classes() -> None:
    line = parse_words(["--backbone=fm", "--optimizer", "SGD", "search=my.Search", "seed=1", "--search.budget=0.1"])
    assert line.choices == {"backbone": "fm"}
    assert line.overrides == [("optimizer", "SGD"), ("search", "my.Search"), ("seed", "1"), ("search.budget", "0.1")]
