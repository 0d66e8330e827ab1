"""Tables of a result file that can be checked by eye."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import summarise_throughput
from throughput import COLUMNS
from throughput_tables import Results, tables

CASE = "DeepFM 400x400x400, 1e+05 tokens"
FACTS = {
    "commit": "abc",
    "torch": "2",
    "threads": 2,
    "processor": "p",
    "batch": 4096,
    "device": "cpu",
    "precision": "32-true",
}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    rows = [
        ("train", CASE, "network alone", "ms/step", 80.0, 70.0, 90.0, 0.8, "ours, full size"),
        ("train", CASE, "ours, full size", "ms/step", 100.0, 100.0, 100.0, 1.0, "ours, full size"),
        ("train", CASE, "ours, multi-size 10%", "ms/step", 125.0, 125.0, 125.0, 1.25, "ours, full size"),
        ("train", CASE, "FuxiCTR", "ms/step", 150.0, 150.0, 150.0, 1.5, "ours, full size"),
        ("train", "DCN 64x64, 1e+05 tokens", "network alone", "ms/step", 7.0, 7.0, 7.0, None, ""),
        ("loader", "39 fields, shuffled", "ours", "rows/s", 1.5e6, 1.5e6, 1.5e6, None, ""),
        ("loader", "10 cached rows, first batch", "ours", "s", 0.25, 0.2, 0.3, None, ""),
        ("memory", "1e+05 tokens", "counted over fraction x full size", "x", 1.1, 1.1, 1.1, None, ""),
        ("growth", "small", "multi-size 10%", "ms/step", 10.0, 10.0, 10.0, None, ""),
        ("growth", "large", "multi-size 10%", "ms/step", 30.0, 30.0, 30.0, None, ""),
    ]
    path = tmp_path / "found.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, *FACTS])
        for section, case, name, unit, median, least, most, ratio, base in rows:
            writer.writerow([section, case, name, unit, median, least, most, 3, ratio, base, *FACTS.values()])
    return path


def test_each_target_stands_beside_what_was_measured(results: Path) -> None:
    made = tables(Results(results))
    for line in (
        f"| full-size step over the network alone, {CASE} | ≤ 1.25 | 1.25 |",
        f"| rows/s, full size over FuxiCTR, {CASE} | ≥ 1.5 | 1.5 |",
        f"| rows/s, multi-size over full size, {CASE} | ≥ 1 | 0.8, not reached |",
        "| loader, rows/s | ≥ 2,000,000 | 1,500,000, not reached |",
        "| from cached data to the first batch, seconds | ≤ 1 | 0.25 |",
        "| table in a fine-tune, over fraction x full size, 1e+05 tokens | ≤ 1.15 | 1.1 |",
        "| multi-size step, largest over smallest vocabulary | ≤ 2 | 3, not reached |",
    ):
        assert line in made
    assert "bf16" not in made  # not measured


def test_sections_show_medians_spreads_and_ratios(results: Path) -> None:
    made = tables(Results(results))
    assert f"| {CASE} | 80 (70 to 90), 0.80 x | 100, 1.00 x | 125, 1.25 x | 150, 1.50 x |" in made
    assert "| DCN 64x64, 1e+05 tokens | 7 | - | - | - |" in made
    assert "| 10 cached rows, first batch | 0.25 s (0.2 to 0.3) |" in made
    assert "p, 2 threads, torch 2, commit abc" in made


def test_tables_go_between_the_comments_of_a_page(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- throughput tables -->\nold\n<!-- end of throughput tables -->\nafter\n")
    for _ in range(2):
        assert summarise_throughput.main([str(results), "--into", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert text.count("### Targets") == 1
    page.write_text("no place\n")
    assert summarise_throughput.main([str(results), "--into", str(page)]) == 2
    assert "does not say where the tables go" in capsys.readouterr().err
    assert summarise_throughput.main([str(tmp_path / "none.csv")]) == 2
    assert "run throughput.py first" in capsys.readouterr().err


def test_the_page_of_benchmarks_has_a_place_for_them() -> None:
    page = (Path(__file__).parents[2] / "docs" / "speed.md").read_text(encoding="utf-8")
    assert page.index(summarise_throughput.BEGIN) < page.index(summarise_throughput.END)
