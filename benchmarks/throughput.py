"""Measures speed and memory: training, search, lookup, loading, evaluation, memory, checkpoints, growth, startup.

    python benchmarks/throughput.py                          # everything, some 20 minutes on two cores
    python benchmarks/throughput.py --quick                  # minutes: fewer rounds and steps, up to 10^6 tokens
    python benchmarks/throughput.py --sections train,lookup
    python benchmarks/throughput.py --device gpu --precision bf16-mixed --batch 65536

The contestants of a table take turns in every round, so that a machine that slows down slows all of them. The first
round is not counted. Prints the median, minimum and maximum over rounds, and ratios of medians. Figures are from one
run on one machine: compare them within a table, never across tables.

FuxiCTR and DeepCTR-Torch are measured if they are installed: ``pip install -e '.[bench]'``.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from machine_facts import machine_facts
from measure import quiet
from throughput_sections import SECTIONS
from throughput_settings import Settings
from training_sections import training_cases

RESULTS = Path(__file__).parent / "results" / "throughput.csv"
COLUMNS = ("section", "case", "contestant", "unit", "median", "least", "most", "rounds", "ratio", "ratio_to")


class Table:
    """Collects and prints measurements.

    Args:
        rounds: How often to measure each contestant.
    """

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.rows: list[dict[str, Any]] = []

    def race(
        self, section: str, case: str, contestants: Mapping[str, Callable[[], float]], unit: str, base: str
    ) -> None:
        """Measures contestants in turn, prints each with the ratio of its median to that of ``base``.

        Args:
            section: The section of the table.
            case: What all contestants have in common.
            contestants: Functions that measure once and return the result in ``unit``.
            unit: Unit of the results.
            base: The contestant whose median is the denominator of all ratios.
        """
        measured: dict[str, list[float]] = {name: [] for name in contestants}
        for number in range(self.rounds + 1):
            for name, measure in contestants.items():
                value = measure()
                if number:
                    measured[name].append(value)
        middle = statistics.median(measured[base])
        for name, values in measured.items():
            self.add(section, case, name, values, unit, statistics.median(values) / middle if middle else None, base)

    def add(
        self,
        section: str,
        case: str,
        contestant: str,
        values: list[float],
        unit: str,
        ratio: float | None = None,
        base: str = "",
    ) -> None:
        """Prints and keeps one line."""
        row = {
            "section": section,
            "case": case,
            "contestant": contestant,
            "unit": unit,
            "median": float(f"{statistics.median(values):.5g}"),
            "least": float(f"{min(values):.5g}"),
            "most": float(f"{max(values):.5g}"),
            "rounds": len(values),
            "ratio": None if ratio is None else round(ratio, 3),
            "ratio_to": base if ratio is not None else "",
        }
        self.rows.append(row)
        spread = f"({row['least']:,.5g} to {row['most']:,.5g})" if len(values) > 1 else ""
        share = f"{ratio:6.2f} x {base}" if ratio is not None else ""
        print(
            f"{section:10} {case:30} {contestant:28} {row['median']:>12,.5g} {unit:8} {spread:24} {share}", flush=True
        )

    def write(self, path: Path, facts: Mapping[str, Any]) -> None:
        """Writes all lines as one tidy file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [*COLUMNS, *facts])
            writer.writeheader()
            writer.writerows(row | dict(facts) for row in self.rows)


def main(words: list[str] | None = None) -> None:
    """Runs the requested sections."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", default=",".join(SECTIONS), help="comma-separated, from %(default)s")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and steps, tables of up to 10^6 tokens")
    parser.add_argument("--rounds", type=int, help="measurements per contestant (3, or 2 with --quick)")
    parser.add_argument("--steps", type=int, help="training steps per measurement (12, or 8 with --quick)")
    parser.add_argument("--batch", type=int, default=4096, help="rows per batch")
    parser.add_argument("--tokens", help="comma-separated table sizes, such as 1e5,1e6")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="where all contestants train")
    parser.add_argument("--precision", default="32-true", help="precision of ours, as in Lightning's trainer.precision")
    parser.add_argument("--only", default="", help="only training cases that start with this, such as 'DeepFM 64x64'")
    parser.add_argument("--no-peers", action="store_true", help="leave out FuxiCTR and DeepCTR-Torch")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the tidy file (%(default)s)")
    options = parser.parse_args(words)
    sections = options.sections.split(",")
    if unknown := set(sections) - set(SECTIONS):
        parser.error(f"--sections: there is no {', '.join(sorted(unknown))}; choose of {', '.join(SECTIONS)}")
    tokens = [int(float(word)) for word in options.tokens.split(",")] if options.tokens else None
    settings = Settings(
        steps=options.steps or (8 if options.quick else 12),
        batch_size=options.batch,
        tokens=tokens or ([100_000, 1_000_000] if options.quick else [100_000, 1_000_000, 5_000_000]),
        quick=options.quick,
        device=options.device,
        precision=options.precision,
        peers=not options.no_peers,
        only=options.only,
    )
    cases = training_cases(settings.tokens)
    if not any(case.startswith(settings.only) for case in cases):
        parser.error(f"--only: no case begins with '{settings.only}'; there are {'; '.join(cases)}")
    if settings.steps < 4:
        parser.error("--steps: 4 or more, the first two are not counted")
    quiet()
    facts = machine_facts() | {"batch": options.batch, "device": options.device, "precision": options.precision}
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    table = Table(options.rounds or (2 if options.quick else 3))
    for name in sections:
        SECTIONS[name](table, settings)
        table.write(options.out, facts)
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
