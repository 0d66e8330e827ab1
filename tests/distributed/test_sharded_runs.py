"""Runs whose tables are split over processes end as those of one process, and go on after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from pme_lightning.errors import BadInput
from pme_lightning.module import CTRModule
from pme_lightning.precision import check_precision
from pme_lightning.search import SearchResult

Alone = Callable[..., dict[str, Any]]
Start = Callable[..., "subprocess.Popen[str]"]
AVERAGED = 'trainer.callbacks=[{"class_path":"lightning.pytorch.callbacks.EMAWeightAveraging",'
AVERAGED += '"init_args":{"use_buffers":false}}]'
SHARDED = ["trainer=sharded", "trainer.devices=2", "trainer.accelerator=cpu"]


def curve(folder: Path, phase: str, name: str) -> torch.Tensor:
    return pl.read_csv(folder / "logs" / phase / "metrics.csv")[name].drop_nulls().to_torch()


def assert_same_test(found: dict[str, float], expected: dict[str, float]) -> None:
    """The same to rounding, by which two rows all but tied may change places: of 625 rows that moves AUC by 1e-5."""
    assert found["logloss"] == pytest.approx(expected["logloss"], abs=1e-6)
    assert found["auc"] == pytest.approx(expected["auc"], abs=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_two_processes_are_one_of_twice_the_batch(
    finish: Callable[..., str], alone: Alone, small: list[str], train: str, tmp_path: Path, kind: str
) -> None:
    words = ["backbone=deepfm", "search.budget=0.3", "search.schedule.min_steps=30", "optimizer.lr=1e-4", *small]
    words += ["trainer.gradient_clip_val=0.5", "baseline=false"]
    if kind == "dense":
        words = ["search", *words, "optimizer=adam", "trainer.accumulate_grad_batches=2", "optimizer.lr=1e-4"]
    one, two = tmp_path / "one", tmp_path / "two"
    alone(one, *words, "data.batch_size=512")
    said = finish(train, *words, *SHARDED, "data.batch_size=256", f"run_dir={two}")

    sizes, expected = (SearchResult.load(folder / "sizes.safetensors") for folder in (two, one))
    assert torch.equal(sizes.sizes, expected.sizes)
    assert torch.equal(sizes.linear, expected.linear)
    phases = ("search",) if kind == "dense" else ("search", "finetune")
    for phase in phases:
        losses = curve(two, phase, "train_loss")
        assert len(losses) >= 10
        torch.testing.assert_close(losses, curve(one, phase, "train_loss"), atol=1e-4, rtol=0)
    found, other = (json.loads((folder / "summary.json").read_text()) for folder in (two, one))
    assert found["embedding"] == other["embedding"]
    # One folder, one run of the logger, one voice.
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    assert sum("run folder" in line for line in said.splitlines()) == 1

    if kind == "dense":
        return
    # Checkpoints are those of one process: read in one, in as many, in more, and by hand.
    best = f"ckpt_path={two}/checkpoints/finetune/best.ckpt"
    again = alone(tmp_path / "test", "test", best, "logger=none")
    assert_same_test(found["test"], again["test"])
    finish(train, "test", best, *SHARDED, "trainer.devices=3", f"run_dir={tmp_path / 'three'}")
    three = json.loads((tmp_path / "three" / "summary.json").read_text())
    assert_same_test(found["test"], three["test"])
    sizes_of = ["finetune", f"sizes={two}/sizes.safetensors", "transfer.init=scratch", "trainer.max_epochs=1"]
    alone(tmp_path / "fine", *sizes_of, "trainer=cpu")
    alone(tmp_path / "predict", "predict", best)
    assert len(pl.read_parquet(tmp_path / "predict" / "predictions.parquet")) == 625
    paths = [folder / "checkpoints" / "finetune" / "best.ckpt" for folder in (two, one)]
    module, same = (CTRModule.load_from_checkpoint(path, map_location="cpu", weights_only=True) for path in paths)
    # Sums over processes are rounded otherwise, and where axes are turned to is known to some thousandths.
    factors = [torch.tensor(each.hparams["field_decays"].pop("factors")) for each in (module, same)]
    torch.testing.assert_close(*factors, atol=1e-4, rtol=1e-3)
    assert module.hparams == same.hparams
    for own, theirs in zip(module.parameters(), same.parameters(), strict=True):
        torch.testing.assert_close(own, theirs, atol=1e-2, rtol=0)


@pytest.mark.slow
def test_a_search_that_was_killed_goes_on(
    start: Start, finish: Callable[..., str], small: list[str], train: str, tmp_path: Path
) -> None:
    words = ["search", "backbone=dcn", "data.batch_size=256", "search.schedule.min_steps=60", *small, *SHARDED]
    words += ["checkpoint_every_n_steps=7"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    agent = start(train, *words, f"run_dir={killed}")
    assert agent.stdout is not None
    for line in agent.stdout:
        if "search: epoch 4" in line:
            break
    child = int(Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()[0])
    os.kill(child, signal.SIGKILL)
    _, errors = agent.communicate(timeout=240)
    assert agent.returncode == 1, errors
    said = finish(train, f"resume={killed}")
    assert "goes on from" in said
    finish(train, *words, f"run_dir={whole}")
    # To the last bit: the order in which sums are rounded is the same in both.
    sizes, expected = (SearchResult.load(folder / "sizes.safetensors") for folder in (killed, whole))
    assert torch.equal(sizes.sizes, expected.sizes)
    states = [torch.load(folder / "checkpoints/search/last.ckpt", weights_only=True) for folder in (killed, whole)]
    for name, tensor in states[0]["state_dict"].items():
        assert torch.equal(tensor, states[1]["state_dict"][name]), name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["search=pep"], "search PEPCallback needs the whole table"),
        (["search=sseds"], "search.criterion FieldSaliency needs the whole table"),
        (["search=mde"], "search.criterion FieldPopularity needs the whole table"),
        (["search.schedule=pme_lightning.search.Gradual"], "search.schedule Gradual needs the whole table"),
        ([AVERAGED], "EMAWeightAveraging keeps a copy of the whole model"),
    ],
)
def test_what_needs_the_whole_table_is_refused_at_once(
    alone: Alone, capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        alone(tmp_path / "run", *SHARDED, *words)
    assert ended.value.code == 2
    errors = capsys.readouterr().err
    assert said in errors
    assert len(errors.splitlines()) == 1


def test_a_precision_that_leaves_steps_out_is_refused() -> None:
    check_precision("bf16-mixed", split=True)
    check_precision("16-mixed")
    with pytest.raises(BadInput, match="16-mixed does not go with trainer=sharded; use bf16-mixed or 32-true"):
        check_precision("16-mixed", split=True)


def test_one_process_is_as_without(alone: Alone, small: list[str], tmp_path: Path) -> None:
    words = ["backbone=fm", "search=popularity", "baseline=false", "trainer.max_epochs=1", "logger=none"]
    words += [word for word in small if word.startswith("data.")]
    one = alone(tmp_path / "one", *words, "trainer=sharded", "trainer.devices=1", "trainer.accelerator=cpu")
    plain = alone(tmp_path / "plain", *words)
    assert one["test"] == plain["test"]
