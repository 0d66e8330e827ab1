"""The same run on a terminal and into a pipe."""

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
