#!/usr/bin/env python
"""Searches the planted click log and draws the pictures of docs/how-it-works.md from what it finds.

    python benchmarks/draw_how_it_works.py --out docs/images
    python benchmarks/draw_how_it_works.py --rows 100000 --out /tmp/pictures model.embedding_dim=8

Three files: the sizes over how often tokens occur, the sizes over the ranks that the log was planted with, and what
each axis and each field keeps. The run itself is left in a folder under runs/.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pme_lightning import SearchResult, search_and_finetune
from pme_lightning.errors import BadInput

# Okabe and Ito's blue and vermilion, told apart with any colour vision.
_BLUE, _RED = "#0072B2", "#D55E00"


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=300_000, help="of the log (default: 300000)")
    parser.add_argument("--budget", default="0.2", help="what the sizes may sum to (default: 0.2)")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder of the pictures")
    parser.add_argument("words", nargs="*", metavar="key=value", help="further settings of the run")
    options = parser.parse_args(words)
    settings = {"data.rows": options.rows, "trainer.max_epochs": 1}
    settings |= dict(word.split("=", 1) for word in options.words)
    try:
        outcome = search_and_finetune(
            "synthetic", "deepfm", options.budget, baseline=False, seed=options.seed, settings=settings
        )
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for path in draw(outcome.sizes, outcome.data, options.out):
        print(path)
    return 0


def draw(result: SearchResult, data: Any, folder: Path) -> list[Path]:
    """Writes the pictures.

    Args:
        result: The sizes that a search found.
        data: The data module that they were searched on, with planted ranks.
        folder: Where to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {
        "sizes_by_popularity": _by_popularity(result, data.frequencies),
        "sizes_by_planted_rank": _by_rank(result, data.frequencies, data.planted_ranks),
        "kept_by_axis_and_field": _by_axis_and_field(result, data.field_tokens, data.fields),
    }
    # Text stays text, and the same sizes give the same file.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sizes"}):
        for name, figure in pictures.items():
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    return [folder / f"{name}.svg" for name in pictures]


def _by_popularity(result: SearchResult, frequencies: Tensor) -> Figure:
    """The mean size of tokens that occur about equally often, with the middle half of them."""
    edges = [1, *(2**k for k in range(1, int(frequencies.max()).bit_length()))]
    bands = torch.bucketize(frequencies, torch.tensor(edges), right=True)
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    middle, mean, low, high = [], [], [], []
    for band in range(1, len(edges) + 1):
        sizes = result.sizes[bands == band].double()
        if len(sizes):
            middle.append(edges[band - 1] * 2**0.5)
            mean.append(float(sizes.mean()))
            low.append(float(sizes.quantile(0.25)))
            high.append(float(sizes.quantile(0.75)))
    axes.fill_between(middle, low, high, color=_BLUE, alpha=0.2, linewidth=0, label="middle half of the tokens")
    axes.plot(middle, mean, "o-", color=_BLUE, markersize=4, label="mean size")
    axes.set_xscale("log")
    axes.set_ylim(-0.3, result.embedding_dim + 0.3)
    axes.set_xlabel("training rows of a token")
    axes.set_ylabel("size found")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def _by_rank(result: SearchResult, frequencies: Tensor, ranks: Tensor) -> Figure:
    """The sizes of tokens with many rows, by the rank that the log gave them."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    values = sorted(set(ranks.tolist()))
    for fewest, colour, aside in ((100, _BLUE, -0.17), (1000, _RED, 0.17)):
        groups = [result.sizes[(ranks == rank) & (frequencies >= fewest)].double() for rank in values]
        places = [place + aside for place, group in enumerate(groups) if len(group)]
        groups = [group for group in groups if len(group)]
        mean = [float(group.mean()) for group in groups]
        spread = [[float((m - g.quantile(0.25)).clamp(min=0)) for m, g in zip(mean, groups, strict=True)]]
        spread += [[float((g.quantile(0.75) - m).clamp(min=0)) for m, g in zip(mean, groups, strict=True)]]
        label = f"tokens with {fewest:,} rows or more ({sum(map(len, groups)):,})"
        axes.errorbar(places, mean, yerr=spread, fmt="o", color=colour, capsize=3, markersize=5, label=label)
    axes.set_xticks(range(len(values)), [str(rank) for rank in values])
    axes.set_ylim(-0.3, result.embedding_dim + 0.3)
    axes.set_xlabel("planted rank: how many values the token truly has")
    axes.set_ylabel("size found (mean, middle half)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def _by_axis_and_field(result: SearchResult, field_tokens: Sequence[int], fields: Sequence[str]) -> Figure:
    """How many tokens keep each axis, and which part of its values each field keeps."""
    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    D = result.embedding_dim
    share = [100 * float((result.sizes >= axis).double().mean()) for axis in range(1, D + 1)]
    left.bar(range(1, D + 1), share, color=_BLUE)
    left.set_xticks(range(1, D + 1, max(1, D // 8)))
    left.set_xlabel("axis, the most important first")
    left.set_ylabel("tokens that keep it, %")
    kept = [100 * float(part.double().mean()) / D for part in result.sizes.split(list(field_tokens))]
    names = [f"{name} ({tokens:,})" for name, tokens in zip(fields, field_tokens, strict=True)]
    right.barh(names[::-1], kept[::-1], color=_BLUE)
    right.set_xlabel("kept of the field's embedding values, %")
    return figure


if __name__ == "__main__":
    sys.exit(main())
