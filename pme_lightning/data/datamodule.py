"""The data module over files and Hugging Face data sets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from pme_lightning.data.batches import ClickDataset
from pme_lightning.data.cache import (
    EncodedFolder,
    cache_root,
    check_columns,
    key_of,
    read_link,
    slices,
    write_encoded,
    write_link,
)
from pme_lightning.data.csv_files import CsvOptions
from pme_lightning.data.encoded import SPLITS, EncodedData, EncodedDataModule
from pme_lightning.data.faults import located
from pme_lightning.data.progress import rows_progress
from pme_lightning.data.schema import Binning, Schema, infer_schema
from pme_lightning.data.sources import ALL, Format, Part, cheap_count, find_part, find_parts, name_of
from pme_lightning.data.splits import SplitBy, SplitOptions, divide, split_by
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
        batch_size: training rows per batch and process.
        eval_batch_size: rows per batch and process elsewhere.
        num_workers: loader processes.
        seed: of the shuffling.
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
        binning: Binning = "quantile",
        bins: int = 64,
        min_count: int | dict[str, int] = 1,
        separator: str | None = None,
        header: bool = True,
        column_names: list[str] | None = None,
        split: SplitBy | None = None,
        fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
        time_column: str | None = None,
        split_column: str | None = None,
        train_path: str | None = None,
        valid_path: str | None = None,
        test_path: str | None = None,
        predict_path: str | None = None,
        batch_size: int = 4096,
        eval_batch_size: int = 16384,
        num_workers: int = 0,
        seed: int = 42,
        split_seed: int = 0,
        cache_dir: str | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, seed)
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
        self.split_options = SplitOptions(by, tuple(fractions or ()), time_column, split_column, split_seed)
        named = {"split": split, "time_column": time_column, "split_column": split_column}
        self._split_named = [f"data.{key}={value}" for key, value in named.items() if value is not None]
        self.cache = cache_root(cache_dir)
        self._given_name = name
        self._given_vocabulary: Vocabulary | None = None
        self._vocabulary: Vocabulary | None = None
        self._only_predicts = False
        self._folder: EncodedFolder | None = None
        self._predict_folder: EncodedFolder | None = None

    # Lightning's hooks.

    def prepare_data(self) -> None:
        """Reads, fits and encodes what is not in the cache yet; safe to call again.

        Raises:
            BadInput: no path, nothing there, a wrong column, a bad label, an empty split; each in one line.
        """
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
        return super().rows or {"predict": len(self.predict_rows()[0])}

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

    def use_vocabulary(self, folder: str | Path) -> None:
        """Asks to encode with a saved vocabulary and its schema, instead of fitting; to be called before setup.

        Raises:
            BadInput: there is no vocabulary in the folder, or it is damaged.
            RuntimeError: the data are encoded already.
        """
        if self._folder is not None or self._predict_folder is not None:
            raise RuntimeError("use_vocabulary() comes before prepare_data() and setup()")
        self._given_vocabulary = Vocabulary.load(folder)
        self._only_predicts = self.predict_path is not None

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

    def _encoded_folder(self) -> EncodedFolder:
        if self._folder is None:
            self._folder = self._open()
        return self._folder

    def _open(self) -> EncodedFolder:
        parts = self._parts()
        stamps = {split: part.stamp() for split, part in parts.items()}
        whole = all(split in parts for split in SPLITS)
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
            with located(parts, self.csv):
                vocabulary = self._fit(parts)
        folder = self._cache_folder("", source, vocabulary.fingerprint)
        found = EncodedFolder.open(folder)
        if found is None:
            with located(parts, self.csv):
                frames = self._divided(parts, [vocabulary.schema.label, *vocabulary.schema.columns()])
                self._encode(folder, frames, vocabulary, labelled=True, total=cheap_count(parts))
            if {split: part.stamp() for split, part in parts.items()} != stamps:
                raise BadInput(f"the files of '{self._name()}' changed while they were read: run again")
            found = EncodedFolder(folder)
        if self._given_vocabulary is None:
            write_link(link, folder.name)
        return found

    def _open_predict(self, path: str) -> EncodedFolder:
        part = find_part(path, self.format, self.cache)
        vocabulary = self.vocabulary
        folder = self._cache_folder("-predict", part.stamp(), vars(self.csv), vocabulary.fingerprint)
        found = EncodedFolder.open(folder)
        if found is None:
            with located({"predict": part}, self.csv):
                frames = {"predict": part.frame(self.csv)}
                self._encode(folder, frames, vocabulary, labelled=False, total=cheap_count({"predict": part}))
            found = EncodedFolder(folder)
        return found

    def _cache_folder(self, suffix: str, *key: Any) -> Path:
        # The name is for people who look into the cache; the key is what tells.
        name = re.sub(r"[^\w.-]", "_", self._name())[:64]
        return self.cache / f"{name}{suffix}-{key_of(*key)}"

    def _divided(self, parts: dict[str, Part], columns: list[str]) -> dict[str, pl.LazyFrame]:
        """The splits' rows; every split is known to have the columns before any of them is read."""
        frames = {split: part.frame(self.csv) for split, part in parts.items()}
        for split, frame in frames.items():
            check_columns(frame, columns, parts[split].where())
        if self._given_vocabulary is not None and ALL not in frames and "train" not in frames:
            # Nothing is fitted, so test rows can stand alone.
            return frames
        return divide(frames, self.split_options)

    def _fit(self, parts: dict[str, Part]) -> Vocabulary:
        if "train" not in parts and ALL not in parts:
            raise BadInput(f"there is no train split, only {', '.join(parts)}: name one with data.train_path=FILE")
        training = parts["train" if "train" in parts else ALL]
        schema = infer_schema(training.types(self.csv), **self.schema_options, unused=self.split_options.columns())
        frame = self._divided(parts, [schema.label, *schema.columns()])["train"]
        passes = 2 if any(one.binning == "quantile" for one in schema.fields) else 1
        total = cheap_count({"train": training}) if "train" in parts else None
        with rows_progress(f"reading the tokens of '{self._name()}'", total) as advance:

            def train_slices() -> Iterator[pl.DataFrame]:
                for part in slices(frame, schema.columns(), "the train split"):
                    yield part
                    advance(len(part) / passes)

            return Vocabulary.fit(train_slices, schema, self.min_count)

    def _encode(
        self, folder: Path, frames: dict[str, pl.LazyFrame], vocabulary: Vocabulary, labelled: bool, total: int | None
    ) -> None:
        with rows_progress(f"encoding '{self._name()}'", total) as advance:
            write_encoded(folder, frames, vocabulary, labelled, advance)
