"""Folders of runs, whole and damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from run_folders import write_run

from pme_lightning.errors import BadInput
from pme_lightning.json_shape import Optional, misfit
from pme_lightning.pages.saved_run import read_run


def test_a_whole_run_is_read(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "a", ["x", "y"], budgets=("0.5", "0.1")))
    assert run.name == "a"
    assert [point["budget"] for point in run.summary["pareto"]] == ["0.5", "0.1"]
    assert list(run.findings["sizes"]) == ["0.5", "0.1"]
    assert run.config["backbone"]["class_path"].endswith("FM")


def test_a_run_without_findings_is_read(tmp_path: Path) -> None:
    assert read_run(write_run(tmp_path / "a", ["x"], findings=False)).findings == {}


def test_folders_that_are_no_runs_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no folder"):
        read_run(tmp_path / "nowhere")
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(BadInput, match="is a file; name the folder of the run"):
        read_run(file)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"is no run folder: it has no config\.yaml"):
        read_run(tmp_path / "empty")
    write_run(tmp_path / "runs" / "a", ["x"])
    with pytest.raises(BadInput, match=r"it holds 1 of them, such as '.*runs/a'"):
        read_run(tmp_path / "runs")
    (tmp_path / "runs" / "a" / "summary.json").unlink()
    with pytest.raises(BadInput, match=r"is not complete.*resume="):
        read_run(tmp_path / "runs" / "a")


@pytest.mark.parametrize(
    ("file", "before", "after", "message"),
    [
        ("summary.json", '"embedding"', "", "is damaged: Expecting"),
        ("summary.json", '"command"', '"x"', "command is missing"),
        ("summary.json", '"fraction": 0.2', '"fraction": "0.2"', r"embedding\.fraction is '0\.2', not a number"),
        ("summary.json", '"fraction": 0.2', '"fraction": NaN', "NaN is no number"),
        ("summary.json", '"version": 1', '"version": 2', "has version 2"),
        ("summary.json", "clicks", "\x80", "is damaged: 'utf-8' codec"),
        ("findings.json", '"histogram"', '"h"', r"sizes\.20%\.histogram is missing"),
        ("findings.json", "[0.5, 0.7]", "[0.5]", r"loss\[0\] has 1 entries, not 2"),
        ("config.yaml", "command:", "command", "is not valid YAML"),
    ],
)
def test_damage_is_told_in_a_line(tmp_path: Path, file: str, before: str, after: str, message: str) -> None:
    folder = write_run(tmp_path / "a", ["x"])
    whole = (folder / file).read_text()
    assert before in whole
    (folder / file).write_bytes(whole.replace(before, after).encode("latin-1"))
    with pytest.raises(BadInput, match=message) as error:
        read_run(folder)
    assert "\n" not in str(error.value)
    assert file in str(error.value)


def test_shapes() -> None:
    assert misfit({"a": 1, "more": None}, {"a": float, "b": Optional([int])}) is None
    assert misfit(True, int) == "it is True, not a whole number"
    assert misfit({"a": {"x": "y"}}, {"a": {str: int}}) == "a.x is 'y', not a whole number"
    assert misfit({"a": 3}, {"a": [int]}) == "a is 3, not a list"
    assert misfit(json.loads('{"a": null}'), {"a": str}) == "a is None, not a text"
