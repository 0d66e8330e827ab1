"""Kills runs at random points, lets them go on, and compares what they end with to a run that was left alone.

    python benchmarks/kill_and_resume.py --kills 20

Each search is run once without a disturbance. Then it is started again and killed (SIGKILL) after a random time,
resumed, killed again, until it has come to its end; sizes, the weights of every checkpoint and all test metrics must
be the same to the last bit. What is printed is each kill with what the run had said last, and each comparison.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from pme_lightning.runs.files import sizes_files
from pme_lightning.search import SearchResult

SMALL = ["data.rows=12000", "data.tokens=2000", "data.num_fields=5", "data.batch_size=64", "model.embedding_dim=8"]
SMALL += ["backbone.hidden_units=[16]", "backbone.dropout=0.2", "trainer.max_epochs=4", "early_stopping.patience=4"]
SMALL += ["checkpoint_every_n_steps=7"]
GRADUAL = "search.schedule=pme_lightning.search.Gradual"
AVERAGED = "{class_path: lightning.pytorch.callbacks.EMAWeightAveraging, init_args: {decay: 0.95, use_buffers: false}}"
SEARCHES = {
    "pme": ["search=pme"],
    "fisher, gradual": ["search=fisher", GRADUAL, "search.schedule.epochs=2"],
    "pep": ["search=pep"],
    "pareto": ["pareto", "budgets=[0.5,0.2]", "baseline=false", "trainer.max_epochs=3"],
    "accumulated": ["search=pme", "trainer.accumulate_grad_batches=3"],
    "averaged": ["search=pme", f"trainer.callbacks=[{AVERAGED}]"],
    "sixteen bits": ["search=pme", "model.embedding_bits=16"],
}


class Run:
    """A run in a process of its own.

    Args:
        words: The words of its command line.
        folder: The run folder, which is resumed in if there is something to resume.
    """

    def __init__(self, words: list[str], folder: Path) -> None:
        goes_on = (folder / "config.yaml").is_file()
        where = f"resume={folder}" if goes_on else f"run_dir={folder}"
        self.said: list[str] = []
        self.training = threading.Event()
        self._errors = folder.with_suffix(".err")
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-u", "-m", "pme_lightning", *words, where],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line.rstrip())
            if line.startswith("search:"):
                self.training.set()
        self.training.set()

    def kill_after(self, seconds: float) -> bool:
        """Kills the run so long after its training began; returns whether it was still running."""
        self.training.wait()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.finish()
        return self.process.returncode != 0

    def finish(self) -> None:
        """Waits for the end.

        Raises:
            RuntimeError: The run failed by itself.
        """
        self.process.wait()
        self._reader.join()
        if self.process.returncode not in (0, -9):
            raise RuntimeError(self._errors.read_text())


def outcome(folder: Path) -> dict[str, Any]:
    """Returns what must not differ: sizes, weights, metrics."""
    summary = json.loads((folder / "summary.json").read_text())
    found: dict[str, Any] = {"search": {**summary["search"], "seconds": None}}
    for number, model in enumerate([summary, summary["baseline"], *summary.get("pareto", [])]):
        found[f"test of model {number}"] = model and model["test"]
    for path in sizes_files(folder):
        result = SearchResult.load(path)
        found |= {f"{path.name}: sizes": result.sizes, f"{path.name}: first order": result.linear}
        found[f"{path.name}: basis"] = result.basis
    for path in sorted(folder.glob("checkpoints/*/*.ckpt")):
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        name = path.relative_to(folder / "checkpoints").as_posix()
        found |= {f"{name}: {key}": value for key, value in checkpoint["state_dict"].items()}
        found[f"{name}: step"] = checkpoint["global_step"]
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Returns the names of what is not the same to the last bit."""

    def same(a: Any, b: Any) -> bool:
        return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b

    names = {**one, **other}
    return [name for name in names if not (name in one and name in other and same(one[name], other[name]))]


def disturbed(words: list[str], folder: Path, seconds: float, draw: random.Random, most: int) -> int:
    """Runs to the end, killed now and then on the way; returns how often."""
    kills = 0
    while True:
        run = Run(words, folder)
        if kills >= most:
            run.finish()
            return kills
        after = draw.uniform(0, seconds)
        if not run.kill_after(after):
            return kills
        if (folder / "summary.json").is_file():
            return kills  # too late: all was done
        kills += 1
        print(f"  killed after {after:5.2f} s: {run.said[-1] if run.said else '(nothing said)'}", flush=True)


def main() -> None:
    """Reads the command line, prints what happened; exits with 1 if anything differed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="kills altogether, at least")
    parser.add_argument("--only", choices=SEARCHES, help="one kind of run")
    parser.add_argument("--seed", type=int, default=0, help="of the times of the kills")
    options = parser.parse_args()
    draw, kills, ends, wrong = random.Random(options.seed), 0, 0, 0
    with TemporaryDirectory() as place:
        lasting: dict[str, float] = {}
        while kills < options.kills:
            name = options.only or list(SEARCHES)[ends % len(SEARCHES)]
            words, alone = [*SMALL, *SEARCHES[name]], Path(place) / name.replace(", ", "-")
            if name not in lasting:
                run = Run(words, alone)
                run.training.wait()
                began = time.perf_counter()
                run.finish()
                lasting[name] = time.perf_counter() - began
                print(f"{name}: {lasting[name]:.1f} s of training", flush=True)
            folder = Path(place) / f"{alone.name}-{ends}"
            # Short lives: a few kills on the way to each end.
            kills += disturbed(words, folder, lasting[name] * 0.7, draw, most=8)
            ends += 1
            differs = differences(outcome(alone), outcome(folder))
            wrong += bool(differs)
            verdict = "DIFFERS in " + ", ".join(differs) if differs else "the same to the last bit"
            print(f"{name}: {verdict}", flush=True)
    print(f"{kills} kills, {ends} runs resumed to their end, {wrong} of them different")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
