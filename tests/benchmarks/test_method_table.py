"""The table of methods: every entry is a search that the package builds."""

from __future__ import annotations

import pytest
from methods import DEFAULT_METHODS, METHODS, Method, choose_methods, search_config, with_seed

from pme_lightning.configuration.group_files import GroupFiles
from pme_lightning.configuration.objects import build
from pme_lightning.errors import BadInput
from pme_lightning.search import Epoch, NoTraining

SEARCHED = [name for name, method in METHODS.items() if method.search]


@pytest.mark.parametrize("name", SEARCHED)
def test_a_method_builds_and_a_rule_is_what_trains_nothing(name: str) -> None:
    callback = build(with_seed(search_config(name, GroupFiles()), seed=7))
    assert callable(callback.result_for)
    assert isinstance(callback.schedule, NoTraining) == METHODS[name].rule


def test_an_entry_without_changes_is_the_shipped_search() -> None:
    assert search_config("pme", GroupFiles()) == GroupFiles().load("search", "pme")["search"]
    assert search_config("full", GroupFiles()) is None


def test_changes_reach_their_arguments() -> None:
    alphas = [search_config(f"popularity_.{a}", GroupFiles()) for a in ("25", "5", "75")]
    assert [build(config).criterion.alpha for config in alphas] == [0.25, 0.5, 0.75]
    quarter = build(search_config("pme@1/4", GroupFiles()))
    assert quarter.num_steps(Epoch(1000)) == 250


def test_random_sizes_are_drawn_anew_for_each_seed() -> None:
    config = search_config("random", GroupFiles())
    assert [build(with_seed(config, seed)).criterion.seed for seed in (3, 4)] == [3, 4]


def test_a_change_of_what_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("criterion.alhpa", "criterium.alpha", "alpha"):
        monkeypatch.setitem(METHODS, "wrong", Method("popularity", {key: 1.0}))
        with pytest.raises(BadInput, match=f"'wrong'.*no argument '{key}'"):
            search_config("wrong", GroupFiles())


def test_methods_are_chosen_by_name_and_pattern() -> None:
    assert choose_methods(["pme", "full"]) == ["full", "pme"]
    assert choose_methods(["pme@*"]) == [name for name in METHODS if "@" in name]
    assert not set(choose_methods(["pme@*"])) & set(DEFAULT_METHODS)
    with pytest.raises(BadInput, match="did you mean 'uniform'"):
        choose_methods(["unifrom"])
