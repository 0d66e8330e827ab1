"""The same run on a terminal and into a pipe, and the questions that a command line answers."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from pme_lightning.cli import main
from pme_lightning.configuration.commands import COMMANDS, QUESTIONS
from pme_lightning.configuration.group_files import GROUPS, GroupFiles

ROOT = Path(__file__).parents[2]
Shell = Callable[..., "subprocess.CompletedProcess[str]"]
SMALL = ["data.rows=3000", "data.tokens=300", "data.num_fields=3", "model.embedding_dim=4", "baseline=false"]
SMALL += ["backbone.hidden_units=[4]", "trainer.max_epochs=2", "search=uniform", "transfer.init=scratch"]


def run_on_terminal(folder: Path, columns: int) -> tuple[int, str]:
    """Runs the command line on a pseudo terminal; returns its exit code and what it wrote there."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.environ["TERM"] = "xterm-256color"
        for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
            os.environ.pop(name, None)
        os.execv(sys.executable, [sys.executable, str(ROOT / "train.py"), *SMALL])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    written = b""
    while True:
        try:
            part = os.read(terminal, 1 << 16)
        except OSError:  # the end, as Linux tells it
            break
        if not part:
            break
        written += part
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), written.decode()


def test_names_that_standard_output_has_no_letters_for(tmp_path: Path, shell: Shell) -> None:
    rows = range(400)
    columns = {"größe": [i % 9 for i in rows], "映画": [i * 7 % 40 for i in rows], "click": [i % 3 % 2 for i in rows]}
    pl.DataFrame(columns).write_parquet(tmp_path / "clicks.parquet")
    words = ["data=parquet", "data.path=clicks.parquet", "data.label=click", "run_dir=läufe", *SMALL[3:]]
    done = shell(*words, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "gr\\xf6\\xdfe" in done.stdout
    assert "run folder: l\\xe4ufe" in done.stdout
    assert "größe" in (tmp_path / "läufe" / "report.html").read_text(encoding="utf-8")
    again = shell("report", "läufe", PYTHONIOENCODING="ascii")
    assert (again.returncode, again.stdout) == (0, "report: l\\xe4ufe/report.html\n")


def test_a_run_without_standard_output(tmp_path: Path) -> None:
    words = shlex.join([sys.executable, str(ROOT / "train.py"), *SMALL, "run_dir=run"])
    done = subprocess.run(["sh", "-c", f"{words} >&-"], cwd=tmp_path, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "run" / "report.html").is_file()


def test_a_run_on_a_real_terminal_shows_bars_and_keeps_the_lines(tmp_path: Path) -> None:
    code, text = run_on_terminal(tmp_path, columns=80)
    assert code == 0
    assert "\x1b[" in text
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    assert any(re.match(r"finetune 1/2 [━╸╺ ]+\d+%", line) for line in lines)
    assert any(line.startswith("  finetune: epoch 1, loss") for line in lines)
    assert any("test AUC" in line for line in lines)
    assert max(len(line) for line in lines if line[0] in "┏┃┡│└") <= 80


def test_a_run_into_a_pipe_is_plain_text(shell: Shell) -> None:
    done = shell(*SMALL, FORCE_COLOR="1", TERM="xterm-256color")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert "\r" not in done.stdout
    phases = [line.split(":")[0].strip() for line in done.stdout.splitlines() if line.startswith("  ")]
    assert phases == ["search", "finetune", "finetune"]


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    main(list(words))
    return capsys.readouterr().out


def test_list_shows_every_choice_with_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    text, files = told(capsys, "list"), GroupFiles()
    for group in GROUPS:
        assert f"{group}=NAME: " in text
        for choice in files.choices(group):
            assert re.search(rf"^  {choice}  +{re.escape(files.description(group, choice)[:20])}", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 80


def test_every_choice_says_what_it_is() -> None:
    files = GroupFiles()
    silent = [
        f"{group}/{name}" for group in GROUPS for name in files.choices(group) if not files.description(group, name)
    ]
    assert not silent


def test_list_shows_choices_of_the_users_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "backbone").mkdir()
    (tmp_path / "backbone" / "mine.yaml").write_text("# Two towers\nbackbone:\n  class_path: my.Towers\n")
    text = told(capsys, "list", "backbone", f"config_dir={tmp_path}")
    assert re.search(r"^  mine  +Two towers$", text, re.MULTILINE)
    assert "  deepfm" in text
    assert "optimizer=NAME" not in text


def test_list_answers_without_torch(shell: Shell) -> None:
    code = "import sys; from pme_lightning.cli import main; main(['list']); assert 'torch' not in sys.modules"
    done = shell(code, program="-c")
    assert done.returncode == 0, done.stderr


def test_help_names_the_questions(capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, "--help")
    for command in {**COMMANDS, **QUESTIONS}:
        assert re.search(rf"^  {command}  ", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["search.budget"],
            ["a fraction of the full-size per-token parameters", "bytes", "0.2, from search=pme", "PruningCallback"],
        ),
        (
            ["search.budget", "search.budget=20MB"],
            ["20MB, from the command line (search.budget=20MB)", "default     0.2"],
        ),
        (["trainer.max_epochs"], ["Stop training once", "10, from trainer=cpu", "whole number or null"]),
        (["optimizer.lr"], ["learning rate", "0.003, from optimizer=adam_adagrad", "0.001 in Adam"]),
        (["optimizer.lr", "optimizer=sgd"], ["learning rate", "from optimizer=sgd", "in SGD"]),
        (["data.batch_size", "experiment=goodbooks_deepfm"], ["training rows per batch", "4096, from experiment="]),
        (["early_stopping.patience"], ["1, from defaults.yaml", "EarlyStopping"]),
        (["seed"], ["42, from ", "Seed of everything random"]),
        (["search.criterion"], ["pme_lightning.search.Fisher", "search.criterion.axes", "from search=pme"]),
        (["search.criterion.axes"], ["auto", "auto, nested, principal, field or original"]),
        (["search.init_args.budget"], ["0.2, from search=pme"]),
        (["backbone"], ["  dcnv2  ", "backbone.dropout", "now: pme_lightning.backbones.DeepFM, from backbone=deepfm"]),
        (["backbone", "backbone=fm"], ["now: pme_lightning.backbones.FM, from backbone=fm"]),
        (["experiment"], ["goodbooks_deepfm"]),
        (["logger"], ["tensorboard", "now: null, from logger=none"]),
        (["trainer"], ["trainer.max_epochs", "trainer.precision"]),
        (["transfer"], ["now: pme_lightning.callbacks.TransferCallback, from defaults.yaml", "transfer.init=warm"]),
        (
            ["embedding_optimizer"],
            ["LazyAdagrad, from optimizer=adam_adagrad", "embedding_optimizer.decay_interval=64"],
        ),
        (["embedding_optimizer", "optimizer=sgd"], ["now: null, from "]),
        (["pareto"], ["pareto (a command): search once"]),
        (["seed", "baseline"], ["Seed of everything", "full-size model"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_explain_says_what_it_is_and_where_its_value_comes_from(
    words: list[str], said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = told(capsys, "explain", *words)
    for part in said:
        assert part in re.sub(r"\s*\n\s+", " ", text) or part in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("list backbon", "list: 'backbon' is no group; did you mean 'backbone'?"),
        ("explain", "explain what?"),
        ("explain serch.budget", "did you mean 'search.budget'?"),
        ("explain trainer.max_epoch", "did you mean 'trainer.max_epochs'?"),
        ("explain nothing.at.all", "unknown key 'nothing.at.all'"),
        (
            "explain averaging.decay",
            "there is no averaging (null, from averaging=none), so nothing is to be set of it; name one: "
            "explain averaging.decay averaging=CHOICE",
        ),
        ("lst", "did you mean 'list'?"),
    ],
)
def test_questions_that_cannot_be_answered(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 2
    complaint = capsys.readouterr().err
    assert said in complaint
    assert len(complaint.splitlines()) == 1


def test_a_configuration_file_cannot_ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "asks.yaml").write_text("command: explain\n")
    with pytest.raises(SystemExit):
        main([f"--config={tmp_path / 'asks.yaml'}"])
    assert "command 'explain' is unknown" in capsys.readouterr().err
