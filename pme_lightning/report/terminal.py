"""What a run prints: lines while it goes, and the table at its end."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from pme_lightning import headline
from pme_lightning.processes.ranks import is_main

if TYPE_CHECKING:
    from pme_lightning.data import EncodedDataModule


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
