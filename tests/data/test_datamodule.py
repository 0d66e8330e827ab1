"""The whole way from files to batches, and the cache in between."""

from __future__ import annotations

import errno
import gzip
import json
import math
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from datetime import time as dt_time
from datetime import timedelta
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import polars as pl
import pytest
import torch
import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from pme_lightning.data import ClickDataModule, EncodedDataModule
from pme_lightning.data import click_files as module_under_test
from pme_lightning.data.field_table import FieldTable
from pme_lightning.data.frames import frame_file
from pme_lightning.errors import BadInput

datasets.disable_progress_bars()
N = {"train": 200, "valid": 30, "test": 40}


def clicks(n: int, seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    user = rng.integers(0, 30, n) + 2**53
    return pl.DataFrame(
        {
            "label": rng.integers(0, 2, n).astype(np.int8),
            "user": user,
            "page": [None if k == 0 else f"p{k}" for k in rng.integers(0, 9, n)],
            "price": [None if k < 0.1 else k for k in rng.random(n)],
            "row": np.arange(n) + 1000 * seed,
        }
    )


FRAMES = {split: clicks(n, seed) for seed, (split, n) in enumerate(N.items())}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "ads"
    path.mkdir()
    for split, frame in FRAMES.items():
        frame.write_parquet(path / f"{split}.parquet")
    return path


def ready(path: Any, cache: Path, **options: Any) -> ClickDataModule:
    data = ClickDataModule(path if path is None else str(path), cache_dir=str(cache), **options)
    data.prepare_data()
    data.setup()
    return data


def batches(loader: Any) -> tuple[np.ndarray, np.ndarray]:
    parts = list(loader)
    return torch.cat([ids for ids, _ in parts]).numpy(), torch.cat([labels for _, labels in parts]).numpy()


def test_batches_are_what_the_vocabulary_says(folder: Path, tmp_path: Path) -> None:
    data = ready(folder, tmp_path / "cache", drop=["row"], bins=4)
    assert data.name == "ads"
    assert data.rows == N
    assert data.fields == ["user", "page", "price"]
    assert data.num_tokens == sum(data.field_tokens) == len(data.frequencies)
    assert int(data.frequencies.sum()) == N["train"] * 3
    for split, loader in (("valid", data.val_dataloader()), ("test", data.test_dataloader())):
        ids, labels = batches(loader)
        np.testing.assert_array_equal(ids, data.vocabulary.encode_fields(FRAMES[split]))
        np.testing.assert_array_equal(labels, FRAMES[split]["label"].cast(pl.Float32))
    assert isinstance(data.data.splits["train"][0], np.memmap)
    (ids,) = next(iter(data.predict_dataloader()))
    np.testing.assert_array_equal(ids, data.vocabulary.encode_fields(FRAMES["test"]))


def test_vocabulary_is_fitted_on_train_only(folder: Path, tmp_path: Path) -> None:
    rare = FRAMES["test"].with_columns(user=pl.lit(5, pl.Int64), page=pl.lit("only in test"))
    rare.write_parquet(folder / "test.parquet")
    data = ready(folder, tmp_path / "cache", drop=["row"])
    assert 5 not in data.vocabulary.tokens("user")
    ids, _ = batches(data.test_dataloader())
    assert (ids[:, :2] == np.array(data.vocabulary.offsets[:2])).all()
    counted = np.bincount(data.vocabulary.encode_fields(FRAMES["train"]).ravel(), minlength=data.num_tokens)
    np.testing.assert_array_equal(counted, data.frequencies)


def write_csv(folder: Path, suffix: str = ".csv", **options: Any) -> None:
    for split, frame in FRAMES.items():
        frame.write_csv(folder / f"{split}{suffix}", **options)


def write_gz(folder: Path) -> None:
    for split, frame in FRAMES.items():
        with gzip.open(folder / f"{split}.csv.gz", "wb") as file:
            file.write(frame.write_csv().encode())


def write_hf(folder: Path) -> None:
    folder.rmdir()
    splits = {split: datasets.Dataset(frame.to_arrow()) for split, frame in FRAMES.items()}
    datasets.DatasetDict(splits).save_to_disk(folder)


@pytest.mark.parametrize(
    ("write", "options"),
    [
        (write_csv, {}),
        (lambda folder: write_csv(folder, ".tsv", separator="\t"), {}),
        (lambda folder: write_csv(folder, separator="|"), {"separator": "|"}),
        (
            lambda folder: write_csv(folder, include_header=False),
            {"header": False, "column_names": ["label", "user", "page", "price", "row"]},
        ),
        (write_gz, {}),
        (write_hf, {"format": "hf"}),
    ],
    ids=["csv", "tsv", "separator", "no header", "gz", "hf"],
)
def test_every_source_gives_the_same_groups(
    folder: Path, tmp_path: Path, write: Callable[[Path], None], options: dict
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write(other)
    same = ready(folder, tmp_path / "cache", drop=["row"])
    data = ready(other, tmp_path / "cache", drop=["row"], **options)
    assert data.field_tokens == same.field_tokens
    assert torch.equal(data.frequencies, same.frequencies)
    for split in N:
        np.testing.assert_array_equal(data.data.splits[split][0], same.data.splits[split][0])
        np.testing.assert_array_equal(data.data.splits[split][1], same.data.splits[split][1])


def test_single_file_by_fraction_is_seeded(tmp_path: Path) -> None:
    FRAMES["train"].write_parquet(tmp_path / "ads.parquet")
    path = tmp_path / "ads.parquet"
    data = ready(path, tmp_path / "cache", fractions=(0.7, 0.2, 0.1), categorical=["row"])
    assert data.name == "ads"
    assert data.rows == {"train": 140, "valid": 40, "test": 20}
    again = ready(path, tmp_path / "other cache", fractions=(0.7, 0.2, 0.1), categorical=["row"], seed=1)
    assert again.data.splits["test"][0].tolist() == data.data.splits["test"][0].tolist()
    other = ready(path, tmp_path / "cache", fractions=(0.7, 0.2, 0.1), categorical=["row"], split_seed=1)
    assert sorted(other.vocabulary.tokens("row")) != sorted(data.vocabulary.tokens("row"))


def test_single_file_by_time_and_by_column(tmp_path: Path) -> None:
    parts = [["train", "valid", "test"][k % 3] for k in range(200)]
    FRAMES["train"].with_columns(part=pl.Series(parts)).write_parquet(tmp_path / "a.parquet")
    data = ready(tmp_path / "a.parquet", tmp_path / "cache", time_column="row", drop=["part"])
    assert "row" not in data.fields
    np.testing.assert_array_equal(data.data.splits["test"][1], FRAMES["train"]["label"][-20:])
    np.testing.assert_array_equal(data.data.splits["train"][1], FRAMES["train"]["label"][:160])
    data = ready(tmp_path / "a.parquet", tmp_path / "cache", split_column="part", drop=["row"])
    assert "part" not in data.fields
    np.testing.assert_array_equal(data.data.splits["test"][1], FRAMES["train"]["label"][2::3])


def test_paths_per_split(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere.csv"
    FRAMES["test"].head(7).write_csv(other)
    data = ready(folder, tmp_path / "cache", test_path=str(other), drop=["row"])
    assert data.rows == {**N, "test": 7}
    expected = data.vocabulary.encode_fields(FRAMES["test"].head(7))
    np.testing.assert_array_equal(batches(data.test_dataloader())[0], expected)
    paths = {f"{split}_path": str(folder / f"{split}.parquet") for split in ("train", "test")}
    alone = ready(None, tmp_path / "cache", **paths)
    assert alone.name == "ads"
    assert alone.rows == {"train": 178, "valid": 22, "test": 40}
    file = ready(folder / "train.parquet", tmp_path / "cache", test_path=str(other), valid_path=str(other))
    assert file.rows == {"train": 200, "valid": 7, "test": 7}


# The cache.


def test_second_run_opens_the_cache(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ready(folder, tmp_path / "cache")
    monkeypatch.setattr(module_under_test, "write_encoded", lambda *_, **__: pytest.fail("encoded again"))
    monkeypatch.setattr(module_under_test.Vocabulary, "fit", lambda *_, **__: pytest.fail("fitted again"))
    monkeypatch.setattr(module_under_test.Part, "frame", lambda *_, **__: pytest.fail("read again"))
    second = ready(folder, tmp_path / "cache")
    next(iter(second.train_dataloader()))
    assert second.vocabulary.fingerprint == first.vocabulary.fingerprint
    assert second.describe() == first.describe()
    first.save_vocabulary(tmp_path / "saved")
    given = ClickDataModule(str(folder), cache_dir=str(tmp_path / "cache"))
    given.use_vocabulary(tmp_path / "saved")
    given.setup()  # the same rows by the same vocabulary are the same cache
    assert given.rows == first.rows


@pytest.mark.parametrize(
    "options",
    [{"min_count": 3}, {"bins": 3}, {"drop": ["page"]}, {"label": "label", "categorical": ["price"]}],
    ids=str,
)
def test_other_options_are_encoded_anew(folder: Path, tmp_path: Path, options: dict) -> None:
    first = ready(folder, tmp_path / "cache")
    other = ready(folder, tmp_path / "cache", **options)
    assert other.field_tokens != first.field_tokens
    assert ready(folder, tmp_path / "cache").field_tokens == first.field_tokens


def test_changed_files_are_encoded_anew(folder: Path, tmp_path: Path) -> None:
    first = ready(folder, tmp_path / "cache")
    times = (folder / "valid.parquet").stat()
    flipped = FRAMES["valid"].with_columns(label=1 - pl.col("label"))
    flipped.write_parquet(folder / "valid.parquet")
    os.utime(folder / "valid.parquet", ns=(times.st_atime_ns, times.st_mtime_ns))
    second = ready(folder, tmp_path / "cache")
    np.testing.assert_array_equal(second.data.splits["valid"][1], 1 - first.data.splits["valid"][1])


def test_a_vocabulary_that_does_not_fit_leaves_the_link_of_the_fit(folder: Path, tmp_path: Path) -> None:
    ready(folder, tmp_path / "cache")
    (link,) = (tmp_path / "cache" / "fits").iterdir()
    pl.DataFrame({"label": [0, 1] * 5, "else": list("abcdefghij")}).write_parquet(tmp_path / "other.parquet")
    ready(tmp_path / "other.parquet", tmp_path / "elsewhere").save_vocabulary(tmp_path / "saved")
    data = ClickDataModule(str(folder), cache_dir=str(tmp_path / "cache"))
    data.use_vocabulary(tmp_path / "saved")
    with pytest.raises(BadInput, match="column 'else' is missing"):
        data.setup()
    assert link.is_file()


def test_files_that_change_while_read(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = module_under_test.write_encoded

    def slow(*args: Any, **options: Any) -> None:
        encode(*args, **options)
        FRAMES["valid"].head(3).write_parquet(folder / "valid.parquet")

    monkeypatch.setattr(module_under_test, "write_encoded", slow)
    with pytest.raises(BadInput, match="changed while they were read"):
        ready(folder, tmp_path / "cache")
    monkeypatch.undo()
    assert ready(folder, tmp_path / "cache").rows["valid"] == 3


KILLED = """
import os, sys
from pme_lightning.data import cache, encoding
from pme_lightning.data.datamodule import ClickDataModule

cache._SLICE_VALUES = 1
encoding._NOTE_SECONDS = 0
encode = cache.Vocabulary.encode_fields
done = []

def encode_fields(self, frame, matches):
    done.append(len(frame))
    if len(done) == int(sys.argv[3]):
        os.kill(os.getpid(), 9)
    return encode(self, frame, matches)

cache.Vocabulary.encode_fields = encode_fields
ClickDataModule(sys.argv[1], cache_dir=sys.argv[2]).prepare_data()
"""


def kill_at(source: Path, cache: Path, number: int) -> None:
    """Encodes in a process that dies when it gets to a slice of some number."""
    words = [sys.executable, "-c", KILLED, str(source), str(cache), str(number)]
    run = subprocess.run(words, capture_output=True, check=False)
    assert run.returncode == -9, run.stderr.decode()


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("split", [True, False], ids=["split", "all rows together"])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: bool
) -> None:
    source, cache = folder if split else tmp_path / "all.parquet", tmp_path / "cache"
    long = pl.concat([FRAMES["train"].sample(3000, with_replacement=True, seed=0), FRAMES["valid"]])
    long.write_parquet(folder / "train.parquet" if split else source)
    ready(source, tmp_path / "other cache")
    (whole,) = (tmp_path / "other cache").glob("a*-*")
    read = []
    # Before the first slice is written, after it, and after one more.
    for number in (1, 2, 2) if split else (2,):
        kill_at(source, cache, number)
        # Nothing has the final name, and the tokens are counted once.
        assert {one.name for one in cache.iterdir()} == {"fits", f".partial-{whole.name}"}
        notes = cache / f".partial-{whole.name}" / "unfinished.json"
        read.append(sum(json.loads(notes.read_text())["read"].values()) if notes.exists() else 0)
    assert read == ([0, 1024, 2048] if split else [1024])
    monkeypatch.setattr(module_under_test.Vocabulary, "fit", lambda *_, **__: pytest.fail("fitted again"))
    ready(source, cache)
    assert content(cache / whole.name) == content(whole)
    assert {one.name for one in cache.iterdir()} == {"fits", whole.name}


def test_what_a_killed_run_has_left_goes_after_a_day(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    kill_at(folder, cache, 1)
    (left,) = cache.glob(".partial-*")
    ready(folder, cache, bins=3)
    assert left.exists()
    day_ago = time.time() - 25 * 3600
    for path in (*left.rglob("*"), left):
        os.utime(path, (day_ago, day_ago))
    ready(folder, cache, bins=4)
    assert not left.exists()


@pytest.mark.parametrize("damage", ["cut", "missing", "other shape", "no meta"])
def test_damaged_caches_are_written_anew(folder: Path, tmp_path: Path, damage: str) -> None:
    cache = tmp_path / "cache"
    first = ready(folder, cache)
    expected = np.array(first.data.splits["train"][0])
    (encoded,) = cache.glob("ads-*")
    ids = encoded / "train_ids.npy"
    if damage == "cut":
        content = ids.read_bytes()
        ids.unlink()
        ids.write_bytes(content[:-100])
    elif damage == "missing":
        ids.unlink()
    elif damage == "other shape":
        np.save(ids, expected[:-1])
    else:
        (encoded / "meta.json").unlink()
    np.testing.assert_array_equal(ready(folder, cache).data.splits["train"][0], expected)


def test_a_failed_run_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    bad = FRAMES["test"].with_columns(label=pl.lit(2))
    bad.write_parquet(folder / "test.parquet")
    with pytest.raises(BadInput):
        ready(folder, tmp_path / "cache")
    assert not [one for one in (tmp_path / "cache").rglob("*") if one.name != "fits"]


def test_cache_folder_is_taken_from_the_environment(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PME_CACHE_DIR", str(tmp_path / "by environment"))
    ClickDataModule(str(folder), name="../a b").prepare_data()
    assert any(one.name.startswith(".._a_b-") for one in (tmp_path / "by environment").iterdir())


# Labels and other bad input.


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2, 0], "label 'label' is 2, in row 3 of '{}/train.parquet': labels are 0 and 1"),
        ([0, None, 1, 0], "label 'label' is missing, in row 2 of '{}/train.parquet'"),
        ([0.0, 1.0, 0.5, 1.0], "label 'label' is 0.5, in row 3"),
        (["1", "0", "yes", "1"], "label 'label' is 'yes', in row 3"),
        ([0, 1, 0, -1], "label 'label' is -1, in row 4"),
    ],
)
def test_bad_labels(tmp_path: Path, labels: list, message: str) -> None:
    good = pl.DataFrame({"label": labels[:1] * 2, "a": [1, 2]})
    pl.DataFrame({"label": labels, "a": [1, 2, 3, 4]}).write_parquet(tmp_path / "train.parquet")
    good.write_parquet(tmp_path / "valid.parquet")
    good.write_parquet(tmp_path / "test.parquet")
    with pytest.raises(BadInput) as error:
        ready(tmp_path, tmp_path / "cache")
    assert message.format(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_label_row_counts_over_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pme_lightning.data.cache._SLICE_VALUES", 2)
    labels = [0] * 5000 + [7] + [1] * 100
    frame = pl.DataFrame({"label": labels, "a": range(5101)})
    for split in N:
        frame.write_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(BadInput, match=r"is 7, in row 5001 of '.*.parquet'"):
        ready(tmp_path, tmp_path / "cache")


@pytest.mark.parametrize("labels", [[True, False], [1.0, 0.0], ["1", "0"], ["true", "False"], ["1.0", " 0"]])
def test_labels_of_any_kind(tmp_path: Path, labels: list) -> None:
    pl.DataFrame({"y": labels, "a": [1, 2]}).write_parquet(tmp_path / "a.parquet")
    paths = dict.fromkeys(("train_path", "valid_path", "test_path"), str(tmp_path / "a.parquet"))
    assert ready(None, tmp_path / "cache", **paths).data.splits["valid"][1].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": None}, "data.path is needed"),
        ({"path": "{}/adds"}, "did you mean 'ads'?"),
        ({"format": "csv"}, "holds no csv file"),
        ({"label": "lable"}, "did you mean 'label'?"),
        ({"numeric": ["prise"]}, "did you mean 'price'?"),
        ({"numeric": ["page"]}, "'page': 'p"),
        ({"min_count": {"usr": 2}}, "did you mean 'user'?"),
        ({"train_path": "{}/ads/train.parquet", "path": "{}/ads/test.parquet"}, "both give training rows"),
        ({"test_path": "{}/ads"}, "holds several splits"),
        ({"predict_path": "{}/ads/tset.parquet"}, "did you mean 'test.parquet'?"),
        ({"split": "column", "split_column": "page"}, "split into train, valid and test already"),
    ],
)
def test_bad_input_is_one_line(folder: Path, tmp_path: Path, options: dict, message: str) -> None:
    options = {key: value.format(tmp_path) if isinstance(value, str) else value for key, value in options.items()}
    with pytest.raises(BadInput) as error:
        ready(options.pop("path", folder), tmp_path / "cache", **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_column": "row"}, "data.time_column=row would divide the rows, but 'ads' is split"),
        ({"split_column": "page"}, "data.split_column=page would divide"),
        ({"split": "fraction"}, "data.split=fraction would divide"),
        ({"time_column": "row", "split_column": "page"}, "choose with data.split=time or data.split=column"),
    ],
)
def test_options_that_split_what_is_split(folder: Path, tmp_path: Path, options: dict, message: str) -> None:
    ready(folder, tmp_path / "cache")  # a cache of the same files does not hide it
    with pytest.raises(BadInput, match=message):
        ready(folder, tmp_path / "cache", **options)


def test_blank_lines_are_no_rows(tmp_path: Path) -> None:
    lines = FRAMES["train"].write_csv().splitlines()
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "b.csv").write_text("\n".join([*lines[:50], "", *lines[50:], "", ""]) + "\n")
    one, two = (ready(tmp_path / name, tmp_path / "cache") for name in ("a.csv", "b.csv"))
    assert two.rows == {"train": 160, "valid": 20, "test": 20}
    np.testing.assert_array_equal(one.data.splits["test"][0], two.data.splits["test"][0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("5,x", "label 'label' is '5', in line 33 of '{}': labels are 0 and 1"),
        (",x", "label 'label' is missing, in line 33 of '{}': labels are 0 and 1"),
        ("1,a,b,c", "line 33 of '{}' has 4 columns, the first line has 2"),
        ('1,"a', "line 33 of '{}' has a quote that is not closed or not doubled"),
        ('1,a"b', "'{}' cannot be read: is there a quote within a cell that is not doubled?"),
    ],
)
@pytest.mark.parametrize("split", [True, False], ids=["split", "whole"])
def test_faults_of_csv_files_are_located(tmp_path: Path, wrong: str, message: str, split: bool) -> None:
    body = [f"{k % 2},u{k}" for k in range(100)]
    (tmp_path / "a.csv").write_text("\n".join(["label,u", *body[:30], "", wrong, *body[30:]]) + "\n")
    (tmp_path / "b.csv").write_text("\n".join(["label,u", *body]) + "\n")
    paths = {"train_path": "b.csv", "valid_path": "b.csv", "test_path": "a.csv"} if split else {}
    with pytest.raises(BadInput) as error:
        ready(
            None if split else tmp_path / "a.csv",
            tmp_path / "cache",
            **{key: str(tmp_path / name) for key, name in paths.items()},
        )
    assert message.format(tmp_path / "a.csv") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_csv_file_without_rows(tmp_path: Path) -> None:
    for text in ("label,u\n", 'label,"u\n1,a\n0,b\n'):
        (tmp_path / "a.csv").write_text(text)
        with pytest.raises(BadInput, match=r"there are no rows to divide .* a quote that is not closed"):
            ready(tmp_path / "a.csv", tmp_path / "cache")


def test_bad_label_in_a_later_shard_and_in_a_saved_data_set(tmp_path: Path) -> None:
    (tmp_path / "ads").mkdir()
    FRAMES["train"].write_parquet(tmp_path / "ads" / "part-0.parquet")
    bad = FRAMES["valid"].with_columns(label=pl.when(pl.col("row") == 1004).then(3).otherwise("label"))
    bad.write_parquet(tmp_path / "ads" / "part-1.parquet")
    with pytest.raises(BadInput, match=r"is 3, in row 5 of '.*part-1.parquet'"):
        ready(tmp_path / "ads", tmp_path / "cache")
    datasets.Dataset(bad.to_arrow()).save_to_disk(tmp_path / "hub")
    with pytest.raises(BadInput, match=r"is 3, in row 5 of '.*hub'"):
        ready(tmp_path / "hub", tmp_path / "cache")


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([timedelta(seconds=1)], "Duration"), ([[1, 2]], "List"), ([{"a": 1}], "Struct"), ([b"x"], "Binary")],
    ids=["duration", "list", "struct", "binary"],
)
def test_values_that_make_no_tokens(folder: Path, tmp_path: Path, values: list, dtype: str) -> None:
    message = rf"column 'page' holds values of type {dtype}.*data.drop=\[page\]"
    test = FRAMES["test"].with_columns(page=pl.Series(values * N["test"]))
    test.write_parquet(folder / "test.parquet")  # only there: the schema was inferred without it
    with pytest.raises(BadInput, match=message):
        ready(folder, tmp_path / "cache")
    test.write_parquet(tmp_path / "a.parquet")
    with pytest.raises(BadInput, match=message):
        ready(tmp_path / "a.parquet", tmp_path / "cache")
    assert "page" not in ready(tmp_path / "a.parquet", tmp_path / "cache", drop=["page"]).fields


def test_time_of_day_is_a_token_like_text(tmp_path: Path) -> None:
    times = pl.Series([dt_time(k % 3) for k in range(200)])
    FRAMES["train"].with_columns(page=times).write_parquet(tmp_path / "a.parquet")
    data = ready(tmp_path / "a.parquet", tmp_path / "cache")
    assert sorted(data.vocabulary.tokens("page")) == [f"0{k}:00:00" for k in range(3)]


@pytest.mark.parametrize("binning", ["log2", "quantile"])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, -1e300])
def test_numbers_without_bounds(tmp_path: Path, binning: Any, value: float) -> None:
    prices = pl.Series([value if k % 4 == 0 else float(k % 4) for k in range(200)])
    FRAMES["train"].with_columns(price=prices).write_parquet(tmp_path / "a.parquet")
    data = ready(tmp_path / "a.parquet", tmp_path / "cache", binning=binning, drop=["row"])
    tokens = data.vocabulary.tokens("price")
    missing = math.isnan(value) or (math.isinf(value) and binning == "log2")
    assert tokens.null_count() == missing


def test_empty_splits(folder: Path, tmp_path: Path) -> None:
    FRAMES["valid"].clear().write_parquet(folder / "valid.parquet")
    with pytest.raises(BadInput, match="the valid split is empty"):
        ready(folder, tmp_path / "cache")
    FRAMES["train"].clear().write_parquet(folder / "train.parquet")
    with pytest.raises(BadInput, match="the train split is empty"):
        ready(folder, tmp_path / "cache")


def test_a_column_that_another_split_lacks_is_told_before_reading(folder: Path, tmp_path: Path) -> None:
    FRAMES["test"].rename({"page": "pages"}).write_parquet(folder / "test.parquet")
    with pytest.raises(BadInput, match=r"column 'page' is missing in '.*test.parquet': did you mean 'pages'\?"):
        ready(folder, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"batch_size": None},
        {"batch_size": 2.5},
        {"eval_batch_size": 0},
        {"num_workers": -1},
        {"num_workers": None},
        {"split_seed": -1},
        {"split_seed": None},
        {"fractions": None},
    ],
    ids=str,
)
def test_bad_sizes(options: dict) -> None:
    with pytest.raises(BadInput, match=next(iter(options))):
        ClickDataModule("x", **options)


# Saved vocabularies, prediction, renumbering, training.


def test_saved_vocabulary_encodes_other_rows(folder: Path, tmp_path: Path) -> None:
    data = ready(folder, tmp_path / "cache", drop=["row"], min_count=2)
    data.save_vocabulary(tmp_path / "saved")
    later = tmp_path / "later.parquet"
    FRAMES["valid"].write_parquet(later)
    test = ClickDataModule(test_path=str(later), cache_dir=str(tmp_path / "cache"))
    test.use_vocabulary(tmp_path / "saved")
    test.prepare_data()
    test.setup("test")
    assert test.rows == {"test": N["valid"]}
    assert (test.fields, test.field_tokens) == (data.fields, data.field_tokens)
    assert torch.equal(test.frequencies, data.frequencies)
    np.testing.assert_array_equal(batches(test.test_dataloader())[0], batches(data.val_dataloader())[0])
    with pytest.raises(BadInput, match="has no train split, only test"):
        test.train_dataloader()
    with pytest.raises(RuntimeError):
        test.use_vocabulary(tmp_path / "saved")
    with pytest.raises(BadInput, match="no vocabulary in"):
        ClickDataModule(str(later)).use_vocabulary(tmp_path / "none")
    with pytest.raises(BadInput, match="the label is 'label', not 'row'"):
        ClickDataModule(str(later), label="row").use_vocabulary(tmp_path / "saved")
    with pytest.raises(BadInput, match="column 'user' is categorical"):
        ClickDataModule(str(later), vocabulary=str(tmp_path / "saved"), drop=["user"]).prepare_data()


def test_fractions_do_not_divide_what_is_split(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"data.fractions=\[0.6, 0.2, 0.2\] would divide the rows, but 'ads' is split"):
        ready(folder, tmp_path / "cache", fractions=(0.6, 0.2, 0.2))


def test_rows_to_predict_need_no_label(folder: Path, tmp_path: Path) -> None:
    rows = FRAMES["valid"].drop("label")
    rows.write_csv(tmp_path / "new.csv")
    data = ready(folder, tmp_path / "cache", drop=["row"], predict_path=str(tmp_path / "new.csv"))
    (ids,) = next(iter(data.predict_dataloader()))
    np.testing.assert_array_equal(ids, data.vocabulary.encode_fields(rows))


def test_whether_a_column_matches_is_asked_of_all_its_rows(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pme_lightning.data.cache._SLICE_VALUES", 1)  # slices of 1024 rows
    monkeypatch.setattr("pme_lightning.data.encoding._NOTE_SECONDS", 0)
    rows = FRAMES["valid"].drop("label").sample(3000, with_replacement=True, seed=0)
    known = rows.with_columns(pl.col("user").cast(pl.String))
    guests = rows.with_columns(user=pl.lit("guest"))
    pl.concat([guests, known[:1]]).write_parquet(tmp_path / "some.parquet")
    guests.write_parquet(tmp_path / "guests.parquet")
    data = ready(folder, tmp_path / "cache", drop=["row"], predict_path=str(tmp_path / "some.parquet"))
    ids = torch.cat([batch[0] for batch in data.predict_dataloader()])
    assert (ids[:-1, 0] == 0).all(), "out of vocabulary"
    assert ids[-1].tolist() == data.vocabulary.encode_fields(rows[:1])[0].tolist()
    for _ in range(2):  # what a run that was refused has left half-done is no way around
        with pytest.raises(BadInput, match="'user' held integers in the training data and text here, such as 'guest'"):
            ready(
                folder, tmp_path / "cache", drop=["row"], predict_path=str(tmp_path / "guests.parquet")
            ).predict_rows()


@pytest.fixture
def saved(folder: Path, tmp_path: Path) -> Path:
    """A saved vocabulary whose training files are gone."""
    ready(folder, tmp_path / "cache", drop=["row"]).save_vocabulary(tmp_path / "saved")
    shutil.rmtree(tmp_path / "cache")
    shutil.rmtree(folder)
    return tmp_path / "saved"


def with_vocabulary(saved: Path, **options: Any) -> ClickDataModule:
    data = ClickDataModule(cache_dir=str(saved.parent / "cache"), **options)
    data.use_vocabulary(saved)
    data.prepare_data()
    data.setup()
    return data


def test_prediction_needs_no_training_file(saved: Path, tmp_path: Path) -> None:
    FRAMES["valid"].drop("label").write_csv(tmp_path / "new.csv")
    gone = str(tmp_path / "ads" / "train.parquet")
    data = with_vocabulary(saved, path=gone, predict_path=str(tmp_path / "new.csv"))
    assert data.rows == {"predict": N["valid"]}
    assert data.fields == ["user", "page", "price"]
    assert data.num_tokens == len(data.frequencies) == data.vocabulary.num_tokens
    assert "price" in data.describe()
    (ids,) = next(iter(data.predict_dataloader()))
    np.testing.assert_array_equal(ids, data.vocabulary.encode_fields(FRAMES["valid"]))
    with pytest.raises(BadInput, match=r"ads/train.parquet' does not exist"):
        data.test_dataloader()
    with pytest.raises(RuntimeError):
        data.use_vocabulary(saved)


@pytest.mark.parametrize("stage", [None, "test"])
def test_rows_to_predict_do_not_hide_the_splits(saved: Path, tmp_path: Path, stage: str | None) -> None:
    FRAMES["valid"].write_csv(tmp_path / "new.csv")
    FRAMES["test"].write_csv(tmp_path / "x.csv")
    data = with_vocabulary(saved, test_path=str(tmp_path / "x.csv"), predict_path=str(tmp_path / "new.csv"))
    data.setup(stage)
    assert data.rows == ({"test": N["test"]} if stage else {"predict": N["valid"]})
    ids, labels = batches(data.test_dataloader())
    np.testing.assert_array_equal(ids, data.vocabulary.encode_fields(FRAMES["test"]))
    np.testing.assert_array_equal(labels, FRAMES["test"]["label"])
    assert len(next(iter(data.predict_dataloader()))[0]) == N["valid"]
    assert data.rows == {"test": N["test"]}


def test_test_rows_alone_with_a_split_option(saved: Path, tmp_path: Path) -> None:
    FRAMES["test"].write_csv(tmp_path / "x.csv")
    data = with_vocabulary(saved, test_path=str(tmp_path / "x.csv"), time_column="row")
    assert data.rows == {"test": N["test"]}
    assert len(batches(data.test_dataloader())[0]) == N["test"]


def test_renumber(folder: Path, tmp_path: Path) -> None:
    data = ready(folder, tmp_path / "cache", batch_size=50)
    loader = data.val_dataloader()
    before, _ = batches(loader)
    order = torch.randperm(data.num_tokens)
    data.renumber(order)
    after, _ = batches(loader)
    # Token order[i] has the new id i.
    np.testing.assert_array_equal(order.numpy()[after], before)
    np.testing.assert_array_equal(batches(data.val_dataloader())[0], after)
    assert torch.equal(data.frequencies, ready(folder, tmp_path / "cache").frequencies)
    data.renumber(None)
    np.testing.assert_array_equal(batches(loader)[0], before)
    for wrong in (order[1:], torch.zeros_like(order), order + 1):
        with pytest.raises(BadInput, match="exactly once"):
            data.renumber(wrong)


class Recorder(LightningModule):
    """Records the rows it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[list[int]] = []

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        ids, labels = batch
        if len(self.seen) == self.current_epoch:
            self.seen.append([])
        self.seen[-1] += ids[:, -1].tolist()
        return (self.weight * labels).sum()

    def predict_step(self, batch: tuple[Tensor], _: int) -> Tensor:
        return batch[0][:, -1]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_epochs_differ_and_runs_repeat(folder: Path, tmp_path: Path, make_trainer: Callable[..., Trainer]) -> None:
    def run(seed: int) -> list[list[int]]:
        data = ClickDataModule(
            str(folder), batch_size=32, categorical=["row"], seed=seed, cache_dir=str(tmp_path / "cache")
        )
        recorder = Recorder()
        make_trainer(max_epochs=2).fit(recorder, datamodule=data)
        return recorder.seen

    first = run(1)
    assert [sorted(epoch) for epoch in first] == [sorted(first[0])] * 2
    assert len(set(first[0])) == N["train"]
    assert first[0] != first[1]
    assert run(1) == first
    assert run(2)[0] != first[0]


def test_a_checkpoint_at_the_end_of_a_batch_goes_on_with_the_next(
    folder: Path, tmp_path: Path, make_trainer: Callable[..., Trainer]
) -> None:
    def fit(ckpt_path: Path | None = None, **options: Any) -> list[list[int]]:
        batches: list[list[int]] = []

        class Batches(Recorder):
            def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
                self.seen = [[] for _ in range(self.current_epoch + 1)]
                batches.append(batch[0][:, -1].tolist())

        data = ready(folder, tmp_path / "cache", categorical=["row"], batch_size=32)
        make_trainer(max_epochs=2, **options).fit(Batches(), datamodule=data, ckpt_path=ckpt_path)
        return batches

    saves = ModelCheckpoint(tmp_path / "steps", "{step}", save_top_k=-1, every_n_train_steps=1)
    whole = fit(callbacks=[saves], enable_checkpointing=True)
    for done in (1, 3, len(whole) // 2, len(whole) // 2 + 2):
        assert fit(tmp_path / "steps" / f"step={done}.ckpt") == whole[done:]


def test_overfitting_sees_the_same_rows(folder: Path, tmp_path: Path, make_trainer: Callable[..., Trainer]) -> None:
    data = ready(folder, tmp_path / "cache", categorical=["row"], batch_size=20)
    recorder = Recorder()
    make_trainer(max_epochs=2, overfit_batches=3).fit(recorder, datamodule=data)
    assert recorder.seen[0] == recorder.seen[1] == data.data.splits["train"][0][:60, -1].tolist()


def test_prediction_keeps_the_order(folder: Path, tmp_path: Path, make_trainer: Callable[..., Trainer]) -> None:
    data = ready(folder, tmp_path / "cache", categorical=["row"], eval_batch_size=16)
    predicted = make_trainer().predict(Recorder(), datamodule=data)
    expected = data.data.splits["test"][0][:, -1]
    np.testing.assert_array_equal(torch.cat(predicted), expected)  # type: ignore[arg-type]


def test_encoding_in_slices_is_encoding_at_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FRAMES["train"].sample(5000, with_replacement=True, seed=0).write_parquet(folder / "train.parquet")
    whole = ready(folder, tmp_path / "cache")
    monkeypatch.setattr("pme_lightning.data.cache._SLICE_VALUES", 1)
    sliced = ready(folder, tmp_path / "other cache")
    assert sliced.vocabulary.fingerprint == whole.vocabulary.fingerprint
    np.testing.assert_array_equal(sliced.data.splits["train"][0], whole.data.splits["train"][0])


# The choices of the command line.


def choices(root: Path) -> list[Path]:
    return sorted(one for one in (root / "configs" / "data").glob("*.yaml") if one.stem != "synthetic")


def preset(root: Path, name: str, **options: Any) -> ClickDataModule:
    content = yaml.safe_load((root / "configs" / "data" / f"{name}.yaml").read_text())["data"]
    assert content["class_path"] == "pme_lightning.data.ClickDataModule"
    return ClickDataModule(**{**content["init_args"], **options})


def test_every_choice_makes_a_data_module(root: Path) -> None:
    files = choices(root)
    assert {file.stem for file in files} >= {"parquet", "csv", "hf", "frappe", "movielenslatest"}
    for file in files:
        assert file.read_text().startswith("# ")
        assert isinstance(preset(root, file.stem), EncodedDataModule)


AVAZU = [
    *("C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id", "app_domain", "app_category"),
    *("device_id", "device_ip", "device_model", "device_type", "device_conn_type"),
    *(f"C{k}" for k in range(14, 22)),
]


def test_avazu_x4_makes_three_fields_of_the_hour(root: Path, tmp_path: Path) -> None:
    head = ["id", "click", "hour", *AVAZU]
    lines = [f"{10**18 + k},{k % 2},1410{21 + k % 7}{k % 24:02d}," + ",".join("x" for _ in AVAZU) for k in range(100)]
    for split in N:
        (tmp_path / f"{split}.csv").write_text("\n".join([",".join(head), *lines]) + "\n")
    data = preset(root, "avazu_x4", path=str(tmp_path), cache_dir=str(tmp_path / "cache"))
    data.setup()
    assert len(data.fields) == 24
    tokens = dict(zip(data.fields, data.field_tokens, strict=True))
    assert (tokens["hour_hour"], tokens["hour_weekday"], tokens["hour_weekend"]) == (25, 8, 3)


def test_frappe_preset_reads_the_same_set_from_disk(root: Path, shared_data: Path, tmp_path: Path) -> None:
    data = preset(root, "frappe", path=str(shared_data / "frappe"), cache_dir=str(tmp_path))
    data.setup()
    assert data.rows == {"train": 202_027, "valid": 57_722, "test": 28_860}
    assert len(data.fields) == 10
    assert int(data.frequencies.sum()) == 202_027 * 10


def test_criteo_preset_bins_and_keeps_missing_values(root: Path, shared_data: Path, tmp_path: Path) -> None:
    path = str(shared_data / "criteo_small")
    data = preset(root, "criteo_x4", path=path, cache_dir=str(tmp_path), min_count=1)
    data.setup()
    assert len(data.fields) == 39
    train = pl.read_parquet(shared_data / "criteo_small" / "train.parquet")
    for name in ("I1", "C26"):
        tokens = data.vocabulary.tokens(name)
        missing = data.vocabulary.offsets[data.fields.index(name)] + 1 + int(tokens.is_null().arg_true()[0])
        assert int(data.frequencies[missing]) == train[name].null_count() > 0
    largest = train["I5"].drop_nulls().to_numpy().max()
    assert max(data.vocabulary.tokens("I5").drop_nulls()) == int(np.log(largest) ** 2)


def test_goodbooks_from_a_copy_in_another_format(shared_data: Path, tmp_path: Path) -> None:
    books = shared_data / "goodbooks"
    small = {split: pl.read_parquet(books / f"{split}.parquet").head(2000) for split in N}
    for kind in ("parquet", "csv"):
        (tmp_path / kind).mkdir()
        for split, frame in small.items():
            getattr(frame, f"write_{kind}")(tmp_path / kind / f"{split}.{kind}")
    one, two = (ready(tmp_path / kind, tmp_path / "cache") for kind in ("parquet", "csv"))
    assert one.field_tokens == two.field_tokens
    shutil.rmtree(tmp_path / "cache")


@pytest.mark.parametrize("kind", ["parquet", "csv"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows.drop("item"), "p1.{kind}' has no column 'item', which '.*p0.{kind}' has"),
        (lambda rows: rows.with_columns(more=1), "p1.{kind}' has a column 'more', which '.*p0.{kind}' has not"),
        (
            lambda rows: rows.with_columns(pl.col("user").cast(pl.Int32)),
            "column 'user' is Int32 in '.*p1.parquet' and Int64",
        ),
        (lambda rows: rows.select("item", "click", "user"), "p1.csv' has the columns of '.*p0.csv' in another order"),
    ],
    ids=["missing", "more", "another type", "another order"],
)
def test_a_file_that_differs_from_the_first_is_named(
    tmp_path: Path, kind: str, change: Callable[[pl.DataFrame], pl.DataFrame], said: str
) -> None:
    rows = pl.DataFrame({"click": [0, 1] * 30, "user": list(range(60)), "item": ["a", "b", "c"] * 20})
    (tmp_path / "in").mkdir()
    for number, own in enumerate((rows, change(rows))):
        getattr(own, f"write_{kind}")(tmp_path / "in" / f"p{number}.{kind}")
    data = ClickDataModule(path=str(tmp_path / "in"), cache_dir=str(tmp_path / "cache"))
    if kind not in said and "{kind}" not in said:
        data.prepare_data()  # the text of CSV files has no types, and columns of Parquet files no order
        return
    with pytest.raises(BadInput, match=said.format(kind=kind)):
        data.prepare_data()


# Rows of several tokens each, some of them rare.
RANDOM = pl.concat(FRAMES.values()).drop("row")


@pytest.mark.parametrize(
    ("change", "options", "seen"),
    [
        (lambda rows: rows, {}, ()),
        (lambda rows: pl.concat([rows, rows.head(5)]), {}, ("valid", "test", "predict")),
        (lambda rows: rows.tail(100), {}, ("valid", "test", "predict")),
        (lambda rows: rows.reverse(), {}, ("valid", "test", "predict")),
        (lambda rows: rows, {"split_seed": 1}, ("valid", "test", "predict")),
        (lambda rows: rows, {"fractions": (0.7, 0.2, 0.1)}, ("valid", "test", "predict")),
        (lambda rows: rows.reverse(), {"test_path": "{}/new.parquet"}, ("valid",)),
        (lambda rows: rows.reverse(), {"test_path": "{}/new.parquet", "valid_path": "{}/new.parquet"}, ()),
        (lambda rows: rows.reverse(), {"path": None, "test_path": "{}/new.parquet"}, ()),
        (lambda rows: rows.reverse(), {"predict_path": "{}/new.parquet"}, ("valid", "test")),
        (lambda rows: rows.reverse(), {"time_column": "time"}, ()),
        (lambda rows: rows.reverse(), {"vocabulary": "{}/vocabulary"}, ()),
    ],
)
@pytest.mark.parametrize("trained_here", [True, False])
def test_rows_that_may_have_been_trained_on(
    tmp_path: Path, change: Callable, options: dict[str, Any], seen: tuple[str, ...], trained_here: bool
) -> None:
    RANDOM.with_row_index("time").write_parquet(tmp_path / "clicks.parquet")
    RANDOM.with_row_index("time").write_parquet(tmp_path / "new.parquet")
    fields: dict[str, Any] = {"drop": ["time"], "min_count": 3, "bins": 4}
    trained = ready(tmp_path / "clicks.parquet", tmp_path / "cache", **fields)
    trained.save_vocabulary(tmp_path / "vocabulary")
    for split in ("valid", "test", "predict"):
        trained.check_unseen(split)
    change(RANDOM.with_row_index("time")).write_parquet(tmp_path / "clicks.parquet")
    cache = tmp_path / ("cache" if trained_here else "elsewhere")
    placed = {key: value.format(tmp_path) if isinstance(value, str) else value for key, value in options.items()}
    data = ClickDataModule(**{"path": str(tmp_path / "clicks.parquet"), "cache_dir": str(cache)} | fields | placed)
    data.use_vocabulary(tmp_path / "vocabulary")
    data.prepare_data()
    data.setup("test")
    for split in ("valid", "test", "predict"):
        if split in seen:
            with pytest.raises(BadInput, match="the rows of 'clicks' are not those that the model was trained on, or"):
                data.check_unseen(split)
        else:
            data.check_unseen(split)


@pytest.mark.parametrize("written", ["csv of polars", "csv of pandas", "integers"])
def test_booleans_of_another_file_are_the_same_tokens(tmp_path: Path, written: str) -> None:
    rows = pl.DataFrame({"label": [0, 1] * 20, "flag": [True, False, False, True] * 10})
    rows.write_parquet(tmp_path / "train.parquet")
    if written == "csv of polars":
        rows.write_csv(tmp_path / "other.csv")
    elif written == "csv of pandas":
        rows.to_pandas().to_csv(tmp_path / "other.csv", index=False)
    else:
        rows.cast({"flag": pl.Int8}).write_parquet(tmp_path / "other.parquet")
    other = next(str(file) for file in tmp_path.glob("other.*"))
    same = ready(tmp_path / "train.parquet", tmp_path / "cache", valid_path=str(tmp_path / "train.parquet"))
    for first, second in ((str(tmp_path / "train.parquet"), other), (other, str(tmp_path / "train.parquet"))):
        data = ready(None, tmp_path / "cache", train_path=first, valid_path=second, test_path=second)
        np.testing.assert_array_equal(data.data.splits["test"][0], same.data.splits["valid"][0])


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("write", ["write_text", "write_bytes"])
def test_a_disk_that_fills_up_is_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool, write: str
) -> None:
    def full(path: Path, *_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    cache = tmp_path / "cache"
    with monkeypatch.context() as patch:
        patch.setattr(Path, write, full)
        with pytest.raises(BadInput, match=r"the cache '.*/cache' cannot be written: No space left on device"):
            ready(folder, cache, streaming=streaming)
    assert not [path for path in cache.rglob("*") if path.is_file()]
    assert ready(folder, cache, streaming=streaming).rows == N


def test_tokens_on_a_full_disk_are_an_error_of_the_system() -> None:
    with pytest.raises(OSError, match="No space left on device"):
        FieldTable(pl.DataFrame({"value": ["a"], "count": [1]})).write(Path("/dev/full"))


@pytest.mark.parametrize("source", ["frame", "archive"])
def test_what_cannot_be_brought_to_the_cache_is_one_line(tmp_path: Path, source: str) -> None:
    (tmp_path / "file").write_text("")
    with zipfile.ZipFile(tmp_path / "clicks.zip", "w") as archive:
        archive.writestr("clicks.csv", FRAMES["train"].write_csv())
    bring: dict[str, Callable[[], Any]] = {
        "frame": lambda: frame_file(FRAMES["train"], str(tmp_path / "file")),
        "archive": lambda: ready(tmp_path / "clicks.zip", tmp_path / "file"),
    }
    with pytest.raises(BadInput, match=r"the cache '.*/file' cannot be written: "):
        bring[source]()


def test_rows_to_predict_of_the_other_format_are_told(saved: Path, tmp_path: Path) -> None:
    FRAMES["valid"].write_parquet(tmp_path / "new.parquet")
    data = ClickDataModule(format="csv", predict_path=str(tmp_path / "new.parquet"), cache_dir=str(tmp_path / "cache"))
    data.use_vocabulary(saved)
    with pytest.raises(BadInput, match=r"is Parquet, and data.format=csv takes CSV: say data.format=auto"):
        data.prepare_data()


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("user,page\n1,a\n,\n2,b\n", "line 3 of"),
        ("user,page\n1,a\n\n,\n2,b\n", "line 4 of"),
        ('page\n"a\n\n"\n""\n', "line 5 of"),
        ("user,page\n1,a\n\n2,\n\n", None),
    ],
)
def test_every_line_to_predict_has_its_prediction(tmp_path: Path, text: str, place: str | None) -> None:
    columns = text.splitlines()[0].split(",")
    FRAMES["train"].select("label", *columns).write_csv(tmp_path / "clicks.csv")
    (tmp_path / "new.csv").write_text(text)
    data = ClickDataModule(
        str(tmp_path / "clicks.csv"), predict_path=str(tmp_path / "new.csv"), cache_dir=str(tmp_path / "cache")
    )
    if place is None:
        data.prepare_data()
        data.setup()
        assert len(data.predict_rows()[0]) == 2
        return
    with pytest.raises(BadInput, match=f"{place} '.*new.csv' has no value in any column, and would get no prediction"):
        data.prepare_data()


@pytest.mark.parametrize("dtype", [pl.Categorical, pl.Enum(["0", "1"]), pl.Enum(["false", "true"])])
def test_labels_that_are_categories(tmp_path: Path, dtype: Any) -> None:
    words = ["false", "true"] if "true" in str(dtype) else ["0", "1"]
    rows = FRAMES["train"]
    written = rows.with_columns(pl.Series("label", [words[label] for label in rows["label"]], dtype=dtype))
    rows.write_parquet(tmp_path / "a.parquet")
    written.write_parquet(tmp_path / "b.parquet")
    one, other = (ready(tmp_path / f"{name}.parquet", tmp_path / "cache") for name in "ab")
    for split in ("train", "valid", "test"):
        np.testing.assert_array_equal(one.data.splits[split][1], other.data.splits[split][1])
