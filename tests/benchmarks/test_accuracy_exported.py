"""Accuracy of exported models, end to end on a tiny planted log."""

from __future__ import annotations

from pathlib import Path

import accuracy_exported
import polars as pl
import pytest
from tidy_results import read_results

WORDS = ["--data=synthetic_300", "--backbone=fm", "--methods=full,uniform,pme", "--bytes=.2,.1", "--bits=32,8"]
WORDS += ["--seeds=1", "trainer.max_epochs=1", "data.batch_size=256", "model.embedding_dim=4"]


def run(path: Path) -> pl.DataFrame:
    assert accuracy_exported.main([*WORDS, f"--out={path}"]) == 0
    return read_results(path, accuracy_exported.SCHEMA, accuracy_exported.KEY)


def test_cells_fit_their_bytes_and_are_run_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.csv"
    rows = {(row["method"], row["asked"], row["bits"]): row for row in run(path).to_dicts()}
    assert set(rows) == {("full", 1.0, b) for b in (32, 8)} | {
        (m, a, b) for m in ("uniform", "pme") for a in (0.2, 0.1) for b in (32, 8)
    }
    full = 4 * 300 * 5
    assert rows["full", 1.0, 32]["bytes"] == full
    # 6 fields of 5 columns have a scale each.
    assert rows["full", 1.0, 8]["bytes"] == full // 4 + 4 * 6 * 5
    for (method, asked, bits), row in rows.items():
        assert 0.4 < row["test_auc"] < 1
        assert row["test_auc"] == pytest.approx(row["trained_auc"], abs=0 if bits == 32 else 0.01)
        if method != "full":
            assert 0.9 * asked < row["fraction"] <= asked
            assert row["fraction"] == row["bytes"] / full
            beside = 4 * 4**2 + (4 * 6 * 5 if bits == 8 else 0)
            assert row["bytes"] - beside <= (row["budget"] * full / 4 - 4**2) * bits / 8 + 1e-6
    table = capsys.readouterr().out
    assert "| pme, 8 bits |" in table
    assert "| to the best rule |" in table
    assert "| to the same model before |" in table
    assert "| to full size of 32 bits |" in table

    figures = tmp_path / "figures"
    assert accuracy_exported.main(["--tables", f"--out={path}", f"--plots={figures}"]) == 0
    (figure,) = figures.iterdir()
    drawn = figure.read_text()
    for label in ("full size, 8 bits", "pme, 32 bits", "best rule, 8 bits", "synthetic_300, fm"):
        assert f">{label}</text>" in drawn

    def never(*_: object) -> None:
        raise AssertionError("a cell that is done was run again")

    monkeypatch.setattr(accuracy_exported.Measurement, "best", never)
    assert run(path).height == len(rows)
