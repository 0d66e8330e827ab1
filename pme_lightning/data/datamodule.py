"""The data module over files and Hugging Face data sets."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch.utils.data import DataLoader

from pme_lightning.data.batches import ClickDataset
from pme_lightning.data.cache import (
    EncodedFolder,
    cache_root,
    check_columns,
    key_of,
    read_link,
    slices,
    write_link,
)
from pme_lightning.data.csv_files import CsvOptions, line_without_values
from pme_lightning.data.encoded import SPLITS, EncodedData, EncodedDataModule, place_among_processes
from pme_lightning.data.encoding import Source, write_encoded
from pme_lightning.data.faults import located
from pme_lightning.data.folders import unfinished
from pme_lightning.data.options import check_whole_number
from pme_lightning.data.progress import rows_progress
from pme_lightning.data.schema import BINNING, BINS, Binning, Schema, infer_schema
from pme_lightning.data.sources import ALL, Format, Part, cheap_count, find_part, find_parts, name_of, reading
from pme_lightning.data.splits import FRACTIONS, SplitBy, SplitOptions, Whole, divide, split_by
from pme_lightning.data.stream_folder import StreamFolder, read_streams
from pme_lightning.data.streamed_rows import StreamedRows, stream_loader
from pme_lightning.data.streams import Stream, streams_of
from pme_lightning.data.vocabulary import Vocabulary
from pme_lightning.errors import BadInput


class ClickDataModule(EncodedDataModule):
    """Click logs from Parquet, CSV or Hugging Face: read, encoded once, and served in batches.

    The schema is inferred as far as it is not given (see :func:`~pme_lightning.data.schema.infer_schema`;
    :meth:`describe` prints it), the vocabulary is fitted on the training rows, and all rows are encoded to a
    memory-mapped cache that a later run opens at once, as long as files and options are the same.

    Args:
        path: a file, a folder (one file, subfolder or set of shards per split, or all rows together), a glob
            pattern, a list of files, a zip archive of such, a folder of ``save_to_disk``, or the id of a Hugging
            Face data set.
        format: ``auto``, ``parquet``, ``csv`` or ``hf``.
        label: the label column; the one called label, click, clicked, target or y if not given.
        categorical: columns whose values are tokens.
        numeric: columns to bin.
        drop: columns to leave out.
        timestamps: ``{column: strftime format}`` of columns that become hour, weekday and weekend.
        binning: how numeric columns are binned: ``quantile``, or ``log2``, the rule used for Criteo (NaN is missing in
            both, an infinity falls in the outermost quantile bin and is missing for ``log2``).
        bins: number of quantile bins.
        min_count: fewest training rows of a token of its own; one number, or ``{field: number}`` (``"*"``: others).
        separator: of CSV columns; a tab for .tsv and .txt, otherwise a comma if not given.
        header: whether CSV files begin with a line of column names.
        column_names: names of the CSV columns, where the file has none or others are wanted.
        split: how rows that are not split are divided: ``fraction``, ``time`` or ``column``; goes by which of
            ``time_column`` and ``split_column`` is given if it is not.
        fractions: of train, valid and test rows.
        time_column: the oldest rows train, the latest test; a field only if named as one.
        split_column: holds train, valid or test; a field only if named as one.
        train_path: training rows by a path of their own; so ``valid_path`` and ``test_path``, which also replace
            those that ``path`` has.
        valid_path: validation rows.
        test_path: test rows.
        predict_path: rows to predict (no label needed); the test rows if not given. With a saved vocabulary only these
            are read for prediction.
        vocabulary: folder of a saved vocabulary to encode with, instead of fitting one.
        streaming: train from the rows as they are read (Parquet files, Hugging Face data sets), without a copy of them
            in the cache: one pass counts rows and tokens before. Needs the splits train, valid and test.
        shuffle_rows: rows that are shuffled together when streaming, in each worker.
        batch_size: training rows per batch and process.
        eval_batch_size: rows per batch and process elsewhere.
        num_workers: loader processes.
        seed: of the shuffling.
        on_gpu: whether a GPU that trains holds the rows in its memory, where batches are made many times as fast; where
            they take a quarter at most of the memory that is free there, if not given. Not when streaming.
        split_seed: of the random division; apart from ``seed``, so that runs with several seeds share their test
            rows.
        cache_dir: ``$PME_CACHE_DIR`` or ``~/.cache/pme-lightning`` if not given.
        name: of the data set; made of the path if not given.

    Examples:
        >>> rows = pl.DataFrame({"click": [0, 1] * 50, "user": ["ann", "bob"] * 50, "item": list(range(10)) * 10})
        >>> rows.write_parquet("clicks.parquet")
        >>> data = ClickDataModule("clicks.parquet", min_count=2)
        >>> data.prepare_data()
        >>> data.setup()
        >>> print(data.describe())
        column  type    kind         tokens
        click   Int64   label
        user    String  categorical       3
        item    Int64   categorical      11
    """

    def __init__(
        self,
        path: str | list[str] | None = None,
        format: Format = "auto",
        label: str | None = None,
        categorical: list[str] | None = None,
        numeric: list[str] | None = None,
        drop: list[str] | None = None,
        timestamps: dict[str, str] | None = None,
        binning: Binning = BINNING,
        bins: int = BINS,
        min_count: int | dict[str, int] = 1,
        separator: str | None = None,
        header: bool = True,
        column_names: list[str] | None = None,
        split: SplitBy | None = None,
        fractions: tuple[float, float, float] = FRACTIONS,
        time_column: str | None = None,
        split_column: str | None = None,
        train_path: str | None = None,
        valid_path: str | None = None,
        test_path: str | None = None,
        predict_path: str | None = None,
        vocabulary: str | None = None,
        streaming: bool = False,
        shuffle_rows: int = 1 << 18,
        batch_size: int = 4096,
        eval_batch_size: int = 16384,
        num_workers: int = 0,
        seed: int = 42,
        on_gpu: bool | None = None,
        split_seed: int = 0,
        cache_dir: str | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, seed, on_gpu)
        self.path = path
        self.format: Format = format
        self.predict_path = predict_path
        self.paths = {"train": train_path, "valid": valid_path, "test": test_path}
        self.schema_options: dict[str, Any] = {
            "label": label,
            "categorical": categorical,
            "numeric": numeric,
            "drop": drop,
            "timestamps": timestamps,
            "binning": binning,
            "bins": bins,
        }
        self.min_count = min_count
        self.csv = CsvOptions(separator, header, tuple(column_names) if column_names is not None else None)
        by = split or split_by(time_column, split_column)
        self.split_options = SplitOptions(
            by, tuple(fractions or ()), time_column, split_column, split_seed, (timestamps or {}).get(time_column or "")
        )
        given = None if fractions is None or tuple(fractions) == FRACTIONS else list(fractions)
        named = {"split": split, "time_column": time_column, "split_column": split_column, "fractions": given}
        self._split_named = [f"data.{key}={value}" for key, value in named.items() if value is not None]
        self.cache = cache_root(cache_dir)
        self.streaming = streaming
        check_whole_number("shuffle_rows", shuffle_rows, 1)
        self.shuffle_rows = shuffle_rows
        self._given_name = name
        self._vocabulary_path = vocabulary
        self._given_vocabulary: Vocabulary | None = None
        self._vocabulary: Vocabulary | None = None
        self._only_predicts = False
        self._drawn: list[str] = []
        self._folder: EncodedFolder | StreamFolder | None = None
        self._predict_folder: EncodedFolder | None = None
        self._streams: dict[str, Stream] = {}

    # Lightning's hooks.

    def prepare_data(self) -> None:
        """Reads, fits and encodes what is not in the cache yet; safe to call again.

        Raises:
            BadInput: no path, nothing there, a wrong column, a bad label, an empty split; each in one line.
        """
        self._take_vocabulary()
        if not self._only_predicts:
            self._encoded_folder()
        if self.predict_path is not None:
            self.predict_rows()

    def setup(self, stage: str | None = None) -> None:
        """Takes over the encoded rows; later calls do nothing.

        With a saved vocabulary and a ``predict_path`` nothing else is read, unless ``stage`` is fit, validate or test
        or a loader of a split is asked for: the files that the vocabulary was made of may be gone by then.
        """
        if self._only_predicts and stage in ("fit", "validate", "test"):
            self._only_predicts, self._data = False, None
        self._take_vocabulary()
        super().setup(stage)

    def encoded(self) -> EncodedData:
        """The encoded splits, from the cache; none where only prediction is asked for."""
        if self._only_predicts:
            vocabulary = self.vocabulary
            return EncodedData(
                self._name(), vocabulary.fields, vocabulary.field_tokens, vocabulary.frequencies, splits={}
            )
        folder = self._encoded_folder()
        splits = {split: (ids, labels) for split, (ids, labels) in folder.splits.items() if labels is not None}
        return EncodedData(
            name=self._name(),
            fields=[one.name for one in Schema.from_json(folder.meta["schema"]).fields],
            field_tokens=folder.meta["field_tokens"],
            frequencies=torch.from_numpy(folder.frequencies),
            splits=splits,
        )

    def _dataset(self, split: str) -> ClickDataset:
        if split != "predict" and self._only_predicts:
            self.setup("test")
        return super()._dataset(split)

    def predict_rows(self) -> tuple[np.ndarray, None]:
        """The rows of ``predict_path``, or else of the test split."""
        if self.predict_path is None:
            return super().predict_rows()
        if self._predict_folder is None:
            self._predict_folder = self._open_predict(self.predict_path)
        return self._predict_folder.splits["predict"][0], None

    # Facts.

    @property
    def rows(self) -> dict[str, int]:
        """Rows per split that is there; those to predict where nothing else is."""
        if isinstance(self._folder, StreamFolder):
            return self._folder.rows
        return super().rows or {"predict": len(self.predict_rows()[0])}

    @property
    def test_clicks(self) -> int | None:
        """Clicks of the test split; None without one."""
        return self._encoded_folder().meta["clicks"].get("test") if self.streaming else super().test_clicks

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary, fitted or given; read from the cache when first asked for."""
        if self._vocabulary is None:
            self._vocabulary = self._given_vocabulary or self._encoded_folder().vocabulary()
        return self._vocabulary

    @property
    def schema(self) -> Schema:
        """The schema, given or inferred."""
        if self._only_predicts:
            return self.vocabulary.schema
        return Schema.from_json(self._encoded_folder().meta["schema"])

    def describe(self) -> str:
        """A table of the columns: type, what they are used as, and tokens."""
        if self._only_predicts:
            return self.schema.table(self.vocabulary.field_tokens)
        return self.schema.table(self._encoded_folder().meta["field_tokens"])

    def _take_vocabulary(self) -> None:
        """Reads the vocabulary of ``data.vocabulary``, unless a checkpoint has brought its own."""
        if self._vocabulary_path is not None and self._given_vocabulary is None:
            self._given_vocabulary = self._saved(Path(self._vocabulary_path).expanduser())

    def use_vocabulary(self, folder: str | Path) -> None:
        """Asks to encode with a saved vocabulary and its schema, instead of fitting; to be called before setup.

        Raises:
            BadInput: there is no vocabulary in the folder, it is damaged, or columns are something else by the options.
            RuntimeError: the data are encoded already.
        """
        if self._folder is not None or self._predict_folder is not None:
            raise RuntimeError("use_vocabulary() comes before prepare_data() and setup()")
        self._given_vocabulary = self._saved(Path(folder))
        self._only_predicts = self.predict_path is not None

    def _saved(self, folder: Path) -> Vocabulary:
        vocabulary = Vocabulary.load(folder)
        vocabulary.schema.check_options(**self.schema_options, unused=self.split_options.columns())
        return vocabulary

    def check_unseen(self, split: str) -> None:
        """Refuses a split that is drawn at random from other rows than those of a checkpoint's vocabulary.

        Raises:
            BadInput: the file has changed, is another one, or is divided otherwise, so that the split may have rows
                that were trained on.
        """
        if split == "predict":
            if self.predict_path is not None:
                return
            split = "test"
        # With data.vocabulary the checkpoint itself was trained on other rows than the vocabulary was fitted on.
        if self._given_vocabulary is None or self._vocabulary_path is not None:
            return
        folder = self._encoded_folder()
        if split in self._drawn and not folder.meta["as_fitted"]:
            raise BadInput(
                f"the rows of '{self._name()}' are not those that the model was trained on, or are divided otherwise: "
                f"its {split} split, drawn at random, may have rows that it was trained on"
            )

    # Finding and encoding.

    def _name(self) -> str:
        if self._given_name is not None:
            return self._given_name
        path = self.path or next(one for one in (*self.paths.values(), self.predict_path) if one is not None)
        return name_of(path if isinstance(path, str) else path[0])

    def _parts(self) -> dict[str, Part]:
        own = {split: path for split, path in self.paths.items() if path is not None}
        if self.path is None and not own:
            raise BadInput("data.path is needed: a file, a folder or the id of a Hugging Face data set")
        parts = find_parts(self.path, self.format, self.cache) if self.path is not None else {}
        if own and ALL in parts:
            # A file beside paths of their own is what is left: train.
            if "train" in own:
                raise BadInput("data.path and data.train_path both give training rows: leave one out")
            parts["train"] = parts.pop(ALL)
        return {**parts, **{split: find_part(path, self.format, self.cache) for split, path in own.items()}}

    def _encoded_folder(self) -> EncodedFolder | StreamFolder:
        if self._folder is None:
            self._folder = self._open_streams() if self.streaming else self._open()
        return self._folder

    def _open(self) -> EncodedFolder:
        parts = self._parts()
        stamps = {split: part.stamp() for split, part in parts.items()}
        whole = all(split in parts for split in SPLITS)
        if self.split_options.by == "fraction" and (ALL in parts or "train" in parts):
            self._drawn = [split for split in SPLITS if split not in parts]
        if whole and self._split_named and self._given_vocabulary is None:
            raise BadInput(
                f"{' and '.join(self._split_named)} would divide the rows, but '{self._name()}' is split into train, "
                "valid and test already: leave it out, or name one data.path with all rows"
            )
        source = [stamps, vars(self.csv), None if whole else vars(self.split_options)]
        vocabulary = self._given_vocabulary
        link = self.cache / "fits" / f"{key_of(source, self.schema_options, self.min_count)}.json"
        if vocabulary is None:
            known = read_link(link)
            found = EncodedFolder.open(self.cache / known) if known is not None else None
            if found is not None:
                return found
            vocabulary = _left_vocabulary(self.cache / known) if known is not None else None
        if vocabulary is None:
            with located(parts, self.csv):
                vocabulary = self._fit(parts)
        folder = self._cache_folder("", source, vocabulary.fingerprint)
        if self._given_vocabulary is None:
            # Before the rows are encoded: after an interruption the tokens need not be counted again.
            write_link(link, folder.name)
        found = EncodedFolder.open(folder)
        if found is None:
            try:
                with located(parts, self.csv):
                    sources = self._sources(parts, [vocabulary.schema.label, *vocabulary.schema.columns()])
                    fitted, total = self._given_vocabulary is None, cheap_count(parts)
                    self._encode(folder, sources, vocabulary, labelled=True, total=total, fitted=fitted)
            except BadInput:
                link.unlink(missing_ok=True)
                raise
            if {split: part.stamp() for split, part in parts.items()} != stamps:
                raise BadInput(f"the files of '{self._name()}' changed while they were read: run again")
            found = EncodedFolder(folder)
        return found

    def _open_streams(self) -> StreamFolder:
        parts, given = self._parts(), self._given_vocabulary
        if self._split_named:
            raise BadInput(
                f"{' and '.join(self._split_named)} would divide rows, which data.streaming=true does not do"
            )
        self._streams = streams_of(parts, self._name(), all_splits=given is None)
        key = [given.fingerprint] if given is not None else [self.schema_options, self.min_count]
        folder = self._cache_folder("-stream", {split: part.stamp() for split, part in parts.items()}, *key)
        found = StreamFolder.open(folder)
        if found is None:
            schema = given.schema if given else infer_schema(self._streams["train"].schema(), **self.schema_options)
            with located(parts, self.csv):
                total = cheap_count(parts)
            if total is not None and given is None and any(one.binning == "quantile" for one in schema.fields):
                total += cheap_count({"train": parts["train"]}) or 0
            with rows_progress(f"reading the tokens of '{self._name()}'", total) as progress:

                def fit(slices: Callable[[], Iterator[pl.DataFrame]]) -> Vocabulary:
                    return Vocabulary.fit(slices, schema, self.min_count, scratch=self.cache)

                found = read_streams(folder, self._streams, schema, given or fit, progress)
        return found

    def _loader(self, split: str) -> DataLoader:
        if not self.streaming or (split == "predict" and self.predict_path is not None):
            return super()._loader(split)
        folder = self._encoded_folder()
        assert isinstance(folder, StreamFolder)
        source, training = "test" if split == "predict" else split, split == "train"
        if source not in self._streams:
            raise BadInput(f"data '{self._name()}' has no {source} split, only {', '.join(self._streams)}")
        rank, world_size = place_among_processes()
        rows = StreamedRows(
            self._streams[source],
            folder.meta["shard_rows"][source],
            folder.path / "vocabulary",
            self.batch_size if training else self.eval_batch_size,
            labelled=split != "predict",
            shuffle=training and not self._overfits,
            window=self.shuffle_rows,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
        )
        rows.renumbering = self._renumbering
        if self.trainer is not None:
            rows.epoch_now = partial(getattr, self.trainer, "current_epoch")
        if training and self._trained is not None:
            rows.go_on(*self._trained)
            self._trained = None
        # Batches of several workers come in turn: rows to predict would not keep their order.
        return stream_loader(rows, min(self.num_workers, 1) if split == "predict" else self.num_workers)

    def _open_predict(self, path: str) -> EncodedFolder:
        part = find_part(path, self.format, self.cache)
        vocabulary = self.vocabulary
        folder = self._cache_folder("-predict", part.stamp(), vars(self.csv), vocabulary.fingerprint)
        found = EncodedFolder.open(folder)
        if found is None:
            with located({"predict": part}, self.csv):
                sources = {"predict": Source(part.frame(self.csv), Whole("predict"))}
                _check_rows_stay(part, self.csv)
                self._encode(folder, sources, vocabulary, labelled=False, total=cheap_count({"predict": part}))
            found = EncodedFolder(folder)
        return found

    def _cache_folder(self, suffix: str, *key: Any) -> Path:
        # The name is for people who look into the cache; the key is what tells.
        name = re.sub(r"[^\w.-]", "_", self._name())[:64]
        return self.cache / f"{name}{suffix}-{key_of(*key)}"

    def _sources(self, parts: dict[str, Part], columns: list[str]) -> dict[str, Source]:
        """The rows and their splits; every part is known to have the columns before any of them is read."""
        frames = {split: part.frame(self.csv) for split, part in parts.items()}
        for split, frame in frames.items():
            check_columns(frame, columns, parts[split].where())
        if self._given_vocabulary is not None and ALL not in frames and "train" not in frames:
            # Nothing is fitted, so test rows can stand alone.
            return {split: Source(frame, Whole(split)) for split, frame in frames.items()}
        return {name: Source(frames[name], division) for name, division in divide(frames, self.split_options).items()}

    def _fit(self, parts: dict[str, Part]) -> Vocabulary:
        name = "train" if "train" in parts else ALL
        if name not in parts:
            raise BadInput(f"there is no train split, only {', '.join(parts)}: name one with data.train_path=FILE")
        training = parts[name]
        schema = infer_schema(training.types(self.csv), **self.schema_options, unused=self.split_options.columns())
        source = self._sources(parts, [schema.label, *schema.columns()])[name]
        columns = list(dict.fromkeys([*schema.columns(), *source.division.columns]))
        passes = 2 if any(one.binning == "quantile" for one in schema.fields) else 1
        total = cheap_count({"train": training})
        with rows_progress(f"reading the tokens of '{self._name()}'", total) as progress:

            def train_slices() -> Iterator[pl.DataFrame]:
                first = 0
                for part in slices(source.frame, columns, "the train split"):
                    yield source.division.rows_of("train", part, first)
                    first += len(part)
                    progress.advance(len(part) / passes)

            return Vocabulary.fit(train_slices, schema, self.min_count, scratch=self.cache)

    def _encode(
        self,
        folder: Path,
        sources: dict[str, Source],
        vocabulary: Vocabulary,
        labelled: bool,
        total: int | None,
        fitted: bool = False,
    ) -> None:
        with rows_progress(f"encoding '{self._name()}'", total) as progress:
            write_encoded(folder, sources, vocabulary, labelled, progress, fitted)


def _check_rows_stay(part: Part, csv: CsvOptions) -> None:
    """Refuses rows to predict of which one would be taken for an empty line: predictions go by their order."""
    if part.format != "csv":
        return
    with reading(part.where()):
        place = line_without_values(part.files, csv)
    if place is not None:
        raise BadInput(
            f"{place} has no value in any column, and would get no prediction: leave it out, or write Parquet"
        )


def _left_vocabulary(folder: Path) -> Vocabulary | None:
    """The vocabulary that an interrupted encoding has left, None where there is none or it is damaged."""
    try:
        return Vocabulary.load(unfinished(folder) / "vocabulary")
    except BadInput:
        return None
