"""The cells of the grid, which of them are done, and how long the others will take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

import polars as pl
from methods import search_config
from recipes import Recipe, recipe
from tidy_results import KEY

from pme_lightning.configuration.group_files import GroupFiles


class Grid(NamedTuple):
    """What is crossed with what."""

    datasets: list[str]
    backbones: list[str]
    methods: list[str]
    budgets: list[float]
    seeds: list[int]


@dataclass(frozen=True)
class Search:
    """The cells that one search serves: those of all budgets.

    Attributes:
        dataset: Name of the data set.
        backbone: A choice of the ``backbone`` group.
        method: A name of the table of methods.
        seed: Of everything random.
        budgets: Fractions of the full per-token parameters; 1 alone for the full-size model.
        recipe: How to train.
        config: What describes the search; None for the full-size model.
    """

    dataset: str
    backbone: str
    method: str
    seed: int
    budgets: tuple[float, ...]
    recipe: Recipe
    config: dict[str, Any] | None

    def cell(self, budget: float) -> dict[str, Any]:
        """Returns the columns that tell a cell from all others."""
        return {
            "dataset": self.dataset,
            "backbone": self.backbone,
            "method": self.method,
            "budget": budget,
            "seed": self.seed,
            "recipe": self.recipe.fingerprint,
            "search": self.recipe.search_fingerprint(self.config),
        }

    def missing(self, done: set[tuple[Any, ...]]) -> list[float]:
        """Returns the budgets whose cells are not done yet."""
        return [budget for budget in self.budgets if key(self.cell(budget)) not in done]


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    """Returns what tells a cell from all others, as a key."""
    return tuple(row[column] for column in KEY)


def done_cells(rows: pl.DataFrame) -> set[tuple[Any, ...]]:
    """Returns the keys of the cells that are done."""
    return set(rows.select(KEY).iter_rows())


def searches(grid: Grid, data_folder: str | None, extra: Iterable[str] = ()) -> list[Search]:
    """Returns the grid in the order in which it is run: whole seeds one after the other, data set by data set.

    Raises:
        BadInput: A data set, a backbone or a word is unknown.
    """
    return list(_searches(grid, data_folder, tuple(extra)))


def _searches(grid: Grid, data_folder: str | None, extra: tuple[str, ...]) -> Iterator[Search]:
    configs = {method: search_config(method, GroupFiles()) for method in grid.methods}
    for dataset in grid.datasets:
        recipes = {backbone: recipe(dataset, backbone, data_folder, extra) for backbone in grid.backbones}
        for seed in grid.seeds:
            for backbone in grid.backbones:
                for method, config in configs.items():
                    budgets = (1.0,) if config is None else tuple(grid.budgets)
                    yield Search(dataset, backbone, method, seed, budgets, recipes[backbone], config)


def describe(plan: list[Search], rows: pl.DataFrame) -> list[str]:
    """Returns a line for each data set, backbone, method and budget: how many seeds are done."""
    done = done_cells(rows)
    counts: dict[tuple[str, str, str, float], list[int]] = {}
    for search in plan:
        for budget in search.budgets:
            count = counts.setdefault((search.dataset, search.backbone, search.method, budget), [0, 0])
            count[0] += key(search.cell(budget)) in done
            count[1] += 1
    return [
        f"{dataset:<16}{backbone:<14}{method:<16}{budget:>6.1%}  {ready}/{of} seeds"
        for (dataset, backbone, method, budget), (ready, of) in counts.items()
    ]


def progress(plan: list[Search], rows: pl.DataFrame, commit: str | None = None) -> str:
    """Returns how many cells are done and about how long the others will take, by the cells done so far.

    Args:
        plan: The grid.
        rows: The results.
        commit: The one at work: how many cells were done at others is told.
    """
    done = done_cells(rows)
    total = sum(len(search.budgets) for search in plan)
    left = sum(len(search.missing(done)) for search in plan)
    text = f"{total - left} of {total} cells done"
    if commit is not None:
        own = done_cells(rows.filter(pl.col("commit") == commit))
        other = sum(len(search.missing(own)) for search in plan) - left
        text += f", {other} of them at other commits (another --out measures all anew)" if other else ""
    seconds = seconds_left(plan, rows)
    if left and seconds is not None:
        text += f", about {_duration(seconds)} left"
    elif left:
        text += ", no estimate before the first one"
    return text


def seconds_left(plan: list[Search], rows: pl.DataFrame) -> float | None:
    """Returns about how many seconds of search and training are missing; None as long as nothing was measured.

    A cell is taken to last as long as those like it: of its method, else of its backbone, else of its data set, else
    any. A search that is still needed counts once.
    """
    done, measured = done_cells(rows), rows.drop_nulls("finetune_seconds").to_dicts()
    if not measured:
        return None
    total = 0.0
    for search in plan:
        missing = len(search.missing(done))
        if missing:
            like = _like(search, measured)
            total += missing * fmean(row["finetune_seconds"] for row in like)
            if search.config is not None:
                # A rule searches in no time: only searches of the same method tell how long one takes.
                total += fmean([r["search_seconds"] or 0.0 for r in like if r["method"] == search.method] or [0.0])
    return total


def _like(search: Search, measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = ("dataset", "backbone", "method")
    for depth in range(len(names), 0, -1):
        like = [row for row in measured if all(row[name] == getattr(search, name) for name in names[:depth])]
        if like:
            return like
    return measured


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"
