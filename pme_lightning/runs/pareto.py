"""The ``pareto`` command: one search, then a model of every budget; the curve of accuracy over bytes.

The search is made for the largest budget, whatever their order: that is what a gradual search prunes toward, and the
sizes of the smaller budgets come from the scores it ends with. A search that trains without regard to its budget gives
for each the model that ``pme search.budget=B`` finds and trains.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from jsonargparse import Namespace
from rich.table import Table

from pme_lightning import report
from pme_lightning.configuration.objects import build
from pme_lightning.errors import BadInput
from pme_lightning.headline import curve_rows
from pme_lightning.module import CTRModule
from pme_lightning.processes.ranks import is_main
from pme_lightning.runs.budgets import Value, fitting_budgets, read_budgets
from pme_lightning.runs.checkpoints import searched_model
from pme_lightning.search import SearchResult

if TYPE_CHECKING:
    from pme_lightning.runs.phases import Phases


# What :func:`settle_budgets` settles.
SETTLED = ("budgets", "search.init_args.budget")


def settle_budgets(config: Namespace, module: CTRModule) -> None:
    """Puts the budgets in order, the largest first, and has the search made for the largest.

    Raises:
        BadInput: Nothing fits into a budget.
    """
    search = build(config.search)
    budgets = fitting_budgets(
        read_budgets(config.budgets),
        module.full_table,
        getattr(search, "allocator", None),
        module.field_tokens,
        getattr(search, "each_field", False),
    )
    config.budgets = list(budgets.values())
    config.search.init_args.budget = config.budgets[0]


def run_pareto(phases: Phases) -> dict[str, Any]:
    """Searches, trains and tests; writes ``pareto.csv`` and returns what ``summary.json`` holds.

    It holds the keys of every summary and ``pareto``, a list of one block a budget, the largest first: ``budget``,
    ``sizes`` (the file, in the run folder), ``embedding``, ``finetune`` and ``test``. The ``embedding``, ``finetune``
    and ``test`` beside it are those of the largest budget, the one that ``search`` tells of too: without the list it
    is the summary of a ``pme`` run of that budget.
    """
    folder, budgets = phases.folder, read_budgets(phases.config.budgets)
    searched = phases.searched(partial(_save_sizes, phases, budgets))[0]
    curve = []
    for number, name in enumerate(budgets, start=1):
        report.say(f"budget {name} ({number} of {len(budgets)})")
        curve.append({"budget": name, **_point(phases, name)})
    largest = {key: value for key, value in curve[0].items() if key not in ("budget", "sizes")}
    summary = phases.summary(searched, largest, phases.baseline()) | {"pareto": curve}
    folder.write_text("pareto.csv", pl.DataFrame(curve_rows(summary)).write_csv())
    return summary


def _save_sizes(phases: Phases, budgets: dict[str, Value], search: Any) -> None:
    for name, value in budgets.items():
        try:
            result = search.result_for(value)
        except BadInput as error:
            raise BadInput(f"budgets: {value}: {error}") from error
        phases.keep_sizes(result, name)


def _point(phases: Phases, name: str) -> dict[str, Any]:
    sizes = phases.folder.sizes_of(name)
    trained = phases.trained(f"finetune-{name}", _start(phases), phases.transfer(SearchResult.load(sizes)))
    return {"sizes": sizes.relative_to(phases.folder.path).as_posix(), **trained}


def _start(phases: Phases) -> CTRModule:
    """Returns the module that a fine-tune starts from: every budget's has one of its own, in the same state."""
    if not phases.warm:
        return phases.module()
    return searched_model(phases.folder, phases.shard)


def print_curve(summary: dict[str, Any], folder: Path) -> None:
    """Prints the closing table: the full-size model, and one row a budget."""
    if not is_main():
        return
    table = Table(title=f"pareto: {summary['data']['name']}", title_justify="left")
    table.add_column("budget")
    for name in ("kept", "bytes", "test AUC", "logloss", "seconds"):
        table.add_column(name, justify="right")
    for row in curve_rows(summary):
        metrics = ("-" if row[key] is None else f"{row[key]:.4f}" for key in ("auc", "logloss"))
        table.add_row(row["budget"], f"{row['fraction']:.1%}", f"{row['bytes']:,}", *metrics, f"{row['seconds']:.1f}")
    report.print_table(table)
    report.print_ending(summary, folder, _cost(summary))


def _cost(summary: dict[str, Any]) -> str:
    seconds = summary["search"]["seconds"]
    line = f"one search: {seconds:.1f} s, in every budget's seconds"
    if summary["baseline"]:
        share = seconds / summary["baseline"]["finetune"]["seconds"]
        line += f"; {f'{share:.0%} of' if share < 2 else f'{share:.1f} times'} the full-size training"
    return line
