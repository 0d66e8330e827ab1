"""The tables that end a run fit 80 columns, whatever is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pme_lightning import report
from pme_lightning.runs import pareto

HUGE = 98_765_432_109


def model(parameters: int) -> dict[str, Any]:
    return {
        "embedding": {
            "full_parameters": HUGE,
            "parameters": parameters,
            "fraction": parameters / HUGE,
            "bytes": 4 * parameters,
            "index_bytes": 0,
        },
        "finetune": {"seconds": 1e7, "epochs": 1000, "best_epoch": 999, "rows_per_second": 123_456_789.0},
        "test": {"auc": 0.81, "logloss": 12345.6789},
    }


def summary(command: str) -> dict[str, Any]:
    return {
        "command": command,
        "data": {"name": "a-data-set-with-a-name-that-is-longer-than-a-line-of-a-terminal-" * 2},
        "search": {"seconds": 1e6},
        **model(HUGE // 5),
        "baseline": model(HUGE),
    }


def widths(text: str) -> list[int]:
    return [len(line) for line in text.splitlines() if not line.startswith(("saved", "run folder", "one search"))]


def test_the_table_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    report.print_summary(summary("pme"), Path("runs/x"))
    text = capsys.readouterr().out
    assert max(widths(text)) <= 80
    assert f"{4 * HUGE:,}" in text
    assert "12345.6789" in text
    assert "…" not in text


def test_the_table_of_a_curve(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["0.123456789", str(HUGE), "123456789MB"]
    curve = [{"budget": name, "sizes": f"sizes/{name}.safetensors", **model(HUGE // 3)} for name in names]
    pareto.print_curve(summary("pareto") | {"pareto": curve}, Path("runs/x"))
    text = capsys.readouterr().out
    assert max(widths(text)) <= 80
    for shown in (*names, f"{4 * (HUGE // 3):,}"):
        assert shown in text
    assert "…" not in text


@pytest.mark.parametrize("forced", ["FORCE_COLOR", "CLICOLOR_FORCE"])
def test_no_colour_codes_in_files(
    forced: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(forced, "1")
    report.print_summary(summary("pme"), Path("runs/x"))
    assert "\x1b" not in capsys.readouterr().out
