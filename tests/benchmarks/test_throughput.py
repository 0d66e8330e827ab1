"""The throughput benchmark runs, and says what it says it says."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import peers
import pytest
import throughput
import torch
from contestants import module_of, sizes_by_popularity
from zipf_clicks import ZipfClicks


def test_it_prints_and_writes_each_contestant_with_its_ratio(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "found.csv"
    options = ["--tokens=2000", "--steps=4", "--rounds=1", "--batch=64", "--no-peers", f"--out={out}"]
    throughput.main(["--sections=train,search,lookup,loader", *options])
    rows = list(csv.DictReader(out.open()))
    printed = capsys.readouterr().out
    assert all(row["contestant"] in printed for row in rows)
    assert {row["section"] for row in rows} == {"train", "search", "lookup", "loader"}
    assert all(float(row["median"]) > 0 and row["torch"] == torch.__version__ for row in rows)
    for section in ("train", "search", "lookup"):
        for case in {row["case"] for row in rows if row["section"] == section}:
            own = {row["contestant"]: row for row in rows if (row["section"], row["case"]) == (section, case)}
            base = own[next(iter(own.values()))["ratio_to"]]
            for row in own.values():
                assert float(row["ratio"]) == pytest.approx(float(row["median"]) / float(base["median"]), rel=0.01)
    assert "PEP's rule as published" in {row["contestant"] for row in rows}


def test_unknown_sections_are_named(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        throughput.main(["--sections", "trian"])
    assert "there is no trian" in capsys.readouterr().err


def test_a_case_that_there_is_not_is_no_empty_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "found.csv"
    with pytest.raises(SystemExit):
        throughput.main(["--only", "DeepFM 2x64", "--tokens", "1e6", "--out", str(out)])
    said = capsys.readouterr().err
    assert "no case begins with 'DeepFM 2x64'; there are DeepFM 400x400x400, 1e+06 tokens;" in said
    assert not out.exists()


@pytest.mark.parametrize("backbone", ["DeepFM", "DCN"])
def test_a_multi_size_contestant_keeps_the_fraction_it_says(backbone: str) -> None:
    data = ZipfClicks(20_000, train_rows=256, batch_size=64)
    module = module_of(data, backbone, [8], 0.1)
    values = module.embedding.num_parameters - 16**2
    assert values / module.full_parameters == pytest.approx(0.1, abs=0.005)
    assert data.is_renumbered
    # The popular tokens of a field are the large ones.
    sizes = sizes_by_popularity(data.popularity(), 0.1, backbone == "DeepFM").sizes
    last = sizes[-data.sizes[-1] + 1 :]
    assert (last[:-1] >= last[1:]).all()


def test_clicks_are_drawn_within_their_fields_and_by_popularity() -> None:
    data = ZipfClicks(20_000, train_rows=4_096, batch_size=64)
    data.setup()
    ids = torch.from_numpy(data.data.splits["train"][0]).long()
    ends = torch.tensor(data.sizes).cumsum(0)
    assert (ids < ends).all()
    assert (ids >= ends - torch.tensor(data.sizes)).all()
    assert data.popularity().sum() == pytest.approx(len(data.sizes))
    expected = data.popularity() * len(ids)
    often = expected > 500
    assert torch.allclose(data.frequencies[often].double(), expected[often], rtol=0.25)


@pytest.mark.parametrize("backbone", ["DeepFM", "DCN"])
@pytest.mark.parametrize("peer", ["fuxictr", "deepctr_torch"])
def test_peers_train_where_they_are_installed(peer: str, backbone: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(peer) is None:
        pytest.skip(f"{peer} is not installed: pip install -e '.[bench]'")
    data = ZipfClicks(2_000, train_rows=6 * 64, batch_size=64)
    data.setup()
    folder = [tmp_path] if peer == "fuxictr" else []
    assert getattr(peers, peer)(data, backbone, [8], *folder)(5) > 0
