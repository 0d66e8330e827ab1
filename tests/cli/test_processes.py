"""What needs a process of its own: code in a user's folder, Ctrl-C, the installed program."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from pme_lightning.module import CTRModule

ROOT = Path(__file__).parents[2]
SMALL = ["data.rows=6000", "data.tokens=600", "data.num_fields=4", "data.batch_size=256", "model.embedding_dim=8"]
SMALL += ["baseline=false"]
Shell = Callable[..., subprocess.CompletedProcess[str]]

OWN_BACKBONE = """
import torch
from torch import nn


class Towers(nn.Module):
    def __init__(self, num_fields: int, embedding_dim: int, hidden: int = 4):
        super().__init__()
        self.left = nn.Linear(embedding_dim, hidden)
        self.right = nn.Linear((num_fields - 1) * embedding_dim, hidden)

    def forward(self, embeddings: torch.Tensor, linear: torch.Tensor) -> torch.Tensor:
        left, right = self.left(embeddings[:, 0]), self.right(embeddings[:, 1:].flatten(1))
        return (left * right).sum(-1) + linear.sum(-1)
"""


def installed_program() -> str:
    program = shutil.which("pme-lightning", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.fail("pme-lightning is not installed beside this Python: pip install -e .")
    return program


def test_a_users_own_backbone_trains_from_their_own_folder(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "my_backbones.py").write_text(OWN_BACKBONE)
    (tmp_path / "mine" / "backbone").mkdir(parents=True)
    (tmp_path / "mine" / "backbone" / "towers.yaml").write_text(
        "# Two towers\nbackbone:\n  class_path: my_backbones.Towers\n  init_args: {hidden: 6}\n"
    )
    listed = shell("--help", "config_dir=mine", program=installed_program())
    assert "towers" in listed.stdout
    done = shell("config_dir=mine", "backbone=towers", "run_dir=out", *SMALL, program=installed_program())
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "summary.json").exists()
    sys.path.insert(0, str(tmp_path))
    try:
        model = CTRModule.load_from_checkpoint(tmp_path / "out/checkpoints/finetune/best.ckpt")
    finally:
        sys.path.remove(str(tmp_path))
    assert type(model.backbone).__name__ == "Towers"
    assert model.backbone.left.out_features == 6
    assert model.embedding.first_order


@contextmanager
def started(folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A run in the background, which does not outlive the test."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that starts the tests in the background has them ignore Ctrl-C, and what they start would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        yield process
    finally:
        process.kill()


def interrupted_at(process: subprocess.Popen[str], text: str) -> str:
    """Waits for a line with that text, however long it takes on this machine, and returns what Ctrl-C then says."""
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    return errors


def test_ctrl_c_ends_cleanly_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    words = [*SMALL, "trainer.max_epochs=1000", "early_stopping.patience=1000", "run_dir=out", "search=popularity"]
    with started(tmp_path, *words) as process:
        errors = interrupted_at(process, "finetune: epoch 3")
    assert "interrupted: what was done so far is in out" in errors
    assert not (tmp_path / "out" / "summary.json").exists()
    model = CTRModule.load_from_checkpoint(tmp_path / "out/checkpoints/finetune/last.ckpt")
    assert model.embedding.num_parameters < 600 * 9
    # The best model is one that was validated, not what the interruption found: whole epochs of 19 steps.
    best = torch.load(tmp_path / "out/checkpoints/finetune/best.ckpt", weights_only=True)
    last = torch.load(tmp_path / "out/checkpoints/finetune/last.ckpt", weights_only=True)
    assert best["global_step"] % 19 == 0
    assert best["global_step"] <= last["global_step"]


def test_ctrl_c_before_anything_is_worth_keeping_leaves_nothing(tmp_path: Path) -> None:
    with started(tmp_path, "data.rows=2000000", "run_dir=out") as process:
        interrupted_at(process, "search: PruningCallback")
    assert not (tmp_path / "out").exists()


def test_logs_hold_no_colour_codes_and_one_line_an_epoch(shell: Shell) -> None:
    done = shell("backbone=fm", "trainer.max_epochs=2", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert len([line for line in done.stdout.splitlines() if line.startswith("  finetune: epoch")]) == 2
    assert all(len(line) <= 100 for line in done.stdout.splitlines())
    assert "run folder: runs/" in done.stdout


def test_help_and_version_answer_without_the_heavy_imports() -> None:
    program = "import sys; from pme_lightning.cli import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    for word in ("--help", "--version"):
        done = subprocess.run([sys.executable, "-c", program, word], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout
