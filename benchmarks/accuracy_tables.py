"""Markdown tables of the results: means over seeds, and differences paired by seed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from statistics import fmean, stdev
from typing import Any

import polars as pl
from methods import METHODS

METRICS = {"test_auc": "test AUC", "test_logloss": "test logloss"}
# Whether more is better.
_SIGN = {"test_auc": 1, "test_logloss": -1}
_NO_FIT = "does not fit"
# The standard error of two differences says next to nothing: with fewer than this many, none is marked.
_ENOUGH_SEEDS = 3


class Outcome:
    """The cells of one data set and backbone.

    Args:
        rows: Their rows, of one recipe and one search a method (:func:`tidy_results.current_rows`).
    """

    def __init__(self, rows: pl.DataFrame) -> None:
        self.rows = rows.to_dicts()
        self.full = [row for row in self.rows if row["method"] == "full"]
        methods = {row["method"] for row in self.rows} - {"full"}
        self.methods = [name for name in METHODS if name in methods] + sorted(methods - METHODS.keys())
        self.budgets = sorted({row["budget"] for row in self.rows if row["method"] != "full"}, reverse=True)
        self._cells: dict[tuple[str, float], list[dict[str, Any]]] = defaultdict(list)
        for row in self.rows:
            self._cells[row["method"], row["budget"]].append(row)

    def values(self, method: str, budget: float, metric: str) -> dict[int, float]:
        """Returns a metric by seed; cells without one are left out."""
        cells = self._cells.get((method, 1.0 if method == "full" else budget), [])
        return {row["seed"]: row[metric] for row in cells if row[metric] is not None and math.isfinite(row[metric])}

    def notes(self, method: str, budget: float) -> list[str]:
        """Returns what was noted where there are no metrics."""
        return [row["note"] for row in self._cells.get((method, budget), []) if row["note"]]

    def best_rule(self, budget: float, metric: str) -> str | None:
        """Returns the simple rule with the best mean at a budget, among those with the most seeds.

        It is chosen by what it is compared on, in the rule's favour.
        """
        measured = {name: self.values(name, budget, metric) for name in self.methods if is_rule(name)}
        seeds = max((len(values) for values in measured.values()), default=0)
        whole = {name: values for name, values in measured.items() if values and len(values) == seeds}
        return max(whole, key=lambda name: _SIGN[metric] * fmean(whole[name].values()), default=None)


def is_rule(method: str) -> bool:
    """Whether a method is a simple rule."""
    return method in METHODS and METHODS[method].rule


def mean_and_error(values: Iterable[float]) -> tuple[float, float | None]:
    """Returns the mean and its standard error; None for the error of a single value."""
    values = list(values)
    return fmean(values), stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def paired(values: dict[int, float], base: dict[int, float]) -> list[float]:
    """Returns the differences to a base, seed by seed, of the seeds that both have."""
    return [values[seed] - base[seed] for seed in sorted(values.keys() & base.keys())]


def outcomes(rows: pl.DataFrame) -> dict[tuple[str, str], Outcome]:
    """Returns what was measured on each data set with each backbone."""
    parts = rows.partition_by("dataset", "backbone", maintain_order=True, as_dict=True)
    return {(str(dataset), str(backbone)): Outcome(part) for (dataset, backbone), part in parts.items()}


def tables(rows: pl.DataFrame, metric: str) -> str:
    """Returns all tables of a metric as Markdown.

    Args:
        rows: The rows that can be compared with one another.
        metric: A key of :data:`METRICS`.
    """
    sections = [
        _section(f"{dataset}, {backbone}", outcome, metric) for (dataset, backbone), outcome in outcomes(rows).items()
    ]
    return "\n\n".join([*sections, _made_on(rows)]) + "\n"


def _section(title: str, outcome: Outcome, metric: str) -> str:
    name = METRICS[metric]
    full = outcome.values("full", 1.0, metric)
    best = {budget: outcome.best_rule(budget, metric) for budget in outcome.budgets}
    seeds = max((len(outcome.values(m, b, metric)) for m in outcome.methods for b in outcome.budgets), default=0)

    def mean(method: str, budget: float) -> str:
        values = outcome.values(method, budget, metric)
        if not values:
            # The budget is at fault where no seed has a metric and the note says so.
            return _NO_FIT if any("nothing fits" in note for note in outcome.notes(method, budget)) else "-"
        return figure(*mean_and_error(values.values())) + _count(len(values), seeds)

    def against(base: Callable[[float], dict[int, float]]) -> Callable[[str, float], str]:
        def difference(method: str, budget: float) -> str:
            if method == best[budget] and base is to_rule:
                return "best rule"
            differences = paired(outcome.values(method, budget, metric), base(budget))
            if not differences:
                return "-"
            value, error = mean_and_error(differences)
            marked = error is not None and len(differences) >= _ENOUGH_SEEDS and abs(value) > 2 * error
            mark = " \\*" if marked else ""
            return figure(value, error, sign=True) + mark + _count(len(differences), seeds)

        return difference

    def to_rule(budget: float) -> dict[int, float]:
        rule = best[budget]
        return outcome.values(rule, budget, metric) if rule else {}

    parts = [f"### {title}"]
    if full:
        row = outcome.full[0]
        mean_of_full = figure(*mean_and_error(full.values()))
        parts.append(
            f"Full size: {name} {mean_of_full}, {len(full)} seeds, {row['parameters']:,} embedding parameters."
        )
    parts += [f"Mean ± standard error of {name} over {seeds} seeds:", _table(outcome, mean)]
    if any(best.values()):
        parts += [
            f"Difference in {name} to the best simple rule at the same budget:",
            _table(outcome, against(to_rule)),
        ]
    if full and outcome.methods:
        parts += [f"Difference in {name} to the full-size model:", _table(outcome, against(lambda _: full))]
    cost = _search_cost(outcome)
    if cost:
        parts += ["Search cost (one search serves all budgets):", cost]
    return "\n\n".join(parts)


def _table(outcome: Outcome, cell: Callable[[str, float], str]) -> str:
    head = ["method", *(_percent(budget) for budget in outcome.budgets)]
    body = [[method, *(cell(method, budget) for budget in outcome.budgets)] for method in outcome.methods]
    return markdown(head, body)


def _search_cost(outcome: Outcome) -> str:
    full = {row["seed"]: row["finetune_seconds"] for row in outcome.full if row["finetune_seconds"]}
    body = []
    for method in outcome.methods:
        rows = [row for row in outcome.rows if row["method"] == method and row["search_steps"]]
        if not rows:
            continue
        # All budgets of a seed name the same search, but for those that were run after a kill.
        seconds = {row["seed"]: row["search_seconds"] for row in rows}
        shares = [seconds[seed] / full[seed] for seed in seconds.keys() & full.keys()]
        steps = fmean({row["seed"]: row["search_steps"] for row in rows}.values())
        share = f"{fmean(shares):.1%}" if shares else "-"
        body.append([method, f"{steps:,.0f}", f"{fmean(seconds.values()):.1f}", share])
    return markdown(["method", "steps", "seconds", "of a full-size run"], body) if body else ""


def _made_on(rows: pl.DataFrame) -> str:
    def named(column: str) -> str:
        return ", ".join(str(value) for value in rows[column].unique(maintain_order=True))

    days = sorted({date[:10] for date in rows["date"]})
    return (
        "Differences are paired by seed; \\* marks those beyond twice their standard error "
        f"(from {_ENOUGH_SEEDS} seeds on). The best rule is chosen by "
        "the figures it is compared on, in its own favour. Budgets and bytes count everything in the embedding: "
        "first-order weights, projection and index.\n\n"
        f"{len(rows)} cells of {' to '.join(dict.fromkeys([days[0], days[-1]]))} on {named('processor')}, "
        f"{named('threads')} threads, torch {named('torch')}, commit {named('commit')}."
    )


def markdown(head: list[str], body: list[list[str]]) -> str:
    """Returns a table as Markdown; columns but the first are figures."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def figure(value: float, error: float | None, sign: bool = False) -> str:
    """Returns a mean with its standard error, if there is one."""
    return f"{value:{'+' if sign else ''}.4f}" + ("" if error is None else f" ± {error:.4f}")


def _count(seeds: int, of: int) -> str:
    return "" if seeds == of else f" (n={seeds})"


def _percent(budget: float) -> str:
    return f"{100 * budget:.4g}%"
