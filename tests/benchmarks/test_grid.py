"""The grid: recipes, what is done, what is left, and how long that takes."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from grid import Grid, Search, describe, done_cells, key, progress, searches, seconds_left
from recipes import recipe
from tidy_results import ResultFile, read_results

from pme_lightning.errors import BadInput

GRID = Grid(["synthetic_100"], ["fm", "deepfm"], ["full", "uniform", "pme"], [0.5, 0.1], [1, 2])


def rows_of(tmp_path: Path, cells: list[dict[str, Any]]) -> pl.DataFrame:
    file = ResultFile(tmp_path / "r.csv")
    for number, cell in enumerate(cells):
        file.append({"date": f"2026-01-01T00:00:{number:02}"} | cell)
    return read_results(file.path)


def plan_of(**changes: Any) -> list[Search]:
    return searches(GRID._replace(**changes), None)


def test_the_grid_is_the_product_with_the_full_model_once() -> None:
    cells = [search.cell(budget) for search in plan_of() for budget in search.budgets]
    assert len({key(cell) for cell in cells}) == len(cells) == 2 * 2 * (1 + 2 + 2)
    assert {cell["budget"] for cell in cells if cell["method"] == "full"} == {1.0}


def test_shards_share_the_grid_out() -> None:
    plan = plan_of()
    parts = [plan[shard::3] for shard in range(3)]
    assert sorted(map(plan.index, chain(*parts))) == list(range(len(plan)))


def test_cells_in_the_file_are_done_with_the_same_recipe_and_search_only(tmp_path: Path) -> None:
    plan = plan_of(backbones=["fm"], methods=["uniform"])
    rows = rows_of(tmp_path, [plan[0].cell(0.1), plan[1].cell(0.5) | {"recipe": "other"}])
    assert [search.missing(done_cells(rows)) for search in plan] == [[0.5], [0.5, 0.1]]
    changed = searches(Grid(["synthetic_100"], ["fm"], ["uniform"], [0.1], [1]), None, ["optimizer.lr=1e-4"])
    assert changed[0].missing(done_cells(rows)) == [0.1]


def test_the_time_left_is_that_of_cells_alike(tmp_path: Path) -> None:
    plan = plan_of(backbones=["fm"], seeds=[1, 2])
    full, _, pme = plan[:3]
    assert seconds_left(plan, rows_of(tmp_path, [])) is None
    rows = rows_of(
        tmp_path,
        [
            full.cell(1.0) | {"finetune_seconds": 10.0},
            pme.cell(0.5) | {"finetune_seconds": 4.0, "search_seconds": 3.0},
            pme.cell(0.1) | {"finetune_seconds": 6.0, "search_seconds": 3.0},
        ],
    )
    # Seed 1: uniform twice at the backbone's mean (20/3). Seed 2: full 10, uniform again, pme 5 + 5 and a search of 3.
    assert seconds_left(plan, rows) == pytest.approx(2 * 20 / 3 + 10 + 2 * 20 / 3 + 10 + 3)
    assert progress(plan, rows) == "3 of 10 cells done, about 50 s left"
    assert progress([full, pme], rows) == "3 of 3 cells done"
    rows = rows.with_columns(commit=pl.Series(["old", "new", "new"]))
    told = "3 of 3 cells done, 1 of them at other commits (another --out measures all anew)"
    assert progress([full, pme], rows, "new") == told
    assert progress([full, pme], rows[1:], "new") == "2 of 3 cells done, about 5 s left"
    assert describe(plan, rows)[0].split() == ["synthetic_100", "fm", "full", "100.0%", "1/2", "seeds"]


def test_a_recipe_is_the_shipped_experiment_where_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "frappe").mkdir()
    (tmp_path / "mine").mkdir()
    assert recipe("frappe", "deepfm", tmp_path).options == "experiment=frappe_deepfm"
    assert recipe("frappe", "fm", tmp_path).options == "experiment=frappe_fm"
    assert recipe("avazu_x1", "fm", tmp_path).options == "experiment=avazu_x1_deepfm backbone=fm"
    config = recipe("frappe", "fm", tmp_path).config()
    assert config.model.embedding_dim == 10
    assert config.backbone.class_path == "pme_lightning.backbones.FM"
    assert config.data.init_args.path == str(tmp_path / "frappe")
    assert recipe("mine", "fm", tmp_path).options == "data=parquet backbone=fm"
    big = recipe("synthetic_1e5", "fm", None).config()
    assert (big.data.init_args.tokens, big.data.init_args.rows) == (100_000, 2_000_000)


def test_a_fingerprint_changes_with_training_not_with_places(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder / "mine").mkdir(parents=True)
    base = recipe("mine", "fm", tmp_path / "a")
    assert recipe("mine", "fm", tmp_path / "b", ["data.cache_dir=x"]).fingerprint == base.fingerprint
    assert recipe("mine", "fm", tmp_path / "a", ["optimizer=adam_adagrad"]).fingerprint == base.fingerprint
    one, other = "optimizer=adam", "embedding_optimizer=torch.optim.SGD"
    words = ([], [one], [one, other], [other])
    assert len({recipe("mine", "fm", tmp_path / "a", each).fingerprint for each in words}) == 4
    for word in ("optimizer.lr=1e-4", "model.embedding_dim=8", "trainer.max_epochs=3", "data.batch_size=7"):
        assert recipe("mine", "fm", tmp_path / "a", [word]).fingerprint != base.fingerprint
    search = {"class_path": "x.Y", "init_args": {"budget": 0.2, "criterion": 1}}
    warm = recipe("mine", "fm", tmp_path / "a", ["transfer.init=warm"])
    assert warm.fingerprint == base.fingerprint
    # What was measured before values could have 16 bits is not measured again.
    assert base.composition.config["model"].pop("embedding_bits") == 32
    older = base.fingerprint
    assert recipe("mine", "fm", tmp_path / "a").fingerprint == older
    assert recipe("mine", "fm", tmp_path / "a", ["model.embedding_bits=16"]).fingerprint != older
    assert recipe("mine", "fm", tmp_path / "a", ["averaging=none"]).fingerprint == older
    averaged = [["averaging=ema"], ["averaging=ema", "averaging.decay=0.5"]]
    assert len({older, *(recipe("mine", "fm", tmp_path / "a", each).fingerprint for each in averaged)}) == 3
    assert warm.search_fingerprint(search) != base.search_fingerprint(search)
    other_budget = search | {"init_args": {"budget": 0.1, "criterion": 1}}
    assert base.search_fingerprint(other_budget) == base.search_fingerprint(search)
    assert base.search_fingerprint(None) == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("goodboks", "fm", None), "--data: 'goodboks' is neither synthetic_N nor one of .*--data-folder is not given"),
        (("goodboks", "fm", "nowhere"), "'nowhere/goodboks' is not there"),
        (("synthetic_100", "deepfn", None), "did you mean 'deepfm'"),
        (("synthetic_100", "fm", None, ["search.budget=0.1"]), "'search.budget=0.1': the grid sets that itself"),
        (("synthetic_100", "fm", None, ["data=csv"]), "'data=csv': the grid sets that itself"),
    ],
)
def test_what_is_not_there_is_said(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        recipe(*arguments)
