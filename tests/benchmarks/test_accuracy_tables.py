"""Tables and plots of small results that can be counted by hand."""

from __future__ import annotations

import math
from pathlib import Path

import polars as pl
import pytest
from accuracy_tables import mean_and_error, outcomes, paired, tables
from plot_accuracy import curve, plot
from tidy_results import SCHEMA

AUC = {
    ("full", 1.0): [0.80, 0.82, 0.81],
    ("uniform", 0.2): [0.70, 0.72, 0.74],
    ("popularity_.5", 0.2): [0.75, 0.73, 0.74],
    ("pme", 0.2): [0.76, 0.75, 0.77],
    ("uniform", 0.1): [0.60, 0.60, 0.60],
    ("popularity_.5", 0.1): [0.90],  # one seed: no match for a rule with all of them
    ("pme", 0.1): [0.59, 0.61],
}


@pytest.fixture
def rows() -> pl.DataFrame:
    cells = []
    for (method, budget), values in AUC.items():
        for seed, auc in enumerate(values, 1):
            cells.append(
                {"dataset": "d", "backbone": "fm", "method": method, "budget": budget, "seed": seed}
                | {"test_auc": auc, "test_logloss": 1 - auc, "kept_fraction": budget, "parameters": 1000}
                | {"finetune_seconds": 10.0, "search_seconds": 2.0, "note": "", "date": "2026-01-01"}
                | {"search_steps": 50 if method == "pme" else 0, "torch": "2", "threads": 1, "processor": "p"}
            )
    for method in ("uniform", "pme"):
        cells.append({"dataset": "d", "backbone": "fm", "method": method, "budget": 0.01, "seed": 1})
        cells[-1] |= {"note": "0.01 is a budget that nothing fits", "date": "2026-01-02"}
    return pl.DataFrame(cells, schema=SCHEMA)


def table(text: str, title: str) -> dict[str, list[str]]:
    """The cells of the table below a line, by the first column."""
    assert title in text
    block = text.partition(title)[2].lstrip(":\n").partition("\n\n")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
    return {line[0]: line[1:] for line in lines}


def test_means_have_the_standard_error_over_seeds() -> None:
    mean, error = mean_and_error([0.70, 0.72, 0.74])
    assert mean == pytest.approx(0.72)
    assert error == pytest.approx(0.02 / math.sqrt(3))
    assert mean_and_error([0.5]) == (0.5, None)


def test_differences_are_taken_seed_by_seed() -> None:
    assert paired({1: 0.5, 2: 0.7, 3: 0.1}, {2: 0.4, 3: 0.3, 4: 0.9}) == pytest.approx([0.3, -0.2])


def test_the_table_of_means(rows: pl.DataFrame) -> None:
    text = tables(rows, "test_auc")
    assert "Full size: test AUC 0.8100 ± 0.0058, 3 seeds, 1,000 embedding parameters." in text
    means = table(text, "Mean ± standard error of test AUC over 3 seeds")
    assert means["method"] == ["20%", "10%", "1%"]
    assert means["uniform"] == ["0.7200 ± 0.0115", "0.6000 ± 0.0000", "does not fit"]
    assert means["popularity_.5"] == ["0.7400 ± 0.0058", "0.9000 (n=1)", "-"]
    assert list(means)[2:] == ["uniform", "popularity_.5", "pme"]


def test_differences_to_the_best_rule_and_to_the_full_model(rows: pl.DataFrame) -> None:
    text = tables(rows, "test_auc")
    rule = table(text, "to the best simple rule at the same budget")
    assert rule["popularity_.5"][0] == "best rule"
    assert rule["uniform"][1] == "best rule"
    # .01, .02, .03: mean .02, standard error .01/sqrt(3); beyond twice that, so marked.
    assert rule["pme"] == ["+0.0200 ± 0.0058 \\*", "+0.0000 ± 0.0100 (n=2)", "-"]
    full = table(text, "to the full-size model")
    assert full["pme"][0] == "-0.0500 ± 0.0100 \\*"


def test_the_best_rule_by_logloss_is_the_one_with_the_lowest(rows: pl.DataFrame) -> None:
    (outcome,) = outcomes(rows).values()
    assert outcome.best_rule(0.2, "test_logloss") == "popularity_.5"
    assert table(tables(rows, "test_logloss"), "best simple rule at the same budget")["pme"][0].startswith("-0.0200")


def test_search_cost_is_a_share_of_the_full_run(rows: pl.DataFrame) -> None:
    cost = table(tables(rows, "test_auc"), "Search cost (one search serves all budgets)")
    assert cost["pme"] == ["50", "2.0", "20.0%"]
    assert "uniform" not in cost


def test_a_curve_has_its_points_by_rising_fraction(rows: pl.DataFrame) -> None:
    (outcome,) = outcomes(rows).values()
    points = curve(outcome, "uniform", "test_auc")
    assert [point[0] for point in points] == pytest.approx([0.1, 0.2])
    assert points[1][1:] == pytest.approx((0.72, 0.02))


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_plots_are_written_and_the_same_each_time(rows: pl.DataFrame, tmp_path: Path, kind: str) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is the bench extra")
    (first,), (second,) = (plot(rows, tmp_path / name, kind) for name in ("a", "b"))
    assert first.name == f"accuracy_d_fm.{kind}"
    assert first.read_bytes() == second.read_bytes()
    if kind == "svg":
        text = first.read_text()
        assert all(name in text for name in ("popularity_.5", "uniform", "pme", "full size", "test logloss", "20%"))
