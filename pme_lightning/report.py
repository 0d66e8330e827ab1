"""What a run says: lines while it goes, the table at its end, and the machine-readable summary."""

from __future__ import annotations

import io
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pme_lightning import headline
from pme_lightning.module import CTRModule
from pme_lightning.ranks import is_main
from pme_lightning.written_whole import written_whole

if TYPE_CHECKING:
    from pme_lightning.data import EncodedDataModule

BYTES_PER_PARAMETER = 4


def say(text: str) -> None:
    """Prints a line, in the main process only."""
    if is_main():
        print(text, flush=True)


def shown(path: Path) -> str:
    """Returns a path as one would type it: relative to the current folder where that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)


def print_data(data: EncodedDataModule) -> None:
    """Prints what was read."""
    rows = data.rows
    say(data.describe())
    counts, names = " / ".join(f"{n:,}" for n in rows.values()), " / ".join(rows)
    say(f"data: {data.name}, {counts} rows ({names}), {len(data.fields)} fields, {data.num_tokens:,} tokens")


# The summary.


def embedding_facts(
    full_parameters: int, parameters: int, parameter_bytes: int, index_bytes: int = 0, bits: int = 32
) -> dict[str, Any]:
    """Returns the ``embedding`` block: everything in the embedding layer counts, the index too.

    Its ``fraction`` is that of the bytes of a full-size table of 32 bits.

    Args:
        full_parameters: Of the full-size table.
        parameters: Of this one: per-token values, first-order weights, the projection or projections.
        parameter_bytes: Of these.
        index_bytes: Bytes of the index from token to row.
        bits: Of a value of a token.
    """
    size = parameter_bytes + index_bytes
    return {
        "full_parameters": full_parameters,
        "parameters": parameters,
        "fraction": size / (full_parameters * BYTES_PER_PARAMETER),
        "bytes": size,
        "index_bytes": index_bytes,
        **({} if bits == 32 else {"bits": bits}),
    }


def module_facts(module: CTRModule) -> dict[str, Any]:
    """Returns the ``embedding`` block of a model."""
    embedding = module.embedding
    return embedding_facts(
        module.full_parameters,
        embedding.num_parameters,
        embedding.num_bytes,
        embedding.index_bytes,
        8 * embedding.dtype.itemsize,
    )


def block(
    module: CTRModule, facts: dict[str, Any] | None, metrics: Mapping[str, float] | None, split: str = "test"
) -> dict[str, Any]:
    """Returns the blocks of ``summary.json`` that tell of one model: embedding, fine-tune and test."""
    names = ("auc", "logloss")
    measured = None if metrics is None else {name: _number(metrics[f"{split}_{name}"]) for name in names}
    return {
        "embedding": module_facts(module),
        "finetune": facts,
        split: measured,
    }


def exported_block(
    embedding: Mapping[str, Any], facts: Mapping[str, Any], metrics: Mapping[str, float]
) -> dict[str, Any]:
    """Returns the ``exported`` block of ``summary.json``.

    Args:
        embedding: The ``embedding`` block of the model that was exported.
        facts: What is known of the exported one.
        metrics: Its ``auc`` and ``logloss`` over the validation split.
    """
    size = facts["embedding_bytes"]
    smaller = {
        "bits": facts["bits"],
        "bytes": size,
        "index_bytes": 0,
        "fraction": size / (embedding["full_parameters"] * BYTES_PER_PARAMETER),
    }
    return {
        "embedding": {**embedding, **smaller},
        "finetune": None,
        "valid": {name: _number(value) for name, value in metrics.items()},
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def summary(
    command: str,
    seed: int,
    data: EncodedDataModule,
    search: dict[str, Any] | None,
    model: dict[str, Any],
    baseline: dict[str, Any] | None,
) -> dict[str, Any]:
    """Returns the whole of ``summary.json``."""
    facts: dict[str, Any] = {"name": data.name, "rows": data.rows, "fields": len(data.fields)}
    facts["tokens"] = data.num_tokens
    if "test" in data.clicks:
        facts["test_clicks"] = data.clicks["test"]
    for name in ("best_auc", "best_logloss"):
        # Not a number where the test rows have one label only.
        if math.isfinite(getattr(data, name, math.nan)):
            facts[name] = float(getattr(data, name))
    return {
        "version": 1,
        "command": command,
        "seed": seed,
        "data": facts,
        "search": search,
        **{"embedding": None, "finetune": None, "test": None} | model,
        "baseline": baseline,
    }


def write_predictions(probabilities: Tensor, path: Path) -> None:
    """Writes one probability a row, in the rows' order, as Parquet."""
    # By way of memory: the engine's own errors do not tell a full disk from anything else.
    content = io.BytesIO()
    pl.DataFrame({"probability": probabilities.cpu().numpy()}).write_parquet(content)
    with written_whole(path) as partial:
        partial.write_bytes(content.getbuffer())
    say(f"{len(probabilities):,} probabilities: {shown(path)}")


# The table.


def print_summary(summary: dict[str, Any], folder: Path) -> None:
    """Prints the closing table: the full-size model beside the multi-size one, and what was saved and lost."""
    if not is_main():
        return
    models = headline.columns(summary)
    table = Table(title=f"{summary['command']}: {summary['data']['name']}", title_justify="left")
    table.add_column("")
    for name, _ in models:
        table.add_column(name, justify="right")
    for label, cells in headline.rows([model for _, model in models]):
        table.add_row(label, *cells)
    print_table(table)
    print_ending(summary, folder, headline.verdict(summary))


def print_table(table: Table) -> None:
    """Prints a table, within 80 columns where nobody's terminal says otherwise, and plain where it is none."""
    terminal = sys.stdout.isatty()
    Console(width=None if terminal else 80, force_terminal=None if terminal else False, highlight=False).print(table)


def print_ending(summary: dict[str, Any], folder: Path, verdict: str | None) -> None:
    """Prints what comes below the table: what could be reached at best, what the run says, and where it is."""
    best = summary["data"].get("best_auc")
    if best is not None:
        say(f"best reachable on this planted data: AUC {best:.4f}, logloss {summary['data']['best_logloss']:.4f}")
    if verdict is not None:
        say(verdict)
    page = folder / "report.html"
    # The folder of a run, and what to open in it.
    say(f"run folder: {shown(folder)}" + (f" (to look at: {page.name})" if page.is_file() else ""))
