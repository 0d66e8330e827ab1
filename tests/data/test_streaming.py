"""Streams give every row once, over processes and workers, whatever their shards are."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning.pytorch import Trainer

from pme_lightning.backbones import FM
from pme_lightning.data import ClickDataModule, streamed_rows
from pme_lightning.data.schema import infer_schema
from pme_lightning.data.streamed_rows import StreamedRows, StreamLoader
from pme_lightning.data.streams import Stream
from pme_lightning.data.vocabulary import Vocabulary
from pme_lightning.errors import BadInput
from pme_lightning.module import CTRModule

datasets.disable_progress_bars()
SHARDS = [40, 1, 0, 17, 64, 5]
N = sum(SHARDS)
ROWS = pl.DataFrame({"label": [row % 2 for row in range(N)], "row": [f"r{row}" for row in range(N)]})


def write_shards(folder: Path, frame: pl.DataFrame, sizes: list[int]) -> Path:
    folder.mkdir(parents=True)
    start = 0
    for number, size in enumerate(sizes):
        frame[start : start + size].write_parquet(folder / f"part-{number}.parquet")
        start += size
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a stream of the rows above is made with."""
    folder = tmp_path_factory.mktemp("stream")
    files = sorted(write_shards(folder / "rows", ROWS, SHARDS).iterdir())
    vocabulary = Vocabulary.fit(lambda: [ROWS], infer_schema(dict(ROWS.schema)))
    vocabulary.save(folder / "vocabulary")
    stream = Stream("rows", "parquet", tuple(files))
    return {"stream": stream, "shard_rows": SHARDS, "vocabulary": folder / "vocabulary"}


def batches_of(rows: StreamedRows, workers: int, epoch: int = 0) -> list[tuple[torch.Tensor, ...]]:
    """What a loader with some workers yields, in this process: a batch of each worker in turn."""
    rows.epoch_now = lambda: epoch
    rows.start_epoch()
    with pytest.MonkeyPatch.context() as patch:
        iterators = []
        for number in range(workers):
            info = SimpleNamespace(num_workers=workers, id=number)
            patch.setattr(streamed_rows, "get_worker_info", lambda info=info: info)
            iterators.append(list(rows))
    found = []
    for k in range(max(map(len, iterators))):
        found += [one[k] for one in iterators if k < len(one)]
    return found


def ids_in(batches: list[tuple[torch.Tensor, ...]]) -> list[int]:
    return torch.cat([batch[0][:, 0] for batch in batches]).tolist()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch_size=st.integers(1, 40), world_size=st.integers(1, 4), workers=st.integers(1, 3), shuffle=st.booleans(),
    window=st.integers(1, 60),
)  # fmt: skip
def test_every_row_once_and_as_many_batches_everywhere(
    source: dict, batch_size: int, world_size: int, workers: int, shuffle: bool, window: int
) -> None:
    shares = []
    for rank in range(world_size):
        rows = StreamedRows(
            **source, batch_size=batch_size, shuffle=shuffle, window=window, rank=rank, world_size=world_size
        )
        batches = batches_of(rows, workers)
        assert len(batches) == len(rows)
        sizes = [last - first for first, last in (rows.cuts.of(k, rank) for k in range(len(rows)))]
        assert [len(ids) for ids, _ in batches] == sizes
        shares.append(batches)
    assert len({len(batches) for batches in shares}) == 1
    assert sorted(chain(*map(ids_in, shares))) == list(range(1, N + 1))


def test_labels_stay_with_their_rows(source: dict) -> None:
    label_of = dict(zip(ROWS["row"], ROWS["label"], strict=True))
    values = Vocabulary.load(source["vocabulary"]).tokens("row")
    for ids, labels in batches_of(StreamedRows(**source, batch_size=9, shuffle=True, window=30), 2):
        assert labels.dtype == torch.float32
        assert labels.tolist() == [label_of[values[i - 1]] for i in ids[:, 0].tolist()]


def test_rows_are_shuffled_anew_in_every_epoch_and_for_every_seed(source: dict) -> None:
    orders = []
    for seed in (0, 1):
        rows = StreamedRows(**source, batch_size=16, shuffle=True, seed=seed)
        orders += [ids_in(batches_of(rows, 1, epoch)) for epoch in (0, 1)]
        assert ids_in(batches_of(rows, 1, 1)) == orders[-1]
    assert len(set(map(tuple, orders))) == 4
    plain = StreamedRows(**source, batch_size=16, labelled=False)
    values = Vocabulary.load(source["vocabulary"]).tokens("row")
    assert [values[i - 1] for i in ids_in(batches_of(plain, 1))] == ROWS["row"].to_list()


@pytest.mark.parametrize(("world_size", "workers"), [(1, 1), (2, 1), (1, 3), (2, 2)])
def test_an_epoch_goes_on_after_the_batches_that_are_done(source: dict, world_size: int, workers: int) -> None:
    for rank in range(world_size):
        options = {**source, "batch_size": 7, "shuffle": True, "window": 20, "rank": rank, "world_size": world_size}
        whole, rest = StreamedRows(**options), StreamedRows(**options)
        expected = batches_of(whole, workers, 3)
        for done in range(len(whole)):
            rest.go_on(3, done)
            assert ids_in(batches_of(rest, workers, 3)) == ids_in(expected[done:])
        assert ids_in(batches_of(rest, workers, 4)) == ids_in(batches_of(whole, workers, 4))


def test_only_what_is_needed_is_read(source: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    slices = Stream.slices

    def spy(self: Stream, shard: int, columns: list[str], skip: int = 0) -> Any:
        opened.append(shard)
        return slices(self, shard, columns, skip)

    monkeypatch.setattr(Stream, "slices", spy)
    batches_of(StreamedRows(**source, batch_size=10, rank=0, world_size=2), 1)
    first, opened = opened, []
    monkeypatch.setattr(Stream, "slices", spy)
    assert first == [0, 1, 3, 4]


def test_a_shard_that_has_lost_rows(source: dict) -> None:
    rows = StreamedRows(**{**source, "shard_rows": [41, *SHARDS[1:]]}, batch_size=50)
    with pytest.raises(BadInput, match="rows has fewer rows than were counted: did it change"):
        batches_of(rows, 1)


def test_fewer_rows_than_processes(source: dict) -> None:
    with pytest.raises(BadInput, match="127 rows cannot be shared by 128 processes"):
        StreamedRows(**source, batch_size=1, world_size=128)


def test_renumbering_maps_ids(source: dict) -> None:
    rows = StreamedRows(**source, batch_size=50)
    plain = ids_in(batches_of(rows, 1))
    rows.renumbering = torch.arange(N + 1).flip(0).int()
    assert ids_in(batches_of(rows, 1)) == [N - i for i in plain]


# Through the data module.


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for split, sizes in (("train", [300, 7, 150]), ("valid", [60, 41]), ("test", [90])):
        n = sum(sizes)
        label = generator.integers(0, 2, n)
        user = generator.integers(0, 20, n)
        write_shards(
            tmp_path / "clicks" / split, pl.DataFrame({"label": label, "user": user, "price": user / 7}), sizes
        )
    return tmp_path / "clicks"


def streamed(path: Path, **options: Any) -> ClickDataModule:
    data = ClickDataModule(str(path), format="hf", streaming=True, cache_dir=str(path.parent / "cache"), **options)
    data.prepare_data()
    data.setup()
    return data


def test_streams_have_the_vocabulary_and_rows_of_encoded_data(splits: Path) -> None:
    data = streamed(splits, batch_size=64)
    encoded = ClickDataModule(str(splits), cache_dir=str(splits.parent / "other"), batch_size=64)
    encoded.prepare_data()
    encoded.setup()
    assert data.rows == encoded.rows == {"train": 457, "valid": 101, "test": 90}
    assert data.clicks == encoded.clicks
    assert 0 < encoded.clicks["test"] < 90
    assert data.vocabulary.fingerprint == encoded.vocabulary.fingerprint
    assert torch.equal(data.frequencies, encoded.frequencies)
    assert data.describe() == encoded.describe()
    assert len(data.train_dataloader()) == len(encoded.train_dataloader()) == 8
    for loader in ("val_dataloader", "test_dataloader", "predict_dataloader"):
        for found, expected in zip(getattr(data, loader)(), getattr(encoded, loader)(), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    rows = [torch.cat(parts) for parts in zip(*data.train_dataloader(), strict=True)]
    expected = [torch.cat(parts) for parts in zip(*encoded.train_dataloader(), strict=True)]
    together = [sorted(map(tuple, torch.column_stack(one).tolist())) for one in (rows, expected)]
    assert together[0] == together[1]
    # No row is in the cache.
    assert not list((splits.parent / "cache").rglob("*_ids.npy"))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_column_that_cannot_match_is_told(splits: Path, tmp_path: Path, streaming: bool) -> None:
    for file in (splits / "test").iterdir():
        pl.read_parquet(file).with_columns(user=pl.format("u{}", "user")).write_parquet(file)
    options = {"format": "hf", "streaming": True} if streaming else {}
    data = ClickDataModule(str(splits), cache_dir=str(tmp_path / "cache"), eval_batch_size=16, **options)  # type: ignore[arg-type]

    def read_all() -> None:
        data.prepare_data()
        data.setup()
        list(data.test_dataloader())

    with pytest.raises(BadInput, match="column 'user' held integers in the training data and text here"):
        read_all()


def test_a_second_run_does_not_read_again(splits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = streamed(splits)
    monkeypatch.setattr(Stream, "slices", lambda *_, **__: pytest.fail("read again"))
    assert streamed(splits).rows == first.rows


def test_a_saved_vocabulary_finds_what_its_fit_has_read(
    splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = streamed(splits)
    first.save_vocabulary(tmp_path / "saved")
    monkeypatch.setattr(Stream, "slices", lambda *_, **__: pytest.fail("read again"))
    again = streamed(splits, vocabulary=str(tmp_path / "saved"))
    assert again.rows == first.rows
    assert again.clicks == first.clicks


def test_other_options_are_another_fit(splits: Path) -> None:
    assert streamed(splits).vocabulary.fingerprint != streamed(splits, min_count=25).vocabulary.fingerprint


def test_of_rows_to_predict_alone_no_other_are_read(splits: Path, tmp_path: Path) -> None:
    streamed(splits).save_vocabulary(tmp_path / "saved")
    rows = str(splits / "test")
    data = ClickDataModule("gone", format="hf", streaming=True, predict_path=rows, cache_dir=str(tmp_path / "cache"))
    data.use_vocabulary(tmp_path / "saved")
    data.prepare_data()
    data.setup("predict")
    assert data.rows == {"predict": 90}
    assert data.clicks == {}


def test_a_vocabulary_of_before(splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    streamed(splits, min_count=25).save_vocabulary(tmp_path / "saved")
    monkeypatch.setattr(Vocabulary, "fit", lambda *_, **__: pytest.fail("fitted"))
    data = streamed(splits, vocabulary=str(tmp_path / "saved"))
    assert data.vocabulary.fingerprint == Vocabulary.load(tmp_path / "saved").fingerprint
    assert data.rows == {"train": 457, "valid": 101, "test": 90}


def test_a_saved_data_set_is_streamed(splits: Path, tmp_path: Path) -> None:
    frames = {split: pl.read_parquet(splits / split / "*.parquet") for split in ("train", "valid", "test")}
    saved = {split: datasets.Dataset.from_dict(frame.to_dict(as_series=False)) for split, frame in frames.items()}
    datasets.DatasetDict(saved).save_to_disk(tmp_path / "saved", num_shards={"train": 3, "valid": 1, "test": 1})
    data = streamed(tmp_path / "saved")
    assert data.rows == {"train": 457, "valid": 101, "test": 90}
    assert sorted(ids_in(list(data.train_dataloader()))) == sorted(ids_in(list(streamed(splits).train_dataloader())))


def test_a_data_set_of_the_hub_is_streamed(splits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The hub's answers put in place: its shards are the files here.
    from pme_lightning.data import hub

    load, asked = datasets.load_dataset, []

    def load_dataset(builder: str, **options: Any) -> Any:
        if builder != "someone/clicks":
            return load(builder, **options)
        asked.append((options.pop("revision"), options["split"], options["streaming"]))
        files = [str(file) for file in sorted((splits / options.pop("split")).iterdir())]
        return load("parquet", data_files=files, split="train", **options)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    names = ("train", "valid", "test")
    found = {name: hub.HubSplit(name, repository="someone/clicks", revision="abc", split=name) for name in names}
    monkeypatch.setattr(hub, "find", lambda *_: found)
    data = ClickDataModule("someone/clicks", streaming=True, cache_dir=str(splits.parent / "cache"))
    data.prepare_data()
    data.setup()
    assert data.rows == {"train": 457, "valid": 101, "test": 90}
    assert sorted(ids_in(list(data.train_dataloader()))) == sorted(ids_in(list(streamed(splits).train_dataloader())))
    assert set(asked) == {("abc", name, True) for name in names}


def test_overfitting_a_stream_sees_the_same_rows(splits: Path) -> None:
    data = streamed(splits, batch_size=32)
    seen: list[list[int]] = []

    class Recorder(CTRModule):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            seen.append(batch[0][:, 0].tolist())
            return super().training_step(batch, batch_idx)

    trainer = Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        overfit_batches=3,
    )  # fmt: skip
    trainer.fit(Recorder(data.field_tokens, FM, embedding_dim=4), datamodule=data)
    assert len(seen) == 6
    assert seen[:3] == seen[3:]


@pytest.mark.slow
def test_workers_train_over_epochs_and_stay(splits: Path) -> None:
    data = streamed(splits, batch_size=32, num_workers=2)
    seen: list[list[int]] = []

    class Recorder(CTRModule):
        def on_train_epoch_start(self) -> None:
            seen.append([])

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            seen[-1] += batch[0][:, 0].tolist()
            return super().training_step(batch, batch_idx)

    module = Recorder(data.field_tokens, FM, embedding_dim=4)
    trainer = Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    expected = streamed(splits, batch_size=32)
    assert sorted(seen[0]) == sorted(seen[1]) == sorted(ids_in(list(expected.train_dataloader())))
    assert seen[0] != seen[1]
    assert trainer.num_training_batches == 15
    rows = StreamedRows(
        data._streams["train"], data._encoded_folder().meta["shard_rows"]["train"],
        data._encoded_folder().path / "vocabulary", 32, shuffle=True, seed=data.seed,
    )  # fmt: skip
    assert [ids_in(batches_of(rows, 2, epoch)) for epoch in (0, 1)] == seen
    loader = StreamLoader(rows, batch_size=None, num_workers=0)
    rows.epoch_now = lambda: 1
    assert len(list(loader)) == 15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split_column": "user"}, "data.split_column=user would divide rows, which data.streaming=true does not do"),
        ({"shuffle_rows": 0}, "data.shuffle_rows must be at least 1"),
        ({"label": "labl"}, r"no column 'labl', did you mean 'label'\?"),
    ],
)
def test_bad_options(splits: Path, options: dict, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        streamed(splits, **options)


def test_bad_data(splits: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="needs the splits train, valid and test, and 'clicks' has all rows together"):
        streamed(splits / "train")
    pl.DataFrame({"label": [0, 2], "user": [1, 2], "price": [0.1, 0.2]}).write_parquet(splits / "valid" / "b.parquet")
    with pytest.raises(BadInput, match="label 'label' is 2 in the valid split: labels are 0 and 1"):
        streamed(splits)
    (splits / "valid" / "b.parquet").unlink()
    (splits / "test" / "part-0.parquet").write_text("no parquet at all")
    with pytest.raises(BadInput, match="cannot be read: ") as error:
        streamed(splits)
    assert "\n" not in str(error.value)
    for split in ("train", "valid", "test"):
        (tmp_path / "csv").mkdir(exist_ok=True)
        (tmp_path / "csv" / f"{split}.csv").write_text("label,user\n1,2\n0,3\n")
    with pytest.raises(BadInput, match=r"is CSV, and data\.streaming=true takes Parquet files"):
        streamed(tmp_path / "csv")


def test_a_saved_data_set_is_streamed_without_what_lies_beside_it(tmp_path: Path) -> None:
    def saved(rows: int, first: int) -> datasets.Dataset:
        return datasets.Dataset.from_dict({"label": [0, 1] * (rows // 2), "user": list(range(first, first + rows))})

    old = datasets.DatasetDict(train=saved(40, 0), valid=saved(10, 0), test=saved(10, 0))
    old.save_to_disk(tmp_path / "saved", num_shards={"train": 4, "valid": 1, "test": 1})
    new = datasets.DatasetDict(train=saved(20, 100), valid=saved(10, 0), test=saved(10, 0))
    new.save_to_disk(tmp_path / "saved", num_shards={"train": 2, "valid": 1, "test": 1})
    datasets.load_from_disk(tmp_path / "saved")["train"].filter(lambda row: row["label"] == 1)
    train = tmp_path / "saved" / "train"
    assert [len(list(train.glob(f"{kind}-*.arrow"))) for kind in ("data", "cache")] == [6, 1]
    data = ClickDataModule(str(tmp_path / "saved"), cache_dir=str(tmp_path / "cache"), streaming=True)
    data.prepare_data()
    data.setup()
    assert data.rows == {"train": 20, "valid": 10, "test": 10}
    assert sorted(data.vocabulary.tokens("user")) == list(range(100, 120))
    assert sum(len(labels) for _, labels in data.train_dataloader()) == 20


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda train: (train / "state.json").write_text("{}"), "'{}' cannot be read: '_data_files'"),
        (lambda train: next(train.glob("*.arrow")).unlink(), "the saved data set '{}' is damaged: its file 'data-"),
    ],
    ids=["state", "shard"],
)
def test_a_damaged_saved_data_set_is_not_streamed(tmp_path: Path, broken: Any, message: str) -> None:
    one = datasets.Dataset.from_dict({"label": [0, 1], "user": [1, 2]})
    datasets.DatasetDict(train=one, valid=one, test=one).save_to_disk(tmp_path / "saved")
    broken(tmp_path / "saved" / "train")
    data = ClickDataModule(str(tmp_path / "saved"), cache_dir=str(tmp_path / "cache"), streaming=True)
    with pytest.raises(BadInput, match=re.escape(message.format(tmp_path / "saved" / "train"))):
        data.prepare_data()


@pytest.mark.parametrize("name", ["clicks[1]", "clicks*", "cl?cks"])
def test_names_of_shards_are_no_patterns(tmp_path: Path, name: str) -> None:
    for folder, first in ((name, 0), ("clicks1", 100)):
        rows = pl.DataFrame({"label": [0, 1] * 10, "user": list(range(first, first + 20))})
        for split in ("train", "valid", "test"):
            write_shards(tmp_path / folder / split, rows, [10, 10])
    data = ClickDataModule(str(tmp_path / name), cache_dir=str(tmp_path / "cache"), streaming=True)
    data.prepare_data()
    data.setup()
    assert data.rows == {"train": 20, "valid": 20, "test": 20}
    assert sorted(data.vocabulary.tokens("user")) == list(range(20))


def test_a_shard_may_have_a_row_group_without_rows(tmp_path: Path) -> None:
    rows = pa.table({"label": [0, 1] * 10, "user": list(range(20))})
    for split in ("train", "valid", "test"):
        (tmp_path / "clicks" / split).mkdir(parents=True)
        for number, part in enumerate((rows[:0], rows[:10], rows[:0], rows[10:])):
            pq.write_table(part, tmp_path / "clicks" / split / f"{number}.parquet")
    data = ClickDataModule(str(tmp_path / "clicks"), cache_dir=str(tmp_path / "cache"), streaming=True)
    data.prepare_data()
    data.setup()
    assert data.rows == {"train": 20, "valid": 20, "test": 20}
    assert sum(len(labels) for _, labels in data.train_dataloader()) == 20


@pytest.mark.parametrize("streaming", [True, False])
def test_a_shard_with_a_column_more_is_named(tmp_path: Path, streaming: bool) -> None:
    rows = pl.DataFrame({"label": [0, 1] * 10, "user": list(range(20))})
    for split in ("train", "valid", "test"):
        write_shards(tmp_path / "clicks" / split, rows, [10, 10])
    rows.with_columns(more=1).write_parquet(tmp_path / "clicks" / "train" / "part-1.parquet")
    data = ClickDataModule(str(tmp_path / "clicks"), cache_dir=str(tmp_path / "cache"), streaming=streaming)
    with pytest.raises(BadInput, match=r"part-1.parquet' has a column 'more', which '.*part-0.parquet' has not"):
        data.prepare_data()
