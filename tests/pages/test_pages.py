"""Pages of runs that never ran: every number in its place, and nothing that a name says is taken for HTML."""

from __future__ import annotations

import doctest
import importlib
import json
import pkgutil
from pathlib import Path

import pytest
from page_text import Page
from run_folders import model, write_run

import pme_lightning.pages
from pme_lightning import headline
from pme_lightning.dashboards.result_charts import models_of
from pme_lightning.errors import BadInput
from pme_lightning.measures import MEASURES
from pme_lightning.pages.comparison_page import comparison_page, config_differences, run_names
from pme_lightning.pages.pareto_chart import Point, pareto_front
from pme_lightning.pages.run_page import write_run_page
from pme_lightning.pages.saved_run import read_run
from pme_lightning.pages.written import write_page

HOSTILE = "<script>alert('x')</script>\"&'"
MODULES = [f"pme_lightning.pages.{module.name}" for module in pkgutil.iter_modules(pme_lightning.pages.__path__)]


@pytest.mark.parametrize("module", [*MODULES, "pme_lightning.json_shape"])
def test_examples_in_docstrings_hold(module: str) -> None:
    assert doctest.testmod(importlib.import_module(module)).failed == 0


def test_the_headline_is_that_of_the_summary(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", ["user", "item"])
    page = Page(write_run_page(folder))
    models = {row[""]: (row["full-size"], row["multi-size"]) for row in page.table("", "full-size")}
    assert models["test AUC"] == ("0.7600", "0.7500")
    assert models["embedding parameters"] == ("10,000", "2,000")
    assert "Saved 80.0% of the embedding's bytes; AUC -0.0100" in page.text
    assert [
        heading for heading in page.headings if heading in ("Result", "Sizes", "Search", "Training", "Repeat it")
    ] == [
        "Result",
        "Sizes",
        "Search",
        "Training",
        "Repeat it",
    ]


@pytest.mark.parametrize("command", ["search", "fit", "validate", "predict"])
def test_what_was_not_measured_is_left_out(tmp_path: Path, command: str) -> None:
    page = Page(write_run_page(write_run(tmp_path / "run", ["a"], auc=None, baseline=None, command=command)))
    assert "test AUC" not in {row[""] for row in page.table("")}
    assert "None" not in page.text


@pytest.mark.parametrize("command", ["pme", "finetune"])
def test_sizes_that_sum_to_the_full_size_table_are_sizes_still(tmp_path: Path, command: str) -> None:
    folder = write_run(tmp_path / "run", ["user"], command=command, baseline=0.76 if command == "pme" else None)
    summary = json.loads((folder / "summary.json").read_text()) | model(0.75, 1.0)
    summary["search"] = summary["search"] if command == "pme" else None
    (folder / "summary.json").write_text(json.dumps(summary))
    named = [name for name, _ in headline.columns(summary)]
    assert named == (["full-size", "multi-size"] if command == "pme" else ["multi-size"])
    assert [name for name, _ in models_of(summary)] == named
    assert Page(write_run_page(folder)).table("", *named)[0]["multi-size"] == "0.7500"
    write_page(comparison_page([read_run(folder), read_run(folder)], tmp_path / "c.html"), tmp_path / "c.html")
    assert Page(tmp_path / "c.html").table("run")[0]["budget"] == ("20%" if command == "pme" else "-")


def test_a_run_without_findings_still_has_its_result(tmp_path: Path) -> None:
    page = Page(write_run_page(write_run(tmp_path / "run", ["a"], findings=False)))
    assert "svg" not in page.names
    assert "Repeat it" in page.headings


def test_names_are_text_wherever_they_stand(tmp_path: Path) -> None:
    fields = [HOSTILE, "item", *(f"{HOSTILE}{i}" for i in range(20))]
    config = {"data": {"label": HOSTILE}}
    folders = [
        write_run(tmp_path / f"<b>{name}", fields, budgets=budgets, config=config)
        for name, budgets in (("one", ()), ("two", ("0.5", "0.1")))
    ]
    for folder in folders:
        page = Page(write_run_page(folder))
        assert "script" not in page.names
        assert "b" in page.names
        assert HOSTILE in [
            row["field"] for row in page.table("field", "tokens", *(["mean size"] if "one" in str(folder) else ["0.5"]))
        ] or "two" in str(folder)
        assert HOSTILE in page.text
    out = tmp_path / "c.html"
    write_page(comparison_page([read_run(folder) for folder in folders], out), out)
    page = Page(out)
    assert "script" not in page.names
    assert {row["run"] for row in page.table("run")} == {"<b>one", "<b>two"}


def test_a_comparison_tells_every_model(tmp_path: Path) -> None:
    write_run(tmp_path / "a", ["x"], auc=0.75)
    write_run(tmp_path / "b", ["x"], auc=0.70, baseline=None, budgets=("0.5", "0.1"), config={"seed": 8})
    out = tmp_path / "c.html"
    write_run_page(tmp_path / "a")
    write_page(comparison_page([read_run(tmp_path / name) for name in "ab"], out), out)
    page = Page(out)
    rows = [(row["run"], row["budget"], row["kept"], row["test AUC"]) for row in page.table("run")]
    assert rows == [
        ("a", "20%", "20.0%", "0.7500"),
        ("a", "full size", "100.0%", "0.7600"),
        ("b", "0.5", "50.0%", "0.7000"),
        ("b", "0.1", "10.0%", "0.7010"),
    ]
    assert page.table("key") == [{"key": "seed", "a": "7", "b": "8"}]
    text = out.read_text()
    assert 'href="a/report.html"' in text
    assert 'href="b/report.html"' not in text, "b has no report to go to"


def test_a_run_without_test_rows_was_not_tested_on_others(tmp_path: Path) -> None:
    write_run(tmp_path / "a", ["x"], rows=1000)
    file = write_run(tmp_path / "b", ["x"], rows=1000) / "summary.json"
    summary = json.loads(file.read_text())
    summary["data"]["rows"] = {"predict": 5}
    file.write_text(json.dumps(summary))
    out = tmp_path / "c.html"
    write_page(comparison_page([read_run(tmp_path / name) for name in "ab"], out), out)
    assert "not all tested on the same rows" not in Page(out).text


def test_an_export_is_compared_beside_its_checkpoint(tmp_path: Path) -> None:
    file = write_run(tmp_path / "a", ["x"], rows=1000) / "summary.json"
    summary = json.loads(file.read_text())
    summary["exported"] = {"embedding": summary["embedding"] | {"bytes": 77}, "valid": {"auc": 0.7, "logloss": 0.5}}
    file.write_text(json.dumps(summary | {"baseline": None, "pareto": None}))
    write_run(tmp_path / "b", ["x"], rows=1000)
    out = tmp_path / "c.html"
    write_page(comparison_page([read_run(tmp_path / name) for name in "ab"], out), out)
    rows = [row for row in Page(out).table("run") if row["run"] == "a"]
    assert [row["budget"] for row in rows] == ["checkpoint", "exported"]
    assert rows[1]["bytes"] == "77"


def test_runs_on_other_rows_are_kept_apart(tmp_path: Path) -> None:
    for name, rows in (("a", 1000), ("b", 2000), ("c", 1000)):
        write_run(tmp_path / name, ["x"], rows=rows)
    out = tmp_path / "c.html"
    write_page(comparison_page([read_run(tmp_path / name) for name in "abc"], out), out)
    page = Page(out)
    assert "not all tested on the same rows" in page.text
    assert [h for h in page.headings if h.startswith("Accuracy")] == [
        "Accuracy over size: clicks, 1,000 test rows",
        "Accuracy over size: clicks, 2,000 test rows",
    ]


@pytest.mark.parametrize(
    ("clicks", "groups"), [([250, 250, 251], 2), ([250, 251, None], 1), ([None, None, None], 1)], ids=str
)
def test_runs_that_drew_other_test_rows_of_one_file_are_kept_apart(
    tmp_path: Path, clicks: list[int | None], groups: int
) -> None:
    for name, count in zip("abc", clicks, strict=True):
        file = write_run(tmp_path / name, ["x"]) / "summary.json"
        summary = json.loads(file.read_text())
        summary["data"] |= {} if count is None else {"test_clicks": count}
        file.write_text(json.dumps(summary))
    out = tmp_path / "c.html"
    write_page(comparison_page([read_run(tmp_path / name) for name in "abc"], out), out)
    page = Page(out)
    assert ("not all tested on the same rows" in page.text) == (groups > 1)
    assert len([h for h in page.headings if h.startswith("Accuracy")]) == groups


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [read_run(write_run(tmp_path / place / "run", ["x"])) for place in ("a", "b")]
    assert run_names(runs) == ["a/run", "b/run"]
    assert run_names(runs[:1]) == ["run"]


def test_values_of_a_configuration_are_told_as_they_are_written() -> None:
    first = {"a": 1.0, "b": True, "c": None, "d": [1, 2], "run_dir": "x"}
    second = {"a": True, "b": 1, "c": "null", "d": [1], "run_dir": "y"}
    assert config_differences([first, second]) == {"a": ["1.0", "true"], "b": ["true", "1"], "d": ["[1, 2]", "[1]"]}


def test_the_front_is_what_no_other_beats() -> None:
    points = [
        Point("", kept, auc, 1 - auc) for kept, auc in ((0.5, 0.7), (0.1, 0.6), (0.2, 0.65), (0.3, 0.64), (0.1, 0.5))
    ]
    for measure in MEASURES:
        assert [point.kept for point in pareto_front(points, measure)] == [0.1, 0.2, 0.5]


def test_nobody_elses_file_is_replaced(tmp_path: Path) -> None:
    theirs = tmp_path / "report.html"
    theirs.write_text("<html>mine</html>")
    with pytest.raises(BadInput, match="not a page of ours"):
        write_page("", theirs)
    assert theirs.read_text() == "<html>mine</html>"
    with pytest.raises(BadInput, match="is a folder"):
        write_page("", tmp_path)
    with pytest.raises(BadInput, match="there is no folder"):
        write_page("", tmp_path / "x" / "y.html")
    folder = write_run(tmp_path / "run", ["x"])
    first = write_run_page(folder).read_text()
    assert write_run_page(folder).read_text() == first
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "summary.json", "findings.json", "report.html"}
