#!/usr/bin/env python
"""Measures accuracy over the bytes of the exported table: methods x bytes x bits of a value x seeds.

    python benchmarks/accuracy_exported.py --data-folder DATA --data goodbooks
    python benchmarks/accuracy_exported.py --tables --plots docs/images

With fewer bits a value the same bytes hold more values: each cell is searched for what fits into the bytes once it is
exported (``search.budget=5%@8bit``), trained, and measured as it is exported, validation and test split. The full-size
model is measured with all numbers of bits. What is in the file is not run again. Words ``key=value`` go into the
training recipe.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import polars as pl
from accuracy_per_byte import DataInMemory, now, split
from accuracy_tables import figure, is_rule, markdown, mean_and_error, paired
from machine_facts import ROOT, machine_facts
from measure import Measurement, quiet
from methods import choose_methods, search_config
from plot_exported import plot
from recipes import recipe
from tidy_results import ResultFile, read_results

from pme_lightning.configuration.group_files import GroupFiles
from pme_lightning.errors import BadInput
from pme_lightning.export import ServedModel
from pme_lightning.export.measured import measured
from pme_lightning.module import CTRModule
from pme_lightning.search import SearchResult

RESULTS = ROOT / "benchmarks" / "results" / "accuracy_exported.csv"
SCHEMA: dict[str, type[pl.DataType]] = {
    "dataset": pl.String,
    "backbone": pl.String,
    "method": pl.String,
    "asked": pl.Float64,  # bytes of the exported table at most, as a fraction of the full-size one in 32 bits
    "bits": pl.Int64,  # of a value
    "seed": pl.Int64,
    "budget": pl.Float64,  # values and projections, as a fraction of the full-size ones
    "fraction": pl.Float64,  # bytes of the exported table: values, scales, projections
    "bytes": pl.Int64,
    "valid_auc": pl.Float64,
    "test_auc": pl.Float64,
    "test_logloss": pl.Float64,
    "trained_auc": pl.Float64,  # of the same model with all its bits, on the test split
    "commit": pl.String,
    "torch": pl.String,
    "threads": pl.Int64,
    "processor": pl.String,
    "date": pl.String,
    "options": pl.String,  # the words of the training recipe
    "note": pl.String,  # why there are no metrics
}
KEY = ["dataset", "backbone", "method", "asked", "bits", "seed", "options"]
METHODS = "full,uniform_rows,popularity_.25_rows,pme"


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", default="goodbooks", help="synthetic_N, presets, or folders of --data-folder (default: goodbooks)")
    add("--data-folder", metavar="FOLDER", help="where data sets lie, each a folder of Parquet files")
    add("--backbone", default="deepfm", help="(default: deepfm)")
    add("--methods", default=METHODS, help=f"as in accuracy_per_byte.py (default: {METHODS})")
    add("--bytes", default=".1,.05,.02", help="fractions of the full-size table's bytes (default: .1,.05,.02)")
    add("--bits", default="32,8,4", help="of a value: 32, 16, 8, 4 (default: 32,8,4)")
    add("--seeds", default="1,2,3,4,5", help="(default: 1,2,3,4,5)")
    add("--out", type=Path, default=RESULTS, help="the CSV file (default: benchmarks/results/accuracy_exported.csv)")
    add("--tables", action="store_true", help="print the tables of the file, and run nothing")
    add("--plots", type=Path, metavar="FOLDER", help="with --tables: write a plot for each data set and backbone")
    add("words", nargs="*", metavar="key=value", help="for the training recipe of every method")
    options = parser.parse_args(words)
    try:
        if not options.tables:
            _run(options)
        rows = read_results(options.out, SCHEMA, KEY)
        print(tables(rows))
        if options.plots:
            print("\n".join(map(str, plot(rows, options.plots))), file=sys.stderr)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _run(options: argparse.Namespace) -> None:
    quiet()
    machine, data, results = machine_facts(), DataInMemory(), ResultFile(options.out, SCHEMA)
    methods = choose_methods(split(options.methods))
    configs = {method: search_config(method, GroupFiles()) for method in methods}
    bits, asked = [int(each) for each in split(options.bits)], [float(each) for each in split(options.bytes)]
    for dataset in split(options.data):
        used = recipe(dataset, options.backbone, options.data_folder, options.words)
        measurement = Measurement(used.config(), data.get(used.config()))
        for seed in map(int, split(options.seeds)):
            for method, config in configs.items():
                cells = [(1.0, each) for each in bits] if config is None else [(a, b) for a in asked for b in bits]
                where = {"dataset": dataset, "backbone": options.backbone, "method": method, "seed": seed}
                where["options"] = used.options
                done = read_results(options.out, SCHEMA, KEY)
                missing = [cell for cell in cells if not _is_done(done, where | {"asked": cell[0], "bits": cell[1]})]
                for row in _measured(measurement, config, missing, seed) if missing else ():
                    results.append(where | row | machine | {"date": now()})
                    print(f"{dataset} {method} seed {seed}: {_said(row)}", flush=True)


def _is_done(rows: pl.DataFrame, cell: dict[str, Any]) -> bool:
    return len(rows.filter(*(pl.col(name) == cell[name] for name in KEY))) > 0


def _measured(
    measurement: Measurement, config: dict[str, Any] | None, cells: list[tuple[float, int]], seed: int
) -> Iterator[dict[str, Any]]:
    """Yields the columns of each cell, the bytes asked for and the bits; one search serves all of them."""
    if config is None:
        module, row = measurement.best(seed)
        for asked, bits in cells:
            yield {"asked": asked, "bits": bits} | _as_exported(measurement, module, None, bits, row)
        return
    budgets = {(asked, bits): f"{asked}@{bits}bit" for asked, bits in cells}
    found = measurement.search(config, list(budgets.values()), seed)
    for (asked, bits), budget in budgets.items():
        row, sizes = {"asked": asked, "bits": bits}, found.sizes[budget]
        if isinstance(sizes, str):
            yield row | {"note": sizes}
        else:
            module, trained = measurement.best(seed, sizes, found.trained)
            yield row | _as_exported(measurement, module, sizes, bits, trained)


def _as_exported(
    measurement: Measurement, module: CTRModule | None, sizes: SearchResult | None, bits: int, row: dict[str, Any]
) -> dict[str, Any]:
    if module is None:
        return {"note": row["note"]}
    data = measurement.data
    whole = ServedModel.of(module.cpu(), sizes, 32)
    served = whole if bits == 32 else ServedModel.of(module, sizes, bits, data.frequencies)
    size, full = served.embedding.num_bytes, 4 * module.full_parameters
    data.renumber(whole.order())
    trained_auc = measured(whole, data.test_dataloader())["auc"]
    data.renumber(served.order())
    tested = measured(served, data.test_dataloader())
    values = module.full_parameters if sizes is None else sizes.parameters + sizes.projection_parameters
    return {
        "budget": values / module.full_parameters,
        "fraction": size / full,
        "bytes": size,
        "valid_auc": measured(served, data.val_dataloader())["auc"],
        "test_auc": tested["auc"],
        "test_logloss": tested["logloss"],
        "trained_auc": trained_auc,
    }


def _said(row: dict[str, Any]) -> str:
    where = f"{row['bits']} bits, {row['asked']:.0%} of the bytes"
    if "note" in row:
        return f"{where}: {row['note']}"
    return f"{where} ({row['budget']:.1%} of the values): {row['test_auc']:.4f}"


def tables(rows: pl.DataFrame) -> str:
    """Returns the tables of each data set and backbone as Markdown; ``rows``: of the file."""
    parts = rows.partition_by("dataset", "backbone", maintain_order=True, as_dict=True)
    return "\n\n".join(_table(f"{dataset}, {backbone}", part) for (dataset, backbone), part in parts.items())


def _table(title: str, rows: pl.DataFrame) -> str:
    asked = sorted(set(rows.filter(pl.col("method") != "full")["asked"]), reverse=True)
    cells: dict[tuple[str, int, float], dict[int, float]] = {}
    lost: dict[tuple[str, int, float], list[float]] = {}
    for row in rows.drop_nulls("test_auc").to_dicts():
        cell = row["method"], row["bits"], row["asked"]
        cells.setdefault(cell, {})[row["seed"]] = row["test_auc"]
        lost.setdefault(cell, []).append(row["test_auc"] - row["trained_auc"])
    methods = dict.fromkeys(rows.filter(pl.col("method") != "full")["method"])
    bits = sorted(set(rows["bits"]), reverse=True)
    whole = {each: cells.get(("full", each, 1.0), {}) for each in bits}
    lines = [f"{each} bits: {_figure(whole[each].values())}" for each in bits if whole[each]]
    body = []
    for each in bits:
        found = {method: [cells.get((method, each, a), {}) for a in asked] for method in methods}
        rules = [found[method] for method in methods if is_rule(method)] or [[{}] * len(asked)]
        best = [max(beside, key=lambda values: fmean(values.values() or [0])) for beside in zip(*rules, strict=True)]
        for method, own in found.items():
            body.append([f"{method}, {each} bits", *(_figure(values.values()) for values in own)])
            if not is_rule(method):
                to_rule = (paired(*pair) for pair in zip(own, best, strict=True))
                body.append(["to the best rule", *(_figure(values, True) for values in to_rule)])
                to_full = (paired(values, whole[bits[0]]) for values in own)
                body.append([f"to full size of {bits[0]} bits", *(_figure(values, True) for values in to_full)])
                if each < bits[0]:
                    by_bits = (lost.get((method, each, a), []) for a in asked)
                    body.append(["to the same model before", *(_figure(values, True) for values in by_bits)])
    seeds, commits = len(set(rows["seed"])), ", ".join(sorted(set(rows["commit"])))
    head = [f"{title}: test AUC", *(f"{a:.4g} of the bytes" for a in asked)]
    made = f"{seeds} seeds, {rows['processor'][0]}, {rows['threads'][0]} threads, torch {rows['torch'][0]}, {commits}."
    full = ["Full size, " + "; ".join(lines) + "."] if lines else []
    return "\n\n".join([*full, markdown(head, body), made])


def _figure(values: Any, sign: bool = False) -> str:
    values = list(values)
    return figure(*mean_and_error(values), sign) if values else "-"


if __name__ == "__main__":
    sys.exit(main())
