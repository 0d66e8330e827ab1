"""The tables of throughput.py: what is raced against what."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import peers
import torch
from contestants import EMBEDDING_DIM, fitted, module_of, network_alone, plain_loop
from memory import checkpoint_bytes, table_bytes
from torch import Tensor, nn
from torch.nn import functional as F
from zipf_clicks import ZipfClicks

from pme_lightning.callbacks import PruningCallback
from pme_lightning.embedding import FullEmbedding, MultiSizeEmbedding
from pme_lightning.search import AfterWarmup, ExpectedInformation, Prefix

FRACTION = 0.1
WIDE, NARROW = [400, 400, 400], [64, 64]


@dataclass(frozen=True)
class Settings:
    """What all tables share.

    Attributes:
        steps: Training steps of one measurement.
        batch_size: Rows of a batch.
        tokens: Table sizes.
        quick: Leaves the largest cases out.
        device: ``"cpu"`` or ``"gpu"``, of ours.
        precision: Of ours.
        peers: Whether peers are measured where they are installed.
    """

    steps: int
    batch_size: int
    tokens: list[int]
    quick: bool
    device: str
    precision: str
    peers: bool

    def data(self, tokens: int) -> ZipfClicks:
        """Draws the rows."""
        return ZipfClicks(tokens, train_rows=(self.steps + 2) * self.batch_size, batch_size=self.batch_size)

    @property
    def trainer(self) -> dict[str, Any]:
        """Options of ours for Lightning's Trainer."""
        return {"accelerator": self.device, "precision": self.precision}


class Table(Protocol):
    """See ``throughput.Table``."""

    rounds: int

    def race(
        self, section: str, case: str, contestants: dict[str, Callable[[], float]], unit: str, base: str
    ) -> None: ...

    def add(self, section: str, case: str, contestant: str, values: list[float], unit: str) -> None: ...


def train(table: Table, settings: Settings) -> None:
    """Milliseconds of a training step, loading included: floor, ours full-size and multi-size, a plain loop, peers."""
    cases = [(backbone, WIDE, tokens) for tokens in settings.tokens for backbone in ("DeepFM", "DCN")]
    cases += [("DeepFM", NARROW, tokens) for tokens in settings.tokens if tokens >= 1_000_000]
    for backbone, hidden, tokens in cases:
        data, other = settings.data(tokens), settings.data(tokens)
        full = module_of(data, backbone, hidden)
        multi = module_of(other, backbone, hidden, FRACTION)
        racers = {
            "network alone": network_alone(data, backbone, hidden, settings.device, settings.precision),
            "ours, full size": fitted(full, data, **settings.trainer),
            "ours, multi-size 10%": fitted(multi, other, **settings.trainer),
            "plain PyTorch loop": plain_loop(data, backbone, hidden, settings.device),
        }
        with tempfile.TemporaryDirectory() as folder:
            if settings.peers and settings.device == "cpu":
                if importlib.util.find_spec("fuxictr"):
                    racers["FuxiCTR"] = peers.fuxictr(data, backbone, hidden, Path(folder))
                if importlib.util.find_spec("deepctr_torch") and tokens < 5_000_000:
                    racers["DeepCTR-Torch"] = peers.deepctr_torch(data, backbone, hidden)
            case = f"{backbone} {'x'.join(map(str, hidden))}, {tokens:.0e} tokens"
            table.race("train", case, _in_ms(racers, settings.steps), "ms/step", "ours, full size")


def search(table: Table, settings: Settings) -> None:
    """Milliseconds of a search step: ours while it scores, plain full-size training, and PEP's rule as published."""
    for tokens in settings.tokens:
        data = settings.data(tokens)

        def searching(data: ZipfClicks = data) -> float:
            module = module_of(data, "DeepFM", NARROW)
            data.setup()
            schedule = AfterWarmup(epochs=settings.steps / len(data.train_dataloader()), score_last=1.0)
            callback = PruningCallback(ExpectedInformation(), schedule, Prefix(), FRACTION)
            return fitted(module, data, [callback], **settings.trainer)(settings.steps)

        racers = {
            "training alone": lambda data=data: fitted(module_of(data, "DeepFM", NARROW), data, **settings.trainer)(
                settings.steps
            ),
            "search=pme, scoring": searching,
            "PEP's rule as published": lambda data=data: _pep_as_published(data, settings.steps),
        }
        table.race(
            "search", f"DeepFM 64x64, {tokens:.0e} tokens", _timed_in_ms(racers), "ms/step", "search=pme, scoring"
        )


def _pep_as_published(data: ZipfClicks, steps: int) -> float:
    """PEP (Liu et al., 2021): each step makes a table ``sign(w) relu(|w| - sigmoid(s))``, one s for each value."""
    from contestants import BACKBONES, timed_steps

    weight = nn.Parameter(torch.randn(data.num_tokens, EMBEDDING_DIM) * 0.01)
    threshold = nn.Parameter(torch.full((data.num_tokens, EMBEDDING_DIM), -15.0))
    linear = nn.Embedding(data.num_tokens, 1)
    network = BACKBONES["DeepFM"](len(data.fields), EMBEDDING_DIM, hidden_units=NARROW)
    optimizer = torch.optim.Adam([weight, threshold, *linear.parameters(), *network.parameters()], lr=1e-3)

    def step(batch: tuple[Tensor, Tensor]) -> None:
        optimizer.zero_grad()
        table = torch.sign(weight) * torch.relu(torch.abs(weight) - torch.sigmoid(threshold))
        logits = network(F.embedding(batch[0], table), linear(batch[0]).squeeze(-1))
        F.binary_cross_entropy_with_logits(logits, batch[1]).backward()
        optimizer.step()

    # A step of it takes seconds on a large table.
    return timed_steps(step, iter(data.train_dataloader()), min(steps, 6))


def lookup(table: Table, settings: Settings) -> None:
    """Milliseconds of a lookup forward and backward, against ``F.embedding`` on the same ids."""
    for tokens in settings.tokens:
        data, other = settings.data(tokens), settings.data(tokens)
        multi = module_of(other, "DCN", NARROW, FRACTION).embedding
        module_of(data, "DCN", NARROW)
        ids, ids_by_size = (next(iter(each.train_dataloader()))[0] for each in (data, other))
        full = FullEmbedding(tokens, EMBEDDING_DIM)
        plain = nn.Parameter(torch.randn(tokens, EMBEDDING_DIM))
        gradient = torch.randn(*ids.shape, EMBEDDING_DIM)
        full.sparse = multi.sparse = True

        def of_table(embedding: FullEmbedding | MultiSizeEmbedding, ids: Tensor, gradient: Tensor = gradient) -> float:
            embedding.zero_grad()
            return _seconds(lambda: embedding(ids).backward(gradient))

        def of_torch(
            coalesce: bool, plain: nn.Parameter = plain, ids: Tensor = ids, gradient: Tensor = gradient
        ) -> float:
            plain.grad = None

            def once() -> None:
                F.embedding(ids, plain, sparse=True).backward(gradient)
                if coalesce:
                    plain.grad.coalesce()  # type: ignore[union-attr]

            return _seconds(once)

        racers: dict[str, Callable[[], float]] = {
            "F.embedding, sparse": lambda f=of_torch: _best_of(lambda: f(False)),
            "F.embedding, sparse, coalesced": lambda f=of_torch: _best_of(lambda: f(True)),
            "ours, full size": lambda f=of_table, e=full, i=ids: _best_of(lambda: f(e, i)),
            "ours, multi-size 10%": lambda f=of_table, e=multi, i=ids_by_size: _best_of(lambda: f(e, i)),
        }
        table.race("lookup", f"{tokens:.0e} tokens", _timed_in_ms(racers), "ms", "F.embedding, sparse")


def loader(table: Table, settings: Settings) -> None:
    """Rows a second of the loader alone, one process."""
    data = ZipfClicks(1_000_000, train_rows=100 * settings.batch_size, batch_size=settings.batch_size)
    data.setup()

    def rate() -> float:
        started = time.perf_counter()
        rows = sum(len(labels) for _, labels in data.train_dataloader())
        return rows / (time.perf_counter() - started)

    table.race("loader", "39 fields, shuffled", {"ours": rate}, "rows/s", "ours")


def evaluate(table: Table, settings: Settings) -> None:
    """Seconds that AUC and logloss of a whole set take, beside what computes the probabilities."""
    from pme_lightning.module import CTRModule

    rows = 10**6 if settings.quick else 10**7
    logits, labels = torch.randn(rows), (torch.rand(rows) < 0.25).float()

    def once() -> float:
        metrics = CTRModule([2, 2], "pme_lightning.backbones.FM").test_metrics
        started = time.perf_counter()
        for scores, truth in zip(logits.split(16384), labels.split(16384), strict=True):
            metrics["auc"].update(torch.sigmoid(scores), truth.int())
            metrics["logloss"].update(F.binary_cross_entropy_with_logits(scores, truth, reduction="none"))
        metrics["auc"].compute()
        metrics["logloss"].compute()
        return time.perf_counter() - started

    table.race("evaluate", f"{rows:.0e} rows", {"AUC and logloss": once}, "s", "AUC and logloss")


def memory(table: Table, settings: Settings) -> None:
    """Bytes that the table takes in training: parameters, gradients, optimizer state, index; and of checkpoints."""
    for tokens in settings.tokens:
        case = f"{tokens:.0e} tokens"
        found = {}
        for name, fraction in (("full size", None), ("multi-size 10%", FRACTION)):
            data = settings.data(tokens)
            module = module_of(data, "DeepFM", NARROW, fraction)
            found[name] = table_bytes(module, data), checkpoint_bytes(module, data)
            measured, (size, own) = found[name]
            table.add("memory", case, f"{name}, table, counted", [measured.counted / 2**20], "MiB")
            table.add("memory", case, f"{name}, kept fraction", [measured.fraction], "")
            table.add("memory", case, f"{name}, resident set", [measured.resident / 2**20], "MiB")
            table.add("memory", case, f"{name}, best.ckpt", [size / 2**20], "MiB")
            table.add("memory", case, f"{name}, best.ckpt over its content", [size / own], "x")
        embedding, criterion = FullEmbedding(tokens, EMBEDDING_DIM, first_order=True), ExpectedInformation()
        criterion.field_tokens = data.field_tokens
        criterion.start(embedding.weight.detach(), embedding.linear, data.frequencies)
        extra = sum(total.numel() * total.element_size() for total in criterion.state().values())
        table.add("memory", case, "search=pme, accumulators over table", [extra / (4 * embedding.num_parameters)], "x")
        full, multi = found["full size"][0], found["multi-size 10%"][0]
        share = multi.counted / (multi.fraction * full.counted)
        table.add("memory", case, "counted over fraction x full size", [share], "x")


def growth(table: Table, settings: Settings) -> None:
    """Milliseconds of a multi-size training step as the vocabulary grows."""
    for tokens in (100_000, 1_000_000, 10_000_000, 100_000_000)[: 2 if settings.quick else 4]:
        data = settings.data(tokens)
        run = fitted(module_of(data, "DeepFM", WIDE, FRACTION), data, **settings.trainer)
        table.race(
            "growth", f"DeepFM 400x400x400, {tokens:.0e}", _in_ms({"multi-size 10%": run}, settings.steps), "ms/step",
            "multi-size 10%",
        )  # fmt: skip


def start(table: Table, _: Settings) -> None:
    """Seconds from the shell to the help text, and to the end of the first training step."""
    root = Path(__file__).resolve().parents[1]

    def helped() -> float:
        return _seconds(lambda: subprocess.run([sys.executable, "train.py", "--help"], cwd=root, capture_output=True))

    def stepped() -> float:
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [sys.executable, "train.py", "fit", "data.rows=20000", "trainer.max_epochs=1", f"run_dir={folder}/run",
                 "trainer.callbacks=[{class_path: first_step.FirstStep}]"],
                cwd=root, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
            )  # fmt: skip
        match = re.search(r"first step after ([0-9.]+) s", done.stdout + done.stderr)
        if match is None:
            raise RuntimeError(f"train.py did not reach its first step:\n{done.stdout}{done.stderr}")
        return float(match.group(1))

    table.race("start", "train.py --help", {"ours": helped}, "s", "ours")
    table.race("start", "first step, 20,000 rows", {"ours": stepped}, "s", "ours")


def _in_ms(racers: dict[str, Callable[[int], float]], steps: int) -> dict[str, Callable[[], float]]:
    return {name: lambda run=run: run(steps) * 1e3 for name, run in racers.items()}


def _timed_in_ms(racers: dict[str, Callable[[], float]]) -> dict[str, Callable[[], float]]:
    return {name: lambda run=run: run() * 1e3 for name, run in racers.items()}


def _best_of(measure: Callable[[], float], times: int = 15) -> float:
    # The median of many: one lookup takes milliseconds.
    return sorted(measure() for _ in range(times))[times // 2]


def _seconds(once: Callable[[], Any]) -> float:
    started = time.perf_counter()
    once()
    return time.perf_counter() - started


SECTIONS: dict[str, Callable[[Any, Settings], None]] = {
    "train": train,
    "search": search,
    "lookup": lookup,
    "loader": loader,
    "evaluate": evaluate,
    "memory": memory,
    "growth": growth,
    "start": start,
}
