#!/usr/bin/env python
"""Makes Markdown tables, and plots, of what accuracy_per_byte.py measured.

    python benchmarks/summarise_accuracy.py > tables.md
    python benchmarks/summarise_accuracy.py results.csv --metric test_logloss --plots docs/images
    python benchmarks/summarise_accuracy.py --merge

Rows of shards are read along. Where a data set and backbone were measured with several recipes, or a method with
several searches, those used last count; what is left out is said.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from accuracy_per_byte import RESULTS
from accuracy_tables import METRICS, tables
from plot_accuracy import plot
from tidy_results import current_rows, merge_results, read_results, result_files

from pme_lightning.errors import BadInput


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="?", type=Path, default=RESULTS, help="the CSV file")
    parser.add_argument("--metric", choices=list(METRICS), default="test_auc", help="what the tables show")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="write a plot for each data set and backbone")
    parser.add_argument("--kind", choices=["svg", "png"], default="svg", help="file type of the plots")
    parser.add_argument("--merge", action="store_true", help="first put the shards' rows into the one file")
    options = parser.parse_args(words)
    try:
        _summarise(options)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _summarise(options: argparse.Namespace) -> None:
    if not result_files(options.results):
        raise BadInput(f"there is no file '{options.results}': run accuracy_per_byte.py first")
    if options.merge:
        say(f"{merge_results(options.results)} rows in {options.results}")
    rows = read_results(options.results)
    current = current_rows(rows)
    if not len(current):
        raise BadInput(f"'{options.results}' holds no cells yet")
    if len(current) < len(rows):
        say(f"{len(rows) - len(current)} rows of earlier recipes or searches are left out")
    print(tables(current, options.metric))
    if options.plots:
        say("\n".join(map(str, plot(current, options.plots, options.kind))))


def say(text: str) -> None:
    """Prints beside the tables, which go to where the user sends them."""
    print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
