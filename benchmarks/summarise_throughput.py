#!/usr/bin/env python
"""Makes Markdown tables of what throughput.py measured.

    python benchmarks/summarise_throughput.py > tables.md
    python benchmarks/summarise_throughput.py results.csv --into docs/speed.md

``--into`` puts them between the two comments of the page that mark their place.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from throughput import RESULTS
from throughput_tables import Results, tables

from pme_lightning.errors import BadInput

BEGIN, END = "<!-- throughput tables -->", "<!-- end of throughput tables -->"


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="?", type=Path, default=RESULTS, help="the CSV file")
    parser.add_argument("--into", type=Path, metavar="PAGE", help="the Markdown page to put them in")
    options = parser.parse_args(words)
    try:
        made = tables(Results(options.results))
        if options.into is None:
            print(made, end="")
        else:
            put_into(options.into, made)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def put_into(page: Path, made: str) -> None:
    """Replaces what is between the comments of a page.

    Raises:
        BadInput: There is no such page, or it lacks one of the comments.
    """
    if not page.is_file():
        raise BadInput(f"there is no page '{page}'")
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise BadInput(f"'{page}' does not say where the tables go: it needs the lines {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n\n{made}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
