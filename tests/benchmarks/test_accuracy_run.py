"""The benchmark end to end on a tiny planted log: cells, interruption, shards, summary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import accuracy_per_byte
import polars as pl
import pytest
import summarise_accuracy
from measure import Measurement
from tidy_results import read_results

METRICS = ["valid_auc", "test_auc", "test_logloss", "kept_fraction", "parameters", "bytes", "best_epoch", "steps"]
WORDS = ["--data=synthetic_200", "--backbones=fm", "--methods=full,random,pme", "--budgets=0.5,0.3,0.001", "--seeds=1"]
RECIPE = ["trainer.max_epochs=2", "data.batch_size=256", "model.embedding_dim=4"]


def run(path: Path, *words: str) -> pl.DataFrame:
    assert accuracy_per_byte.main([*WORDS, *words, f"--out={path}", *RECIPE]) == 0
    return read_results(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a whole run."""
    path = tmp_path_factory.mktemp("whole") / "r.csv"
    run(path)
    return path


def in_order(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.sort("method", "budget", "seed").select("method", "budget", "seed", *METRICS, "note")


def test_every_cell_has_a_row_with_what_was_measured(whole: Path) -> None:
    rows = {(row["method"], row["budget"]): row for row in read_results(whole).to_dicts()}
    assert set(rows) == {("full", 1.0)} | {(m, b) for m in ("random", "pme") for b in (0.5, 0.3, 0.001)}
    full = rows["full", 1.0]
    V, D = 200, 4
    assert (full["kept_fraction"], full["parameters"], full["bytes"]) == (1.0, V * (D + 1), 4 * V * (D + 1))
    assert full["search_seconds"] is None
    for method in ("random", "pme"):
        for budget in (0.5, 0.3):
            row = rows[method, budget]
            assert row["bytes"] == 4 * row["parameters"]
            assert budget - 0.01 < row["kept_fraction"] <= budget
            assert 0.4 < row["test_auc"] < 1
            assert 1 <= row["best_epoch"] <= row["epochs"] <= 2
            # 3,200 training rows are 13 batches of 256.
            assert row["steps"] == 13 * row["epochs"]
            # The least warm-up is longer than five epochs: five it is.
            assert row["search_steps"] == (5 * 13 if method == "pme" else 0)
        unfit = rows[method, 0.001]
        assert unfit["test_auc"] is None
        assert "nothing fits" in unfit["note"]


def test_what_is_done_is_not_run_again(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = whole.read_bytes()
    monkeypatch.setattr(Measurement, "train", None)
    monkeypatch.setattr(Measurement, "search", None)
    run(whole)
    assert whole.read_bytes() == before


def test_an_interrupted_run_goes_on_to_the_same_results(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []
    real = Measurement.train

    def interrupted(self: Measurement, *arguments: Any) -> dict[str, Any]:
        if len(trained) == 4:
            raise KeyboardInterrupt
        trained.append(1)
        return real(self, *arguments)

    path = tmp_path / "r.csv"
    with monkeypatch.context() as patch:
        patch.setattr(Measurement, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(path)
    # In the middle of a search's budgets: what is missing is searched for again.
    assert [row[:2] for row in read_results(path).select("method", "budget").iter_rows()][-1] == ("pme", 0.5)
    assert in_order(run(path)).equals(in_order(read_results(whole)))


def test_shards_together_make_the_whole_grid(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    run(path, "--shard=1/2")
    rows = run(path, "--shard=2/2")
    assert not path.exists()
    assert in_order(rows).equals(in_order(read_results(whole)))


def test_list_counts_and_runs_nothing(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "none.csv", "--list")
    assert "0 of 7 cells done, no estimate before the first one" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    run(whole, "--list", "--seeds=1,2")
    listed = capsys.readouterr().out
    assert "7 of 14 cells done, about" in listed
    assert sum(line.endswith("1/2 seeds") for line in listed.splitlines()) == 7


def test_the_summary_is_made_of_the_file(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert summarise_accuracy.main([str(whole)]) == 0
    printed = capsys.readouterr().out
    auc = read_results(whole).filter(pl.col("method") == "pme", pl.col("budget") == 0.5)["test_auc"].item()
    assert f"| pme | {auc:.4f} |" in printed
    assert "### synthetic_200, fm" in printed


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--budgets=20MB", "no fraction"),
        ("--seeds=x", "no whole number"),
        ("--shard=3/2", "I from 1 to N"),
        ("--methods=pmee", "did you mean 'pme'"),
        ("--data=nothing", "neither synthetic_N nor"),
    ],
)
def test_wrong_options_end_with_one_line(
    word: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert accuracy_per_byte.main([word, f"--out={tmp_path / 'r.csv'}"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_summary_of_nothing_ends_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert summarise_accuracy.main([str(tmp_path / "none.csv")]) == 2
    assert "run accuracy_per_byte.py first" in capsys.readouterr().err
