#!/usr/bin/env python
"""Says whether the sizes that a search finds follow the ranks that a synthetic click log was planted with.

    python benchmarks/planted_ranks.py
    python benchmarks/planted_ranks.py --tokens 20000 --methods pme,popularity_.5 --seeds 1,2,3
    python benchmarks/planted_ranks.py --budgets 0.02 --seeds 1,2 --train
    python benchmarks/planted_ranks.py --methods pme --oracle

For each method and budget: Spearman's rank correlation between size and planted rank, over the tokens with at least
100 rows, by mean and range over the seeds. Ranks are planted without regard to popularity, so that a rule of
popularity has nothing to find there. With ``--train`` also what knowing the ranks of those tokens would be worth: a
model is trained with the sizes found, and one where each of those tokens has its planted rank for a size, along the
axes of the search and from the searched model. With ``--oracle`` how well the ranks of those tokens can be told by one
who knows every vector of the log but the token's own.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from accuracy_per_byte import DataInMemory
from machine_facts import machine_facts
from measure import Found, Measurement, quiet
from methods import choose_methods, search_config
from rank_oracle import expected_ranks
from recipes import recipe
from torch import Tensor
from torchmetrics.functional import spearman_corrcoef

from pme_lightning.configuration.group_files import GroupFiles
from pme_lightning.errors import BadInput
from pme_lightning.search import SearchResult


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=100_000, help="of the log, with 20 rows each (default: 100000)")
    parser.add_argument("--methods", default="pme,popularity_.5", help="as in accuracy_per_byte.py")
    parser.add_argument("--budgets", default="0.5,0.2,0.1,0.05", help="fractions of the full per-token parameters")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--rows", type=int, default=100, help="the least rows of a token that counts (default: 100)")
    parser.add_argument("--train", action="store_true", help="train with the sizes found, and with planted ones")
    parser.add_argument("--oracle", action="store_true", help="how well one who knows the other vectors can tell them")
    parser.add_argument("words", nargs="*", metavar="key=value", help="for the training recipe")
    try:
        _run(parser.parse_args(words))
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _run(options: argparse.Namespace) -> None:
    budgets = [float(text) for text in options.budgets.split(",")]
    seeds = [int(text) for text in options.seeds.split(",")]
    config = recipe(f"synthetic_{options.tokens}", "deepfm", None, options.words).config()
    quiet()
    machine = machine_facts()
    print(f"{machine['processor']}, {machine['threads']} threads, torch {machine['torch']}, commit {machine['commit']}")
    data = DataInMemory().get(config)
    counted = data.frequencies >= options.rows
    print(f"{int(counted.sum()):,} tokens have {options.rows} rows or more\n")
    print("| method | " + " | ".join(f"{budget:.0%}" for budget in budgets) + " |")
    print("|---|" + "---|" * len(budgets))
    kept: dict[str, list[Found]] = {}
    for method in choose_methods(options.methods.split(",")):
        search = search_config(method, GroupFiles())
        if search is None:
            raise BadInput(f"--methods: '{method}' searches no sizes")
        found = [Measurement(config, data).search(search, budgets, seed) for seed in seeds]
        cells = []
        for budget in budgets:
            sizes = [each.sizes[budget] for each in found]
            values = [_correlation(result, data.planted_ranks, counted) for result in sizes]  # type: ignore[attr-defined]
            cells.append(f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")
        print(f"| {method} | " + " | ".join(cells) + " |", flush=True)
        kept[method] = found
    if options.oracle:
        tokens, expected = expected_ranks(data, options.rows)  # type: ignore[arg-type]
        told = spearman_corrcoef(expected, data.planted_ranks[tokens].float())  # type: ignore[attr-defined]
        print(f"\nwith every other vector known: {told:.3f}, over {len(tokens):,} tokens")
    if options.train:
        for name, found in kept.items():
            _train(name, Measurement(config, data), budgets, dict(zip(seeds, found, strict=True)), counted)


def _train(
    name: str, measurement: Measurement, budgets: Sequence[float], found: Mapping[int, Found], counted: Tensor
) -> None:
    """Prints test AUC with the sizes found, and with planted ranks for sizes of the tokens counted."""
    ranks = measurement.data.planted_ranks  # type: ignore[attr-defined]
    print(f"\n| {name} | seed | values found | test AUC | values, ranks planted | test AUC |")
    print("|---|---|---|---|---|---|")
    for budget in budgets:
        for seed, each in found.items():
            result = each.sizes[budget]
            assert not isinstance(result, str)  # refused before
            planted = torch.where(counted, ranks.clamp(max=result.embedding_dim), result.sizes)
            cells = []
            for sizes in (result.sizes, planted):
                trained = replace(result, sizes=sizes)
                row = measurement.train(seed, trained, each.trained)
                cells.append(f"{trained.parameters:,} | {row['test_auc']:.4f}")
            print(f"| {budget:.0%} | {seed} | " + " | ".join(cells) + " |", flush=True)


def _correlation(result: SearchResult | str, ranks: Tensor, counted: Tensor) -> float:
    if isinstance(result, str):
        raise BadInput(result)
    return float(spearman_corrcoef(result.sizes[counted].float(), ranks[counted].float()))


if __name__ == "__main__":
    sys.exit(main())
