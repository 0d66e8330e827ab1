"""The comparison with published figures, on a few made-up rows in Frappe's layout."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import polars as pl
import published_frappe
import pytest
from tidy_results import read_results

FIELDS = ["user", "item", "daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city"]
RECIPE = ["trainer.max_epochs=3", "data.batch_size=64", "backbone.dropout=0", "backbone.hidden_units=[8]"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny data set named frappe."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "frappe").mkdir()
    rng = np.random.default_rng(0)
    for split, rows in (("train", 600), ("valid", 200), ("test", 200)):
        columns = {name: rng.integers(0, 5, rows) for name in FIELDS}
        label = (rng.random(rows) < np.where(columns["item"] > 2, 0.8, 0.2)).astype(np.int8)
        pl.DataFrame(columns | {"label": label}).write_parquet(folder / "frappe" / f"{split}.parquet")
    return folder


def run(data: Path, out: Path, *words: str) -> int:
    return published_frappe.main([f"--data-folder={data}", f"--out={out}", *words])


def test_the_table_is_made_of_runs_of_the_command_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "r.csv"
    assert run(data, out, "--backbones=dcn,deepfm", "--seeds=1,2", *RECIPE) == 0
    rows = read_results(out)
    assert rows.select("backbone", "seed").rows() == [("dcn", 1), ("deepfm", 1), ("dcn", 2), ("deepfm", 2)]
    deepfm = rows.filter(pl.col("backbone") == "deepfm")
    assert deepfm["options"].to_list() == [" ".join(["experiment=frappe_deepfm", *RECIPE])] * 2
    # Ten fields of five tokens and one for the unknown, ten values and a first-order weight each.
    assert deepfm["parameters"].to_list() == [10 * 6 * 11] * 2
    assert deepfm["epochs"].max() <= 3
    assert not deepfm["valid_auc"].equals(deepfm["test_auc"])
    assert 0.5 < deepfm["valid_auc"].max() < 1

    auc = deepfm["test_auc"].to_list()
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("| DeepFM"))
    cells = line.split(" | ")
    assert cells[1] == "0.9840"
    assert cells[2] == f"{fmean(auc):.4f} ± {stdev(auc) / 2**0.5:.4f} (n=2)"
    assert float(cells[3]) == pytest.approx(fmean(auc) - 0.9840, abs=5e-5)

    # What was measured is not measured again, and DCN stays out of a table of DeepFM alone.
    before = out.read_bytes()
    monkeypatch.setattr(published_frappe, "train", None)
    assert run(data, out, "--backbones=deepfm", "--seeds=2,1", *RECIPE) == 0
    assert out.read_bytes() == before
    assert "DCN" not in capsys.readouterr().out


def test_the_command_line_gives_the_same_as_the_method_comparison(data: Path, tmp_path: Path) -> None:
    import accuracy_per_byte

    assert run(data, tmp_path / "a.csv", "--backbones=fm", "--seeds=1", *RECIPE[:2]) == 0
    grid = [f"--data-folder={data}", "--data=frappe", "--backbones=fm", "--methods=full", "--seeds=1"]
    assert accuracy_per_byte.main([*grid, f"--out={tmp_path / 'b.csv'}", *RECIPE[:2]]) == 0
    same = ["recipe", "parameters", "best_epoch", "epochs", "valid_auc", "test_auc", "test_logloss"]
    assert read_results(tmp_path / "a.csv").select(same).equals(read_results(tmp_path / "b.csv").select(same))


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--backbones=deepfn", "nothing is published of 'deepfn'; did you mean 'deepfm'"),
        ("--seeds=one", "'one' is no whole number"),
        ("backbone.hidden=3", "'train.py fit experiment=frappe_fm' ended with code 2"),
    ],
)
def test_bad_input_is_told_and_nothing_is_written(
    word: str, said: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.csv"
    assert run(data, out, "--backbones=fm", word) == 2
    assert said in capsys.readouterr().err
    assert read_results(out).is_empty()
