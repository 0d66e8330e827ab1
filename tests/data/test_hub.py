"""Hugging Face data sets, made here: saved to disk, and by id with the hub's answers put in place."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import polars as pl
import pytest

from pme_lightning.data.csv_files import CsvOptions
from pme_lightning.data.parts import ALL
from pme_lightning.data.sources import find_parts
from pme_lightning.errors import BadInput

datasets.disable_progress_bars()
DATA: dict[str, list] = {"label": [0, 1, 1], "big": [2**60, None, 3], "text": ["a", "", None]}


def read(path: str, **options: Any) -> dict[str, pl.DataFrame]:
    return {split: part.frame(CsvOptions()).collect() for split, part in find_parts(path, **options).items()}


def test_saved_dict_of_splits(tmp_path: Path) -> None:
    train = datasets.Dataset.from_dict(DATA)
    splits = datasets.DatasetDict(train=train, validation=train.select([1]), test=train.select([2, 0]))
    splits.save_to_disk(tmp_path / "saved")
    found = read(str(tmp_path / "saved"))
    assert {split: frame.to_dict(as_series=False) for split, frame in found.items()} == {
        "train": DATA,
        "valid": {name: values[1:2] for name, values in DATA.items()},
        "test": {name: [values[2], values[0]] for name, values in DATA.items()},
    }


def test_saved_single_data_set(tmp_path: Path) -> None:
    datasets.Dataset.from_dict(DATA).save_to_disk(tmp_path / "saved")
    found = read(str(tmp_path / "saved"), format="hf")
    assert found[ALL].to_dict(as_series=False) == DATA
    lazy = find_parts(str(tmp_path / "saved"))[ALL].frame(CsvOptions())
    assert lazy.filter(pl.col("label") == 1).select("big").collect()["big"].to_list() == [None, 3]
    assert lazy.head(2).collect().height == 2
    assert [len(part) for part in lazy.collect_batches(chunk_size=2)] == [2, 1]


def test_damaged_saved_data_set(tmp_path: Path) -> None:
    datasets.Dataset.from_dict(DATA).save_to_disk(tmp_path / "saved")
    with pytest.raises(BadInput, match=r"data.format=csv cannot read it"):
        find_parts(str(tmp_path / "saved"), "csv")
    next((tmp_path / "saved").glob("*.arrow")).unlink()
    with pytest.raises(BadInput, match="saved' cannot be read: ") as error:
        read(str(tmp_path / "saved"))
    assert "\n" not in str(error.value)


def test_stamp_of_a_saved_data_set_follows_its_files(tmp_path: Path) -> None:
    train = datasets.Dataset.from_dict(DATA)
    train.save_to_disk(tmp_path / "a")
    before = find_parts(str(tmp_path / "a"))[ALL].stamp()
    train.select([0]).save_to_disk(tmp_path / "b")
    assert find_parts(str(tmp_path / "a"))[ALL].stamp() == before
    assert find_parts(str(tmp_path / "b"))[ALL].stamp() != before


def answer(monkeypatch: pytest.MonkeyPatch, names: list[str]) -> None:
    info = SimpleNamespace(sha="abc", siblings=[SimpleNamespace(rfilename=name) for name in names])
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: info)


def test_a_zip_on_the_hub_keeps_its_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "Frappe_x1.zip", "w") as opened:
        for split in ("train", "valid", "test"):
            opened.writestr(f"{split}.csv", f"label,user\n1,{split}\n")
    answer(monkeypatch, ["README.md", "Frappe_x1.zip"])
    asked = []

    def download(repository: str, name: str, **options: Any) -> str:
        asked.append((repository, name, options["repo_type"], options["revision"]))
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    found = read("reczoo/Frappe_x1", cache_dir=tmp_path / "cache")
    assert {split: frame["user"].to_list() for split, frame in found.items()} == {
        "train": ["train"],
        "valid": ["valid"],
        "test": ["test"],
    }
    assert asked == [("reczoo/Frappe_x1", "Frappe_x1.zip", "dataset", "abc")]


def test_other_data_sets_are_read_by_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, ["data/train-00000-of-00001.parquet"])
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *_, **__: ["train", "test"])
    asked = []

    def load(repository: str, split: str, revision: str) -> datasets.Dataset:
        asked.append((repository, split, revision))
        return datasets.Dataset.from_dict(DATA)

    monkeypatch.setattr(datasets, "load_dataset", load)
    parts = find_parts("someone/clicks")
    assert parts["train"].stamp() != parts["test"].stamp()
    assert asked == []  # nothing is downloaded before rows are asked for
    assert parts["test"].frame(CsvOptions()).collect().to_dict(as_series=False) == DATA
    assert asked == [("someone/clicks", "test", "abc")]


def fail(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def raises(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", raises)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: (_ for _ in ()).throw(OSError()))


def test_no_network_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class ConnectError(Exception):
        pass

    fail(monkeypatch, ConnectError("[Errno -2] Name or service not known\nmore"))
    with pytest.raises(BadInput, match=r"hub cannot be reached for 'reczoo/Frappe_x1' .*data.path=") as error:
        find_parts("reczoo/Frappe_x1")
    assert "\n" not in str(error.value)


def test_no_network_with_a_downloaded_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail(monkeypatch, ConnectionError("no network"))
    copy = tmp_path / "snapshots" / "abc"
    copy.mkdir(parents=True)
    with zipfile.ZipFile(copy / "X.zip", "w") as opened:
        opened.writestr("train.csv", "label,a\n1,x\n")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(copy))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda _, name, **__: str(copy / name))
    assert read("reczoo/X", cache_dir=tmp_path / "cache")["train"]["a"].to_list() == ["x"]


def test_unknown_data_set_and_no_id_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    class RepositoryNotFoundError(Exception):
        pass

    fail(monkeypatch, RepositoryNotFoundError("404"))
    with pytest.raises(BadInput, match="'reczoo/Frape' is neither a file or folder here nor a data set"):
        find_parts("reczoo/Frape")
    with pytest.raises(BadInput, match="neither a file or folder nor the id"):
        find_parts("not an id")


def damage(archive: bytearray) -> None:
    start = 30 + len("train.csv")
    archive[start : start + 15] = b"\xff" * 15


def lock(archive: bytearray) -> None:
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        archive[archive.index(signature) + flags] |= 1


def pack_as(archive: bytearray, method: int = 9) -> None:
    for signature, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        archive[archive.index(signature) + place] = method


@pytest.mark.parametrize(
    ("change", "message"),
    [(damage, "Error -3"), (lock, "File .* is encrypted"), (pack_as, "That compression method is not supported")],
)
def test_an_archive_that_cannot_be_unpacked(tmp_path: Path, change: Callable, message: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("train.csv", "label,a\n" + "1,x\n0,y\n" * 50)
    archive = bytearray((tmp_path / "a.zip").read_bytes())
    change(archive)
    (tmp_path / "a.zip").write_bytes(archive)
    with pytest.raises(BadInput, match=f"a.zip' cannot be read: {message}"):
        find_parts(str(tmp_path / "a.zip"), cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_two_splits_of_one_meaning(tmp_path: Path) -> None:
    one = datasets.Dataset.from_dict(DATA)
    datasets.DatasetDict(train=one, dev=one.select([0]), validation=one, test=one).save_to_disk(tmp_path / "saved")
    with pytest.raises(BadInput, match="splits train, dev, validation, test: more than one of them means valid"):
        find_parts(str(tmp_path / "saved"))
