"""The sweep files, the command lines that an agent makes of them, and a run that an agent starts."""

from __future__ import annotations

import importlib.resources
import itertools
import os
import queue
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args
from wandb.wandb_agent import Agent

from pme_lightning.configuration.command_line import parse_words
from pme_lightning.configuration.composition import compose
from pme_lightning.configuration.group_files import GROUPS
from pme_lightning.configuration.parser import parse_config

# As an installed package has them.
FILES = sorted(Path(str(importlib.resources.files("pme_lightning.configs"))).glob("sweep/*.yaml"))
BETTER = {"best_valid_auc": "maximize", "best_valid_logloss": "minimize"}


def points(sweep: dict[str, Any]) -> list[dict[str, Any]]:
    """What an agent is given to run: every point of a grid, both ends of a range."""
    ends = {name: p["values"] if "values" in p else [p["min"], p["max"]] for name, p in sweep["parameters"].items()}
    return [dict(zip(ends, values, strict=True)) for values in itertools.product(*ends.values())]


def command_line(sweep: dict[str, Any], point: dict[str, Any], form: str = "args") -> list[str]:
    """The words that an agent puts behind ``python -m pme_lightning``."""
    formed = create_sweep_command_args({"args": {name: {"value": value} for name, value in point.items()}})
    words: list[str] = []
    for word in create_sweep_command(list(sweep["command"])):
        words += formed[form] if word == "${args}" else [] if word in ("${env}", "${interpreter}") else [str(word)]
    assert words[:2] == ["-m", "pme_lightning"]
    return words[2:]


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def sweep(request: pytest.FixtureRequest) -> dict[str, Any]:
    """One of the sweep files."""
    return yaml.safe_load(request.param.read_text())


def test_there_are_sweeps_and_they_are_no_choices_of_a_run() -> None:
    assert {file.stem for file in FILES} >= {"backbone_budget", "learning_rates"}
    assert "sweep" not in GROUPS


def test_the_metric_is_logged_and_its_goal_is_right(sweep: dict[str, Any], pme_run: Any) -> None:
    name = sweep["metric"]["name"]
    assert name in pme_run.keys
    assert name in pme_run.summary
    # A choice among runs is made on the validation split.
    assert sweep["metric"]["goal"] == BETTER[name.partition("/")[2]]
    command = command_line(sweep, points(sweep)[0])[0]
    assert name.partition("/")[0] == {"pme": "finetune", "fit": "full"}[command]


def test_every_point_is_a_command_line_with_or_without_dashes(sweep: dict[str, Any]) -> None:
    for point in points(sweep):
        words = command_line(sweep, point)
        assert all(f"--{name}={value}" in words for name, value in point.items())
        dashed, bare = (compose(parse_words(command_line(sweep, point, f))) for f in ("args", "args_no_hyphens"))
        apart = compose(parse_words(command_line(sweep, point, "args_no_equals")))
        assert dashed == bare == apart
    _, config = parse_config(dashed)
    assert config.logger.class_path == "pme_lightning.dashboards.RunLogger"
    for name, value in point.items():
        if name not in GROUPS:
            assert config[name.replace(".", ".init_args.")] == value


@pytest.mark.slow
def test_a_run_that_an_agent_starts(
    small: list[str], tmp_path: Path, read_all: Callable[[Path], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = yaml.safe_load((FILES[0].parent / "backbone_budget.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for name, value in {"PATH": path, "WANDB_SWEEP_ID": "s1", "WANDB_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(name, "")  # set by the agent, taken back after the test
    words = [*small, "backbone.hidden_units=[8]", "trainer.max_epochs=30"]
    agent = Agent(api=None, queue=queue.Queue(), sweep_id="s1")
    agent._sweep_command = [*sweep["command"][:-1], *words, sweep["command"][-1]]
    point = {"backbone": {"value": "dcn"}, "search.budget": {"value": 0.5}}
    agent._command_run({"type": "run", "run_id": "r1s2t3u4", "program": "train.py", "args": point})
    assert agent._run_processes["r1s2t3u4"].wait() == 0
    (folder,) = (tmp_path / "runs").iterdir()
    (run,) = read_all(folder)
    assert run.id == "r1s2t3u4"
    assert run.group == "backbone-x-budget"
    # The sweep's own names are those of its charts.
    assert (run.config["backbone"], run.config["search.budget"]) == ("dcn", 0.5)
    assert run.config["search"]["init_args"]["budget"] == 0.5
    assert run.summary["embedding"]["fraction"] == pytest.approx(0.5, abs=0.01)
    best = run.series("finetune/best_valid_auc")
    # Early stopping has ended it: one validation without gain.
    assert len(best) == run.summary["finetune"]["epochs"] < 30
    assert best[-1] == best[-2] == max(run.series("finetune/valid_auc"))
