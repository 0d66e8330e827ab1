"""The data module over files and Hugging Face data sets."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from pme_lightning.data.batches import ClickDataset
from pme_lightning.data.cache import EncodedFolder, cache_root
from pme_lightning.data.click_files import ClickFiles
from pme_lightning.data.csv_files import CsvOptions
from pme_lightning.data.encoded import EncodedDataModule
from pme_lightning.data.encoded_data import EncodedData
from pme_lightning.data.options import check_whole_number
from pme_lightning.data.schema import BINNING, BINS, Binning, Schema
from pme_lightning.data.sources import Format
from pme_lightning.data.splits import FRACTIONS, SplitBy, SplitOptions, split_by
from pme_lightning.data.stream_folder import StreamFolder
from pme_lightning.data.streamed_rows import StreamedRows, stream_loader
from pme_lightning.data.streams import Stream
from pme_lightning.data.vocabulary import Vocabulary
from pme_lightning.errors import BadInput
from pme_lightning.processes.synchronization import place_among_processes


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
        >>> import polars as pl
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
        self.predict_path = predict_path
        own_paths = {"train": train_path, "valid": valid_path, "test": test_path}
        schema_options = {
            "label": label,
            "categorical": categorical,
            "numeric": numeric,
            "drop": drop,
            "timestamps": timestamps,
            "binning": binning,
            "bins": bins,
        }
        csv = CsvOptions(separator, header, tuple(column_names) if column_names is not None else None)
        by = split or split_by(time_column, split_column)
        split_options = SplitOptions(
            by, tuple(fractions or ()), time_column, split_column, split_seed, (timestamps or {}).get(time_column or "")
        )
        given = None if fractions is None or tuple(fractions) == FRACTIONS else list(fractions)
        named = {"split": split, "time_column": time_column, "split_column": split_column, "fractions": given}
        self.files = ClickFiles(
            path,
            {split: own for split, own in own_paths.items() if own is not None},
            predict_path,
            format,
            csv,
            schema_options,
            min_count,
            split_options,
            [f"data.{key}={value}" for key, value in named.items() if value is not None],
            cache_root(cache_dir),
            name,
        )
        self.streaming = streaming
        check_whole_number("shuffle_rows", shuffle_rows, 1)
        self.shuffle_rows = shuffle_rows
        self._vocabulary_path = vocabulary
        self._given_vocabulary: Vocabulary | None = None
        self._vocabulary: Vocabulary | None = None
        self._only_predicts = False
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
                self.files.name, vocabulary.fields, vocabulary.field_tokens, vocabulary.frequencies, splits={}
            )
        folder = self._encoded_folder()
        splits = {split: (ids, labels) for split, (ids, labels) in folder.splits.items() if labels is not None}
        return EncodedData(
            name=self.files.name,
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
            self._predict_folder = self.files.to_predict(self.vocabulary)
        return self._predict_folder.splits["predict"][0], None

    # Facts.

    @property
    def rows(self) -> dict[str, int]:
        """Rows per split that is there; those to predict where nothing else is."""
        if isinstance(self._folder, StreamFolder):
            return self._folder.rows
        return super().rows or {"predict": len(self.predict_rows()[0])}

    @property
    def clicks(self) -> dict[str, int]:
        """Clicks per split that is there; none where only prediction is asked for."""
        if self._only_predicts:
            return {}
        return dict(self._encoded_folder().meta["clicks"]) if self.streaming else super().clicks

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
        options, unused = self.files.schema_options, self.files.split_options.columns()
        vocabulary.schema.check_options(**options, unused=unused)
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
        if split in self.files.drawn and not folder.meta["as_fitted"]:
            raise BadInput(
                f"the rows of '{self.files.name}' are not those that the model was trained on, or are divided "
                f"otherwise: its {split} split, drawn at random, may have rows that it was trained on"
            )

    # Reading.

    def _encoded_folder(self) -> EncodedFolder | StreamFolder:
        if self._folder is None:
            if self.streaming:
                self._folder, self._streams = self.files.streams(self._given_vocabulary)
            else:
                self._folder = self.files.encoded(self._given_vocabulary)
        return self._folder

    def _loader(self, split: str) -> DataLoader:
        if not self.streaming or (split == "predict" and self.predict_path is not None):
            return super()._loader(split)
        folder = self._encoded_folder()
        assert isinstance(folder, StreamFolder)
        source, training = "test" if split == "predict" else split, split == "train"
        if source not in self._streams:
            raise BadInput(f"data '{self.files.name}' has no {source} split, only {', '.join(self._streams)}")
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
