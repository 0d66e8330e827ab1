"""A run that was killed goes on where it was, and ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import yaml

from pme_lightning.cli import main
from pme_lightning.configuration.composition import merge
from pme_lightning.data import ClickDataModule
from pme_lightning.errors import BadInput
from pme_lightning.runs.folder import RunFolder
from pme_lightning.runs.resuming import check_same_config, check_same_data, data_facts
from pme_lightning.runs.runner import Runner
from pme_lightning.search import SearchResult

ROOT = Path(__file__).parents[2]
WORDS = ["backbone.hidden_units=[16]", "backbone.dropout=0.2", "data.rows=6000", "data.tokens=600", "data.num_fields=4"]
WORDS += ["data.batch_size=64", "model.embedding_dim=8", "trainer.max_epochs=3", "early_stopping.patience=9"]
WORDS += ["search.budget=0.3", "logger=csv", "checkpoint_every_n_steps=10"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("checkpoints/*/*.ckpt")):
        state = torch.load(path, weights_only=True)["state_dict"]
        found |= {f"{path.relative_to(folder)}: {name}": value for name, value in state.items()}
    return found


def killed(folder: Path, said: str, *words: str, resumes: bool = False) -> None:
    """Starts a run, and kills it soon after it has said something."""
    where = f"resume={folder}" if resumes else f"run_dir={folder}"
    process = subprocess.Popen(
        [sys.executable, "-u", str(ROOT / "train.py"), *words, where],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if said in line:
            break
    else:
        pytest.fail(f"the run ended before it said {said!r}: {process.stderr.read() if process.stderr else ''}")
    # Into the midst of what comes next.
    try:
        process.wait(0.15)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    main([*WORDS, f"run_dir={folder}"])
    return folder


@pytest.mark.slow
def test_killed_in_every_phase_it_ends_the_same(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "killed"
    killed(folder, "search: epoch 1", *WORDS)
    assert (folder / "checkpoints" / "search" / "resume.ckpt").is_file()
    # Named alone, the folder brings its whole configuration.
    killed(folder, "finetune: epoch 1", resumes=True)
    assert json.loads((folder / "progress.json").read_text())["search"]["kept"]
    killed(folder, "full: epoch 2", *WORDS, resumes=True)
    # A folder may be moved: the best model so far is found in it.
    folder = folder.rename(tmp_path / "moved")
    main([*WORDS, f"resume={folder}", f"run_dir={folder}"])
    said = capsys.readouterr().out
    assert "search: was done before" in said
    assert "finetune: was done before" in said
    assert "goes on from" in said

    sizes, expected = (SearchResult.load(each / "sizes.safetensors") for each in (folder, whole))
    assert torch.equal(sizes.sizes, expected.sizes)
    assert sizes.linear is not None
    assert torch.equal(sizes.linear, expected.linear)
    found, others = weights(folder), weights(whole)
    assert list(found) == list(others)
    assert not [name for name, value in found.items() if not torch.equal(value, others[name])]
    first, second = (json.loads((each / "summary.json").read_text()) for each in (folder, whole))
    for one, other in ((first, second), (first["baseline"], second["baseline"])):
        assert one["test"] == other["test"]
        assert one["finetune"]["epochs"] == other["finetune"]["epochs"]
        assert one["finetune"]["best_epoch"] == other["finetune"]["best_epoch"]
    assert {path.name for path in folder.iterdir()} == {path.name for path in whole.iterdir()}
    assert not list(folder.rglob(".*partial"))
    # Curves, schedule, scores and sizes, to the last digit.
    findings = [json.loads((each / "findings.json").read_text()) for each in (folder, whole)]
    assert findings[0] == findings[1]
    for phase in ("search", "finetune", "full"):
        first_curve, second_curve = (pl.read_csv(each / "logs" / phase / "metrics.csv") for each in (folder, whole))
        # The summary, which the last phase logs, tells of seconds, and so does the speed.
        timed = ("summary/", "rows_per_second")
        measured = [name for name in second_curve.columns if not name.startswith(timed)]
        assert first_curve[measured].equals(second_curve[measured]), phase


def test_a_complete_run_is_not_resumed(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*WORDS, f"resume={whole}"])
    assert ended.value.code == 2
    assert "is complete: its result is in summary.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resume=nowhere"], "there is no folder 'nowhere'; name the run_dir of the run to go on with"),
        (["resume=empty"], "'empty' is no run folder: it has no config.yaml"),
        (["resume=begun", "run_dir=other"], "resume=begun goes on in that folder: leave run_dir=other out"),
        (
            ["resume=begun", "seed=7"],
            "resume: seed is 7, the run in 'begun' was started with 42: give the same command",
        ),
        (["resume=begun", "fit"], "resume: command is fit, the run in 'begun' was started with pme"),
        (["resume=changed"], "resume: the data have changed since the run in 'changed' was started"),
        (["resume=two"], "the run in 'two' was started in 2 processes, here is 1: start as many, or start a new run"),
        (["checkpoint_every_n_steps=0"], "checkpoint_every_n_steps: 0 is not above 0"),
    ],
)
def test_what_cannot_be_gone_on_with_is_told(
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if "data have changed" not in message and "processes" not in message:
        monkeypatch.setattr(Runner, "_data", lambda _: pytest.fail("it read the data"))
    (tmp_path / "empty").mkdir()
    for name in ("begun", "changed", "two"):
        shutil.copytree(whole, tmp_path / name)
        (tmp_path / name / "summary.json").unlink()
    facts: dict[str, Any] = {"data": {"rows": {"train": 1}, "field_tokens": [2]}}
    (tmp_path / "changed" / "progress.json").write_text(json.dumps(facts))
    (tmp_path / "two" / "progress.json").write_text(json.dumps({"processes": {"count": 2}}))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{model: {embedding_bits: 32}}", "embedding_bits is 32, .* was started without it, as by another version"),
        ("{model: {}, table: {lr: 0.1}}", "table.lr is 0.1, .* was started with None: give the same command"),
        ("{model: {dim: 8}, budgets: [0.5]}", "budgets is .0.5., .* was started with .0.2."),
    ],
)
def test_a_setting_that_the_run_was_started_without(tmp_path: Path, config: str, message: str) -> None:
    (tmp_path / "config.yaml").write_text("{model: {dim: 8}, table: null, budgets: [0.2]}")
    same = {"model": {"dim": 8}, "table": None, "budgets": [0.2]}
    now = yaml.safe_dump(merge(same, yaml.safe_load(config)))
    with pytest.raises(BadInput, match=message):
        check_same_config(str(tmp_path), now)
    check_same_config(str(tmp_path), yaml.safe_dump(same))
    check_same_config(str(tmp_path), yaml.safe_dump(same | {"budgets": [0.5]}), settled_later=("budgets",))


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ([], True),
        ([pl.col("user") + 0], True),
        ([pl.col("user") * 7 + 1], False),
        ([(1 - pl.col("label")).alias("label")], False),
    ],
    ids=["nothing", "written anew", "tokens", "labels"],
)
@pytest.mark.parametrize("noted", ["now", "by an earlier version"])
def test_other_data_with_as_many_rows_and_tokens_are_not_gone_on_with(
    tmp_path: Path, changed: list[pl.Expr], same: bool, noted: str
) -> None:
    rows = pl.DataFrame({"label": [0, 1, 1] * 40, "user": [7, 8, 9, 9] * 30})

    def encoded(frame: pl.DataFrame) -> ClickDataModule:
        frame.write_parquet(tmp_path / "clicks.parquet")
        data = ClickDataModule(str(tmp_path / "clicks.parquet"), cache_dir=str(tmp_path / "cache"))
        data.prepare_data()
        data.setup()
        return data

    folder = RunFolder(tmp_path / "run", writes=True)
    folder.create()
    folder.write_text("config.yaml", "seed: 42")
    folder.finish("data", data_facts(encoded(rows)))
    if noted != "now":
        facts = folder.finished("data")
        assert facts is not None
        folder.finish("data", {key: facts[key] for key in ("rows", "field_tokens")})
    data = encoded(rows.with_columns(changed))
    if same or noted != "now":
        check_same_data("run", RunFolder.reopen(tmp_path / "run"), data)
        return
    with pytest.raises(BadInput, match="the data have changed since the run in 'run' was started"):
        check_same_data("run", RunFolder.reopen(tmp_path / "run"), data)


def test_the_configuration_is_there_before_all_else(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is killed in its first moments can be gone on with."""
    beside, finish = [], RunFolder.finish

    def noting(folder: RunFolder, phase: str, facts: dict[str, Any]) -> None:
        beside.append({file.name for file in folder.path.iterdir()})
        finish(folder, phase, facts)

    monkeypatch.setattr(RunFolder, "finish", noting)
    run("backbone=fm", "baseline=false")
    assert beside[0] == {"config.yaml"}
