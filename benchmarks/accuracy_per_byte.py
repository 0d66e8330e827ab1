#!/usr/bin/env python
"""Measures accuracy over the bytes of the embedding: data sets x backbones x methods x budgets x seeds.

    python benchmarks/accuracy_per_byte.py --quick
    python benchmarks/accuracy_per_byte.py --data-folder DATA --list
    python benchmarks/accuracy_per_byte.py --data-folder DATA
    python benchmarks/accuracy_per_byte.py --data-folder DATA --backbones dcn,dcnv2,autoint --methods full,uniform,pme

Every cell is one row of a CSV file. What is in the file is not run again, so a run can be killed and repeated at any
time; how much of it other commits have measured is told. With ``--shard 1/2`` and ``--shard 2/2`` two processes share
a grid. Words ``key=value`` behind the options go into the training recipe of every method, as on the command line of
``train.py``. ``summarise_accuracy.py`` makes tables and plots of the file.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from grid import Grid, Search, describe, done_cells, progress, searches
from machine_facts import ROOT, machine_facts
from measure import Measurement, quiet
from methods import DEFAULT_METHODS, choose_methods
from tidy_results import ResultFile, read_results, result_files, shard_path

from pme_lightning.configuration.objects import build
from pme_lightning.data import EncodedDataModule
from pme_lightning.errors import BadInput
from pme_lightning.search import parse_budget

RESULTS = ROOT / "benchmarks" / "results" / "accuracy_per_byte.csv"
QUICK_RESULTS = Path("runs") / "accuracy_quick.csv"
DEFAULTS = {
    "data": "goodbooks,frappe,synthetic_1e5,synthetic_1e6",
    "methods": ",".join(DEFAULT_METHODS),
    "budgets": "0.5,0.2,0.1,0.05,0.02",
    "seeds": "1,2,3,4,5",
}
QUICK = {"data": "synthetic_5000", "methods": "full,uniform,popularity_.5,pme", "budgets": "0.2,0.05", "seeds": "1,2"}


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    try:
        _run(_parser().parse_args(words))
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", help=f"synthetic_N, presets, or folders of --data-folder (default: {DEFAULTS['data']})")
    add("--data-folder", metavar="FOLDER", help="where data sets lie, each a folder of Parquet files")
    add("--backbones", default="deepfm", help="choices of the backbone group (default: deepfm)")
    add("--methods", help=f"names or patterns; also pme@1/16 ... pme@1 (default: {DEFAULTS['methods']})")
    add("--budgets", help=f"fractions of the full per-token parameters (default: {DEFAULTS['budgets']})")
    add("--seeds", help=f"(default: {DEFAULTS['seeds']})")
    add("--out", type=Path, help="the CSV file (default: benchmarks/results/accuracy_per_byte.csv)")
    add("--shard", default="1/1", metavar="I/N", help="run the I-th of N parts of the grid, into a file of its own")
    add("--quick", action="store_true", help="a small grid that takes minutes, into runs/accuracy_quick.csv")
    add("--list", action="store_true", help="print the cells and how many are done, and run nothing")
    add("words", nargs="*", metavar="key=value", help="for the training recipe of every method")
    return parser


def _run(options: argparse.Namespace) -> None:
    defaults = DEFAULTS | (QUICK if options.quick else {})
    chosen = {name: split(getattr(options, name) or value) for name, value in defaults.items()}
    grid = Grid(
        datasets=chosen["data"],
        backbones=split(options.backbones),
        methods=choose_methods(chosen["methods"]),
        budgets=[_budget(text) for text in chosen["budgets"]],
        seeds=[_seed(text) for text in chosen["seeds"]],
    )
    path: Path = options.out or (QUICK_RESULTS if options.quick else RESULTS)
    shard, shards = _shard(options.shard)
    plan = searches(grid, options.data_folder, options.words)[shard - 1 :: shards]
    rows = read_results(path)
    if options.list:
        print("\n".join(describe(plan, rows)))
        print(f"{progress(plan, rows)} ({', '.join(map(str, result_files(path))) or f'{path} is not there yet'})")
        return

    quiet()
    machine = machine_facts()
    print(f"{machine['processor']}, {machine['threads']} threads, torch {machine['torch']}, commit {machine['commit']}")
    own = ResultFile(shard_path(path, shard, shards))
    print(f"{progress(plan, rows, str(machine['commit']))}; {own.path}", flush=True)
    done = done_cells(rows)
    data = DataInMemory()
    for search in plan:
        missing = search.missing(done)
        if missing:
            for row in measured(search, missing, data):
                own.append(search.cell(row["budget"]) | row | machine | {"date": now()})
                print(_line(search, row), flush=True)
            print(f"  {progress(plan, read_results(path))}", flush=True)


def measured(search: Search, budgets: list[float], data: DataInMemory) -> Any:
    """Runs one search and yields the measured columns for each budget, one training each."""
    config = search.recipe.config()
    measurement = Measurement(config, data.get(config))
    facts: dict[str, Any] = {"options": search.recipe.options}
    if search.config is None:
        yield facts | {"budget": 1.0} | measurement.train(search.seed)
        return
    # The whole grid's budgets go in, so that a search that is repeated for those missing is the same as before.
    found = measurement.search(search.config, search.budgets, search.seed)
    facts |= {"search_seconds": round(found.seconds, 3), "search_steps": found.steps}
    for budget in budgets:
        sizes = found.sizes[budget]
        if isinstance(sizes, str):
            yield facts | {"budget": budget, "note": sizes}
        else:
            yield facts | {"budget": budget} | measurement.train(search.seed, sizes, found.trained)


class DataInMemory:
    """The data set in work; the one before it is let go."""

    def __init__(self) -> None:
        self._name = ""
        self._data: EncodedDataModule | None = None

    def get(self, config: Any) -> EncodedDataModule:
        """Returns the data that a configuration describes, set up."""
        name = json.dumps(config.data.as_dict(), sort_keys=True, default=str)
        if self._data is None or name != self._name:
            self._data = None
            started = time.perf_counter()
            data = build(config.data)
            data.prepare_data()
            data.setup()
            rows = " / ".join(f"{rows:,}" for rows in data.rows.values())
            seconds = time.perf_counter() - started
            print(f"{data.name}: {rows} rows, {len(data.fields)} fields, {data.num_tokens:,} tokens, {seconds:.0f} s")
            self._name, self._data = name, data
        return self._data


def _line(search: Search, row: dict[str, Any]) -> str:
    where = f"{search.dataset} {search.backbone} {search.method} {row['budget']:.1%} seed {search.seed}"
    if row.get("note"):
        return f"{where}: {row['note']}"
    return (
        f"{where}: AUC {row['test_auc']:.4f}, logloss {row['test_logloss']:.4f}, kept {row['kept_fraction']:.2%}, "
        f"best epoch {row['best_epoch']}, {row['finetune_seconds']:.1f} s"
    )


def split(text: str) -> list[str]:
    """Returns the parts of a list with commas, each once."""
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _budget(text: str) -> float:
    budget = parse_budget(text)
    if budget.kind != "fraction":
        raise BadInput(f"--budgets: '{text}' is no fraction of the full parameters, such as 0.1 or 10%")
    return float(budget.value)


def _seed(text: str) -> int:
    if not text.isdigit():
        raise BadInput(f"--seeds: '{text}' is no whole number")
    return int(text)


def _shard(text: str) -> tuple[int, int]:
    shard, slash, shards = text.partition("/")
    if not (slash and shard.isdigit() and shards.isdigit() and 1 <= int(shard) <= int(shards)):
        raise BadInput(f"--shard: '{text}' must be I/N with I from 1 to N, such as 1/2")
    return int(shard), int(shards)


def now() -> str:
    """Returns the time, in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


if __name__ == "__main__":
    sys.exit(main())
