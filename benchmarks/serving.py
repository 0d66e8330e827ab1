#!/usr/bin/env python
"""How long an exported model takes for some rows, against the model that it was made of.

    python benchmarks/serving.py
    python benchmarks/serving.py --tokens 1e7 --rows 1,1000

DeepFM, 39 fields, D = 16, network 3 x 400, sizes by popularity at 10%, ids as frequent as a Zipf law has them; of
nothing but draws, as values make no difference to time. Each is asked in turn, round by round; median and quartiles.
``compiled`` is the program compiled by AOTInductor, which needs a C++ compiler; ``--no-compile`` leaves it out.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from contestants import sizes_by_popularity
from machine_facts import machine_facts
from torch import Tensor
from zipf_clicks import ZipfClicks

from pme_lightning import CTRModule, export_model
from pme_lightning.callbacks import TransferCallback

Program = Callable[[Tensor], Tensor]


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=float, default=1e6, help="(default: 1e6)")
    parser.add_argument("--rows", default="1,128,8192", help="rows that are asked for at a time (default: 1,128,8192)")
    parser.add_argument("--bits", default="32,8,4", help="of a value (default: 32,8,4)")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--no-compile", action="store_true", help="without the compiled programs")
    options = parser.parse_args()
    asked = [int(rows) for rows in options.rows.split(",")]

    facts = machine_facts()
    print(f"{facts['processor']}, {facts['threads']} threads, torch {facts['torch']}, commit {facts['commit']}")
    data = ZipfClicks(int(options.tokens), train_rows=max(asked), batch_size=max(asked))
    data.setup()
    module = CTRModule(data.field_tokens, "pme_lightning.backbones.DeepFM", {"hidden_units": [400, 400, 400]}, 16)
    sizes = sizes_by_popularity(data.popularity(), 0.1, first_order=True)
    TransferCallback(sizes, init="warm").rebuild(module, renumbered=True)
    module.eval()
    rows = torch.from_numpy(data.data.splits["train"][0]).long()
    # Each model numbers tokens in its own way: so many rows of its own ids for each.
    ids = {"the model itself": sizes.order().argsort()[rows]}
    programs: dict[str, Program] = {"the model itself": lambda rows: torch.sigmoid(module(rows))}
    with tempfile.TemporaryDirectory(prefix="serving_") as folder:
        for bits in map(int, options.bits.split(",")):
            exported = export_model(module, data, Path(folder) / str(bits), sizes, bits)
            size = exported.facts["embedding_bytes"] / 1e6
            own = torch.tensor(exported.ids).long()[rows]
            name = f"exported, {bits} bits ({size:.1f} MB of table)"
            programs[name], ids[name] = exported.program, own
            if not options.no_compile:
                name = f"compiled, {bits} bits"
                programs[name], ids[name] = _compiled(exported.folder), own
        width = max(map(len, programs))
        print(f"{'ms, median (quartiles)':<{width}}", *(f"{rows:>8,} rows         " for rows in asked))
        times = {
            count: _times(programs, {name: own[:count] for name, own in ids.items()}, options.rounds) for count in asked
        }
        for name in programs:
            print(f"{name:<{width}}", *(_shown(times[count][name]) for count in asked))


def _compiled(folder: Path) -> Program:
    program = torch.export.load(folder / "model.pt2")
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(folder / "compiled.pt2"))
    return torch._inductor.aoti_load_package(path)


def _times(programs: dict[str, Program], ids: dict[str, Tensor], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in programs}
    with torch.inference_mode():
        for round_ in range(rounds + 2):
            for name, program in programs.items():
                started = time.perf_counter()
                program(ids[name])
                if round_ >= 2:
                    times[name].append((time.perf_counter() - started) * 1e3)
    return times


def _shown(times: list[float]) -> str:
    low, middle, high = statistics.quantiles(times, n=4)
    return f"{middle:8.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
