"""No key, no network, a run that fails, is interrupted or spans processes: a dashboard never stops a training."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pme_lightning.cli import main

ROOT = Path(__file__).parents[2]
SHORT = ["search=popularity", "baseline=false", "trainer.max_epochs=1", "logger=wandb"]
ReadAll = Callable[[Path], list[Any]]


def test_without_a_key_it_says_so_once_and_keeps_the_run(
    small: list[str], tmp_path: Path, read: Callable[[Path], Any], capfd: pytest.CaptureFixture[str]
) -> None:
    main([*small, *SHORT, f"run_dir={tmp_path / 'out'}"])
    said = capfd.readouterr().out
    assert said.count("wandb: there is no API key; the run is kept on disk") == 1
    run = read(tmp_path / "out")
    # A search of no steps tells what it kept all the same.
    assert run.series("search/kept_fraction") == [pytest.approx(0.2, abs=0.02)]
    assert "sizes/fields" in run.keys


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_the_mode_of_the_environment_is_kept(
    mode: str, small: list[str], tmp_path: Path, read_all: ReadAll, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setenv("WANDB_PROJECT", "elsewhere")
    monkeypatch.setenv("WANDB_NAME", "named")
    main([*small, *SHORT, f"run_dir={tmp_path / 'out'}"])
    assert (tmp_path / "out" / "summary.json").is_file()
    runs = read_all(tmp_path / "out")
    if mode == "disabled":
        assert not runs
        assert not (tmp_path / "out" / "wandb_run.json").exists()
    else:
        assert [(run.project, run.name) for run in runs] == [("elsewhere", "named")]


@pytest.mark.slow
@pytest.mark.parametrize("key", ["", "a" * 40], ids=["no key", "no server"])
def test_nothing_is_asked_on_a_terminal_and_the_run_is_kept_on_disk(
    key: str, small: list[str], tmp_path: Path, read: Callable[[Path], Any]
) -> None:
    # Nobody listens at this port.
    env = os.environ | {"WANDB_API_KEY": key, "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_MODE": "online"}
    env.pop("WANDB_SILENT")
    ours, theirs = pty.openpty()
    shown = bytearray()
    reader = threading.Thread(target=_read_on, args=(ours, shown), daemon=True)
    reader.start()
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *small, *SHORT, "run_dir=out"],
        cwd=tmp_path,
        env=env,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        check=False,
        timeout=300,
    )
    os.close(theirs)
    reader.join(timeout=60)
    os.close(ours)
    errors = shown.decode()
    assert "wandb sync" in errors
    assert done.returncode == 0, errors
    assert done.stdout.count("the run is kept on disk") == 1
    assert "Traceback" not in errors
    assert read(tmp_path / "out").summary["test"]["auc"] > 0.5


def _read_on(terminal: int, shown: bytearray) -> None:
    """Reads what a program writes to its terminal, until it is closed."""
    try:
        while part := os.read(terminal, 1 << 12):
            shown += part
    except OSError:  # how Linux says that it is closed
        pass


def test_a_run_that_fails_leaves_nothing_and_closes(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    with pytest.raises(SystemExit) as ended:
        main([*small, *SHORT, "optimizer=sgd", "optimizer.lr=1e30", f"run_dir={tmp_path / 'out'}"])
    assert ended.value.code == 2
    assert "diverged" in capsys.readouterr().err
    assert wandb.run is None


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("logger.id=a/b", "error: logger.id: Run ID cannot contain the characters"),
        ("logger.project=a/b", "error: logger.project: Invalid project name 'a/b'"),
        (f"logger.tags=[{'y' * 80}]", "is 80 characters. Tags must be between 1 and 64 characters"),
        ("logger.artifacts=[confg]", "artifacts"),
    ],
)
def test_what_no_dashboard_takes_ends_in_one_line_before_data_is_read(
    word: str, said: str, small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*small, *SHORT, word, f"run_dir={tmp_path / 'out'}"])
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert said in told.err
    assert len(told.err.strip().splitlines()) == 1
    assert told.out == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("WANDB_PROJECT", "a/b", "Invalid project name"),
        ("WANDB_TAGS", "x" * 70, "is 70 characters"),
        ("WANDB_RUN_ID", "a/b", "Run ID cannot contain"),
        ("WANDB_MODE", "of", "'offline'"),
    ],
)
def test_what_the_environment_says_is_refused_before_data_is_read(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stop:
        main(["data=parquet", "data.path=nowhere.parquet", *SHORT])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith(f"error: {name} (of the environment): ")
    assert said in error


def test_a_run_that_goes_on_is_shown_by_the_same_run(
    small: list[str], tmp_path: Path, read_all: ReadAll, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pme_lightning.callbacks import TransferCallback

    out = tmp_path / "out"
    setup = TransferCallback.setup

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TransferCallback, "setup", interrupted)
    with pytest.raises(SystemExit) as ended:
        main([*small, *SHORT, f"run_dir={out}"])
    assert ended.value.code == 130
    monkeypatch.setattr(TransferCallback, "setup", setup)
    main([f"resume={out}"])
    before, after = read_all(out)
    assert before.id == after.id
    assert before.exit_code == 1
    assert after.exit_code == 0
    assert "sizes/fields" in before.keys
    assert "sizes/fields" not in after.keys
    assert "finetune/valid_auc" in after.keys
    assert json.loads((out / "wandb_run.json").read_text())["id"] == after.id


@pytest.mark.slow
def test_of_several_processes_the_main_one_writes(
    small: list[str], tmp_path: Path, read: Callable[[Path], Any]
) -> None:
    ddp = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PL_")}
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *small, *SHORT, *ddp, "run_dir=out"],
        cwd=tmp_path,
        env=kept | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.count("there is no API key") == 1
    run = read(tmp_path / "out")
    steps = [step for step, _ in run.curve("finetune/train_loss")]
    assert steps == sorted(set(steps))
    assert set(run.artifacts) >= {"config", "sizes", "model"}


def test_the_view_is_printed_to_a_reader_who_leaves() -> None:
    words = [sys.executable, "-m", "pme_lightning.dashboards.workspace", "ENTITY", "--print"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as printing:
        assert printing.stdout is not None
        assert printing.stderr is not None
        printing.stdout.close()
        assert printing.stderr.read() == ""
        assert printing.wait() == 141
