"""Markdown tables of what throughput.py measured, and which targets were reached."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pme_lightning.errors import BadInput

TITLES = {
    "train": "A training step, loading included",
    "search": "A search step",
    "lookup": "A lookup, forward and backward",
    "loader": "The loader alone",
    "evaluate": "Computing AUC and logloss",
    "memory": "Memory and checkpoints",
    "growth": "Growing vocabularies",
    "start": "Startup",
}
OURS, MULTI, FLOOR = "ours, full size", "ours, multi-size 10%", "network alone"
WIDE, NARROW = "DeepFM 400x400x400", "DeepFM 64x64"


@dataclass(frozen=True)
class Line:
    """One contestant of one case: median, minimum and maximum over rounds."""

    median: float
    least: float
    most: float
    unit: str
    ratio: float | None


class Results:
    """A result file of throughput.py.

    Args:
        path: The file.

    Raises:
        BadInput: There is no such file, or nothing in it.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise BadInput(f"there is no file '{path}': run throughput.py first")
        with path.open(encoding="utf-8") as file:
            self.rows = list(csv.DictReader(file))
        if not self.rows:
            raise BadInput(f"'{path}' holds no measurements yet")
        self.lines = {(row["section"], row["case"], row["contestant"]): _line(row) for row in self.rows}

    def sections(self) -> list[str]:
        """Returns the sections that were measured, in order."""
        return list(dict.fromkeys(section for section, _, _ in self.lines))

    def cases(self, section: str) -> list[str]:
        """Returns the cases of a section, in order."""
        return list(dict.fromkeys(case for own, case, _ in self.lines if own == section))

    def contestants(self, section: str) -> list[str]:
        """Returns the contestants of a section, in order."""
        return list(dict.fromkeys(name for own, _, name in self.lines if own == section))

    def get(self, section: str, case: str, contestant: str) -> Line | None:
        """Returns what was measured, or None."""
        return self.lines.get((section, case, contestant))

    def quotient(self, section: str, case: str, over: str, under: str) -> float | None:
        """Returns the median of one contestant divided by that of another; None unless both were measured."""
        above, below = self.get(section, case, over), self.get(section, case, under)
        return above.median / below.median if above and below and below.median else None


def tables(results: Results) -> str:
    """Returns the table of targets, and then a table for each section."""
    parts = [_aims(results), *(_section(results, section) for section in results.sections()), _made_on(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _line(row: dict[str, str]) -> Line:
    ratio = float(row["ratio"]) if row["ratio"] else None
    return Line(float(row["median"]), float(row["least"]), float(row["most"]), row["unit"], ratio)


def _section(results: Results, section: str) -> str:
    cases, contestants = results.cases(section), results.contestants(section)
    found = {case: {name: results.get(section, case, name) for name in contestants} for case in cases}
    if section == "memory":
        # Many figures and few cases: transposed.
        found = {name: {case: found[case][name] for case in cases} for name in contestants}
        cases, contestants = contestants, cases
    units = {line.unit for row in found.values() for line in row.values() if line}
    base = next((row["ratio_to"] for row in results.rows if row["section"] == section and row["ratio_to"]), "")
    with_ratio = len(contestants) > 1 and section != "memory"
    body = [[case, *(_cell(found[case][name], units, with_ratio) for name in contestants)] for case in cases]
    unit = f" in {units.pop()}" if len(units) == 1 else ""
    said = f"Median{unit} (min to max)" + (f", and its ratio to `{base}`" if with_ratio else "")
    text = "" if section == "memory" else f"{said}:\n\n"
    return f"### {TITLES.get(section, section)}\n\n{text}{_markdown(['', *contestants], body)}"


def _cell(line: Line | None, units: set[str], with_ratio: bool) -> str:
    if line is None:
        return "-"
    text = _number(line.median) + (f" {line.unit}" if len(units) > 1 and line.unit else "")
    if line.least != line.most:
        text += f" ({_number(line.least)} to {_number(line.most)})"
    return text + (f", {line.ratio:.2f} x" if with_ratio and line.ratio is not None else "")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _aims(results: Results) -> str:
    body = [[what, f"{aim}", measured] for what, aim, measured in _aimed(results)]
    return "### Targets\n\n" + _markdown(["", "target", "measured"], body) if body else ""


def _aimed(results: Results) -> Iterator[tuple[str, str, str]]:
    """Yields what each target is for, the target, and what was measured."""
    for what, limit, measured in _QUOTIENTS:
        value = measured(results)
        if value is not None:
            least = limit > 0
            # Compared as printed: a search that takes the memory of 1.001 tables takes that of one.
            reached = round(value, 2) >= limit if least else round(value, 2) <= -limit
            sign = "≥" if least else "≤"
            yield what, f"{sign} {abs(limit):,.10g}", f"{_number(value)}" + ("" if reached else ", not reached")


def _train(case: str, over: str, under: str) -> Callable[[Results], float | None]:
    return lambda results: results.quotient("train", case, over, under)


def _single(section: str, case: str, contestant: str) -> Callable[[Results], float | None]:
    def measured(results: Results) -> float | None:
        line = results.get(section, case, contestant)
        return line.median if line else None

    return measured


def _growth(results: Results) -> float | None:
    cases = results.cases("growth")
    lines = [results.get("growth", case, "multi-size 10%") for case in cases]
    return lines[-1].median / lines[0].median if len(lines) > 1 and lines[0] and lines[-1] else None


def _first_batch(results: Results) -> float | None:
    cases = [case for case in results.cases("loader") if "first batch" in case]
    return _single("loader", cases[0], "ours")(results) if cases else None


def _sizes() -> Iterator[tuple[str, float, Callable[[Results], float | None]]]:
    for tokens, wide, narrow, fuxi, multi in (
        ("1e+05", 1.25, None, 1.5, 1.0),
        ("1e+06", 1.25, 2.0, 2.0, 1.2),
        ("5e+06", 1.4, None, 3.5, 1.5),
    ):
        case = f"{WIDE}, {tokens} tokens"
        yield f"full-size step over the network alone, {case}", -wide, _train(case, OURS, FLOOR)
        yield f"rows/s, full size over FuxiCTR, {case}", fuxi, _train(case, "FuxiCTR", OURS)
        yield f"rows/s, bf16 over FuxiCTR, {case}", 2 * fuxi, _train(case, "FuxiCTR", f"{OURS}, bf16")
        yield f"rows/s, multi-size over full size, {case}", multi, _train(case, OURS, MULTI)
        dense = f"rows/s, multi-size over full size, both with dense Adam, {case}"
        yield dense, multi, _train(case, f"{OURS}, dense Adam", f"{MULTI}, dense Adam")
        case = f"{NARROW}, {tokens} tokens"
        if narrow:
            yield f"full-size step over the network alone, {case}", -narrow, _train(case, OURS, FLOOR)
            yield f"rows/s, full size over FuxiCTR, {case}", 4.5, _train(case, "FuxiCTR", OURS)
        yield f"rows/s, multi-size over full size, {case}", 2.0, _train(case, OURS, MULTI)
        dense = f"rows/s, multi-size over full size, both with dense Adam, {case}"
        yield dense, 2.0, _train(case, f"{OURS}, dense Adam", f"{MULTI}, dense Adam")
    for tokens in ("1e+05", "1e+06", "5e+06"):
        case = f"{tokens} tokens"
        for under in ("F.embedding, sparse", "F.embedding, sparse, coalesced"):
            name = f"multi-size lookup over `{under}`, {case}"
            yield name, -1.5, lambda results, c=case, u=under: results.quotient("lookup", c, MULTI, u)
        name = f"table in a fine-tune, over fraction x full size, {case}"
        yield name, -1.15, _single("memory", case, "counted over fraction x full size")
        name = f"checkpoint over its content, multi-size, {case}"
        yield name, -1.05, _single("memory", case, "multi-size 10%, best.ckpt over its content")
        name = f"memory that the search adds to training, in tables, {case}"
        yield name, -1.0, _single("memory", case, "search=pme, accumulators over table")
        case = f"DeepFM 64x64, {tokens} tokens"
        name = f"PEP step as published over a search step, {case}"
        searches = "PEP's rule as published", "search=pme, scoring"
        yield name, 10.0, lambda results, c=case, s=searches: results.quotient("search", c, *s)


# Label, target (negative: at most), and how the figure is computed.
_QUOTIENTS: list[tuple[str, float, Callable[[Results], float | None]]] = [
    *_sizes(),
    ("loader, rows/s", 2e6, _single("loader", "39 fields, shuffled", "ours")),
    ("from cached data to the first batch, seconds", -1.0, _first_batch),
    ("multi-size step, largest over smallest vocabulary", -2.0, _growth),
    ("`train.py --help`, seconds", -3.0, _single("start", "train.py --help", "ours")),
    ("`train.py` until the first step, seconds", -8.0, _single("start", "first step, 20,000 rows", "ours")),
]


def _made_on(results: Results) -> str:
    def named(column: str) -> str:
        return ", ".join(dict.fromkeys(row[column] for row in results.rows))

    return (
        f"Batches of {named('batch')} rows, 39 fields, D = 16, {named('precision')} unless stated otherwise, "
        f"{named('device')}: {named('processor')}, {named('threads')} threads, torch {named('torch')}, "
        f"commit {named('commit')}."
    )


def _markdown(head: list[str], body: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
