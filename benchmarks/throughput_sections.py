"""The sections of throughput.py: what is compared with what."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import torch
from contestants import EMBEDDING_DIM, module_of
from memory import checkpoint_bytes, table_bytes
from throughput_settings import FRACTION, NARROW, Settings, Table, timed_in_ms
from torch import Tensor, nn
from torch.nn import functional as F
from training_sections import growth, search, train
from zipf_clicks import ZipfClicks

from pme_lightning.data import ClickDataModule
from pme_lightning.embedding import FullEmbedding, MultiSizeEmbedding
from pme_lightning.search import ExpectedInformation


def lookup(table: Table, settings: Settings) -> None:
    """Milliseconds per lookup, forward and backward, compared with ``F.embedding`` on the same ids."""
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
        table.race("lookup", f"{tokens:.0e} tokens", timed_in_ms(racers), "ms", "F.embedding, sparse")


def loader(table: Table, settings: Settings) -> None:
    """Rows per second of the loader alone, in one process; and seconds from a cached data set to its first batch."""
    data = ZipfClicks(1_000_000, train_rows=100 * settings.batch_size, batch_size=settings.batch_size)
    data.setup()

    def rate() -> float:
        started = time.perf_counter()
        rows = sum(len(labels) for _, labels in data.train_dataloader())
        return rows / (time.perf_counter() - started)

    table.race("loader", "39 fields, shuffled", {"ours": rate}, "rows/s", "ours")
    with tempfile.TemporaryDirectory() as folder:
        ids, labels = data.data.splits["train"]
        columns = {name: ids[:, field] for field, name in enumerate(data.fields)}
        pl.DataFrame(columns | {"label": labels}).write_parquet(f"{folder}/clicks.parquet")

        def first_batch() -> float:
            started = time.perf_counter()
            cached = ClickDataModule(f"{folder}/clicks.parquet", categorical=data.fields, cache_dir=f"{folder}/cache")
            cached.prepare_data()
            cached.setup()
            next(iter(cached.train_dataloader()))
            return time.perf_counter() - started

        # The round that is not counted encodes the rows.
        case = f"{len(ids):,} cached rows, first batch"
        table.race("loader", case, {"ours": first_batch}, "s", "ours")


def evaluate(table: Table, settings: Settings) -> None:
    """Seconds to compute AUC and logloss of a data set, on top of computing the probabilities."""
    from pme_lightning.module import CTRModule

    rows = 10**6 if settings.quick else 10**7
    logits, labels = torch.randn(rows), (torch.rand(rows) < 0.25).float()

    def once() -> float:
        metrics = CTRModule([2, 2], "pme_lightning.backbones.FM").test_metrics
        started = time.perf_counter()
        for scores, truth in zip(logits.split(16384), labels.split(16384), strict=True):
            losses = F.binary_cross_entropy_with_logits(scores, truth, reduction="none")
            metrics.update(torch.sigmoid(scores), truth, losses)
        metrics.auc.compute()
        metrics.logloss.compute()
        return time.perf_counter() - started

    table.race("evaluate", f"{rows:.0e} rows", {"AUC and logloss": once}, "s", "AUC and logloss")


def memory(table: Table, settings: Settings) -> None:
    """Bytes of the table in training (parameters, gradients, optimizer state, index) and of checkpoints."""
    for tokens in settings.tokens:
        case = f"{tokens:.0e} tokens"
        found = {}
        for name, fraction, bits in (
            ("full size", None, 32),
            ("multi-size 10%", FRACTION, 32),
            ("full size, 16-bit table", None, 16),
            ("multi-size 10%, 16-bit table", FRACTION, 16),
        ):
            data = settings.data(tokens)
            module = module_of(data, "DeepFM", NARROW, fraction, bits=bits)
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
        full = found["full size"][0]
        for name in ("", ", 16-bit table"):
            multi = found[f"multi-size 10%{name}"][0]
            share = multi.counted / (multi.fraction * full.counted)
            table.add("memory", case, f"counted{name} over fraction x full size", [share], "x")


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
