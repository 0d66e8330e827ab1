#!/usr/bin/env python
"""Compares our full-size backbones on Frappe_x1 with the published figures of the BARS open benchmark.

    python benchmarks/published_frappe.py --data-folder DATA
    python benchmarks/published_frappe.py --data-folder DATA --backbones fm,dcn --seeds 1

Each run is ``train.py fit experiment=frappe_BACKBONE seed=SEED``, and its best checkpoint is also measured on the
validation split. Every run is one row of a CSV file; what is in the file is not run again. Words ``key=value`` behind
the options go into every run. Without ``--data-folder`` the data come from the hub.

The published test AUC and logloss (embedding size 10, batch size 4096) are those of https://openbenchmark.github.io/BARS,
each of one run of FuxiCTR or of the mean of several.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from accuracy_tables import mean_and_error
from grid import Grid, Search, done_cells, searches
from machine_facts import ROOT, machine_facts
from measure import quiet
from tidy_results import ResultFile, current_rows, read_results

from pme_lightning.cli import main as train
from pme_lightning.errors import BadInput, did_you_mean

RESULTS = ROOT / "benchmarks" / "results" / "published_frappe.csv"


class Published(NamedTuple):
    """What a benchmark says of a model: its name there, and its figures on the test split."""

    name: str
    auc: float
    logloss: float


PUBLISHED = {
    "fm": Published("FM", 0.9671, 0.2065),
    "deepfm": Published("DeepFM", 0.9840, 0.1495),
    "dcn": Published("DCN", 0.9839, 0.1527),
    "dcnv2": Published("DCN-V2", 0.9845, 0.1491),
    "autoint": Published("AutoInt", 0.9831, 0.1637),
    "autoint_plus": Published("AutoInt+", 0.9848, 0.1490),
}


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data-folder", metavar="FOLDER", help="where a folder 'frappe' of Parquet files lies")
    add("--backbones", default=",".join(PUBLISHED), help="(default: %(default)s)")
    add("--seeds", default="1,2,3", help="(default: %(default)s); none: print the table of what was measured")
    add("--out", type=Path, default=RESULTS, help="the CSV file (default: benchmarks/results/published_frappe.csv)")
    add("words", nargs="*", metavar="key=value", help="for every run")
    try:
        _run(parser.parse_args(words))
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _run(options: argparse.Namespace) -> None:
    backbones = [name.strip() for name in options.backbones.split(",") if name.strip()]
    for name in backbones:
        if name not in PUBLISHED:
            raise BadInput(f"--backbones: nothing is published of '{name}'; {did_you_mean(name, PUBLISHED)}")
    seeds = [seed.strip() for seed in options.seeds.split(",") if seed.strip()]
    for seed in seeds:
        if not seed.isdigit():
            raise BadInput(f"--seeds: '{seed}' is no whole number")
    grid = Grid(["frappe"], backbones, ["full"], [1.0], [int(seed) for seed in seeds])
    plan = searches(grid, options.data_folder, options.words)
    done = done_cells(read_results(options.out))
    missing = [run for run in plan if run.missing(done)]
    if missing:
        quiet()
        machine, file = machine_facts(), ResultFile(options.out)
        for run in missing:
            file.append(run.cell(1.0) | measured(run) | machine | {"date": datetime.now(UTC).isoformat()})
    rows = read_results(options.out).filter(pl.col("backbone").is_in(backbones))
    if len(rows):
        print("\n".join(table(current_rows(rows).to_dicts())))


def measured(run: Search) -> dict[str, Any]:
    """Trains and tests on the command line, and returns the columns that it fills."""
    with tempfile.TemporaryDirectory(prefix="published_frappe_") as scratch:
        fit, validate = Path(scratch) / "fit", Path(scratch) / "validate"
        _command("fit", *run.recipe.words, f"seed={run.seed}", f"run_dir={fit}")
        _command("validate", f"ckpt_path={fit / 'checkpoints' / 'full' / 'best.ckpt'}", f"run_dir={validate}")
        summary = json.loads((fit / "summary.json").read_text())
        valid = json.loads((validate / "summary.json").read_text())["valid"]
    embedding, finetune, test = summary["embedding"], summary["finetune"], summary["test"]
    return {
        "kept_fraction": embedding["fraction"],
        "parameters": embedding["parameters"],
        "bytes": embedding["bytes"],
        "valid_auc": valid["auc"],
        "test_auc": test["auc"],
        "test_logloss": test["logloss"],
        "best_epoch": finetune["best_epoch"],
        "epochs": finetune["epochs"],
        "finetune_seconds": round(finetune["seconds"], 3),
        "options": run.recipe.options,
    }


def _command(*words: str) -> None:
    try:
        train(words)
    except SystemExit as ended:
        raise BadInput(f"'train.py {words[0]} {words[1]}' ended with code {ended.code}") from ended


def table(rows: Iterable[dict[str, Any]]) -> list[str]:
    """Returns the lines of the Markdown table: a backbone each, in the order of :data:`PUBLISHED`, and what it ran on.

    Args:
        rows: Rows of the CSV file.
    """
    rows = list(rows)
    head = ["backbone", "published AUC", "ours, reconstructed train", "difference", "published logloss", "ours"]
    head += ["epochs", "seconds"]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    for backbone, published in PUBLISHED.items():
        own = [row for row in rows if row["backbone"] == backbone]
        if not own:
            continue
        auc, logloss = ([row[column] for row in own] for column in ("test_auc", "test_logloss"))
        cells = [published.name, f"{published.auc:.4f}", f"{_figure(auc)} (n={len(own)})"]
        cells += [f"{mean_and_error(auc)[0] - published.auc:+.4f}", f"{published.logloss:.4f}", _figure(logloss)]
        cells += [f"{mean_and_error([row['epochs'] for row in own])[0]:.0f}"]
        cells += [f"{mean_and_error([row['finetune_seconds'] for row in own])[0]:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")

    def named(column: str) -> str:
        return ", ".join(dict.fromkeys(str(row[column]) for row in rows))

    days = sorted({row["date"][:10] for row in rows})
    ran = f"{' to '.join(dict.fromkeys([days[0], days[-1]]))} on {named('processor')}, {named('threads')} threads"
    return [*lines, "", f"{len(rows)} runs of {ran}, torch {named('torch')}, commit {named('commit')}."]


def _figure(values: list[float]) -> str:
    mean, error = mean_and_error(values)
    return f"{mean:.4f}" + ("" if error is None else f" ± {error:.4f}")


if __name__ == "__main__":
    sys.exit(main())
