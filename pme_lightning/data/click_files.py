"""The files behind a data module: found, read once, and kept in the cache."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import polars as pl

from pme_lightning.data.cache import EncodedFolder, check_columns, key_of, read_link, slices, write_link
from pme_lightning.data.csv_files import CsvOptions, line_without_values
from pme_lightning.data.encoding import Source, write_encoded
from pme_lightning.data.faults import located
from pme_lightning.data.file_names import name_of
from pme_lightning.data.folders import unfinished
from pme_lightning.data.options import SPLITS
from pme_lightning.data.parts import ALL, Part, cheap_count, reading
from pme_lightning.data.progress import rows_progress
from pme_lightning.data.schema import infer_schema
from pme_lightning.data.sources import Format, find_part, find_parts
from pme_lightning.data.splits import SplitOptions, Whole, divide
from pme_lightning.data.stream_folder import StreamFolder, read_streams
from pme_lightning.data.streams import Stream, streams_of
from pme_lightning.data.vocabulary import Vocabulary
from pme_lightning.errors import BadInput


class _Folder(Protocol):
    @classmethod
    def open(cls, path: Path) -> Self | None: ...


_Opened = TypeVar("_Opened", bound=_Folder)


@dataclass
class ClickFiles:
    """Where rows are and how they are to be read.

    Folders in the cache are named after the files' stamps and the vocabulary that their rows are read with. Which
    vocabulary that is, the options tell only once all training rows have been read: a link from the options to the
    folder remembers it.

    Attributes:
        path: of all rows, or of splits; None where each split has a path of its own.
        own_paths: those of single splits.
        predict_path: of rows to predict, if any.
        format: of the files.
        csv: how CSV is written.
        schema_options: as :func:`~pme_lightning.data.schema.infer_schema` takes them.
        min_count: fewest training rows of a token of its own.
        split_options: how rows that are not split are divided.
        split_named: the options about that which were given, for messages.
        cache: the folder of the cache.
        given_name: of the data set; None: it is made of a path.
        drawn: the splits that the last :meth:`encoded` drew at random.
    """

    path: str | list[str] | None
    own_paths: Mapping[str, str]
    predict_path: str | None
    format: Format
    csv: CsvOptions
    schema_options: dict[str, Any]
    min_count: int | dict[str, int]
    split_options: SplitOptions
    split_named: list[str]
    cache: Path
    given_name: str | None
    drawn: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of the data set, for messages and folders."""
        if self.given_name is not None:
            return self.given_name
        path = self.path or next(one for one in (*self.own_paths.values(), self.predict_path) if one is not None)
        return name_of(path if isinstance(path, str) else path[0])

    def encoded(self, given: Vocabulary | None) -> EncodedFolder:
        """Opens the encoded rows of all splits; reads and encodes them where that has not been done.

        Args:
            given: the vocabulary to encode with; None: one is fitted on the training rows.

        Raises:
            BadInput: there is nothing to read, or it cannot be read or divided.
        """
        parts = self._parts()
        stamps = _stamps(parts)
        whole = all(split in parts for split in SPLITS)
        if self.split_options.by == "fraction" and (ALL in parts or "train" in parts):
            self.drawn = [split for split in SPLITS if split not in parts]
        if whole and self.split_named and given is None:
            raise BadInput(
                f"{' and '.join(self.split_named)} would divide the rows, but '{self.name}' is split into train, "
                "valid and test already: leave it out, or name one data.path with all rows"
            )
        source = [stamps, vars(self.csv), None if whole else vars(self.split_options)]
        link = self._link(source, self.schema_options, self.min_count)
        vocabulary = given
        if given is None:
            if (found := self._linked(link, EncodedFolder)) is not None:
                return found
            vocabulary = self._left_vocabulary(link)
        if vocabulary is None:
            with located(parts, self.csv):
                vocabulary = self._fit(parts)
        folder = self._folder("", source, vocabulary.fingerprint)
        if given is None:
            # Before the rows are encoded: after an interruption the tokens need not be counted again.
            write_link(link, folder.name)
        found = EncodedFolder.open(folder)
        if found is not None:
            return found
        try:
            with located(parts, self.csv):
                columns = [vocabulary.schema.label, *vocabulary.schema.columns()]
                sources = self._sources(parts, columns, all_splits=given is None)
                self._encode(folder, sources, vocabulary, labelled=True, total=cheap_count(parts), fitted=given is None)
        except BadInput:
            if given is None:
                link.unlink(missing_ok=True)
            raise
        if _stamps(parts) != stamps:
            raise BadInput(f"the files of '{self.name}' changed while they were read: run again")
        return EncodedFolder(folder)

    def streams(self, given: Vocabulary | None) -> tuple[StreamFolder, dict[str, Stream]]:
        """Opens what is known of streamed splits; goes over them once where nothing is.

        Args:
            given: the vocabulary to read with; None: one is fitted on the training rows.

        Returns:
            It, and the splits as streams.

        Raises:
            BadInput: a split is missing, cannot be streamed or read, or rows would have to be divided.
        """
        parts = self._parts()
        if self.split_named:
            raise BadInput(f"{' and '.join(self.split_named)} would divide rows, which data.streaming=true does not do")
        streams, stamps = streams_of(parts, self.name, all_splits=given is None), _stamps(parts)

        def folder_of(vocabulary: Vocabulary) -> Path:
            return self._folder("-stream", stamps, vocabulary.fingerprint)

        link = self._link("stream", stamps, self.schema_options, self.min_count)
        known = self._linked(link, StreamFolder) if given is None else StreamFolder.open(folder_of(given))
        if known is not None:
            return known, streams
        schema = infer_schema(streams["train"].schema(), **self.schema_options) if given is None else given.schema
        with located(parts, self.csv):
            total = cheap_count(parts)
        if total is not None and given is None and any(one.binning == "quantile" for one in schema.fields):
            total += cheap_count({"train": parts["train"]}) or 0
        with rows_progress(f"reading the tokens of '{self.name}'", total) as progress:

            def fit(slices: Callable[[], Iterator[pl.DataFrame]]) -> Vocabulary:
                return Vocabulary.fit(slices, schema, self.min_count, scratch=self.cache)

            found = read_streams(folder_of, streams, schema, given or fit, progress)
        if given is None:
            write_link(link, found.path.name)
        return found, streams

    def to_predict(self, vocabulary: Vocabulary) -> EncodedFolder:
        """Opens the encoded rows of ``predict_path``, without labels; encodes them where that has not been done.

        Raises:
            BadInput: there is nothing to read, or it cannot be read, or a row would be lost.
        """
        assert self.predict_path is not None
        part = find_part(self.predict_path, self.format, self.cache)
        folder = self._folder("-predict", part.stamp(), vars(self.csv), vocabulary.fingerprint)
        found = EncodedFolder.open(folder)
        if found is None:
            with located({"predict": part}, self.csv):
                sources = {"predict": Source(part.frame(self.csv), Whole("predict"))}
                _check_rows_stay(part, self.csv)
                self._encode(folder, sources, vocabulary, labelled=False, total=cheap_count({"predict": part}))
            found = EncodedFolder(folder)
        return found

    def _parts(self) -> dict[str, Part]:
        own = self.own_paths
        if self.path is None and not own:
            raise BadInput("data.path is needed: a file, a folder or the id of a Hugging Face data set")
        parts = find_parts(self.path, self.format, self.cache) if self.path is not None else {}
        if own and ALL in parts:
            # A file beside paths of their own is what is left: train.
            if "train" in own:
                raise BadInput("data.path and data.train_path both give training rows: leave one out")
            parts["train"] = parts.pop(ALL)
        return {**parts, **{split: find_part(path, self.format, self.cache) for split, path in own.items()}}

    def _folder(self, suffix: str, *key: Any) -> Path:
        # The name is for people who look into the cache; the key is what tells.
        name = re.sub(r"[^\w.-]", "_", self.name)[:64]
        return self.cache / f"{name}{suffix}-{key_of(*key)}"

    def _link(self, *options: Any) -> Path:
        return self.cache / "fits" / f"{key_of(*options)}.json"

    def _linked(self, link: Path, kind: type[_Opened]) -> _Opened | None:
        known = read_link(link)
        return None if known is None else kind.open(self.cache / known)

    def _left_vocabulary(self, link: Path) -> Vocabulary | None:
        """The vocabulary that an interrupted encoding has left, None where there is none or it is damaged."""
        known = read_link(link)
        if known is None:
            return None
        try:
            return Vocabulary.load(unfinished(self.cache / known) / "vocabulary")
        except BadInput:
            return None

    def _sources(self, parts: dict[str, Part], columns: list[str], all_splits: bool) -> dict[str, Source]:
        """The rows and their splits; every part is known to have the columns before any of them is read."""
        frames = {split: part.frame(self.csv) for split, part in parts.items()}
        for split, frame in frames.items():
            check_columns(frame, columns, parts[split].where())
        if not all_splits and ALL not in frames and "train" not in frames:
            # Nothing is fitted, so test rows can stand alone.
            return {split: Source(frame, Whole(split)) for split, frame in frames.items()}
        return {name: Source(frames[name], division) for name, division in divide(frames, self.split_options).items()}

    def _fit(self, parts: dict[str, Part]) -> Vocabulary:
        name = "train" if "train" in parts else ALL
        if name not in parts:
            raise BadInput(f"there is no train split, only {', '.join(parts)}: name one with data.train_path=FILE")
        training = parts[name]
        schema = infer_schema(training.types(self.csv), **self.schema_options, unused=self.split_options.columns())
        source = self._sources(parts, [schema.label, *schema.columns()], all_splits=True)[name]
        columns = list(dict.fromkeys([*schema.columns(), *source.division.columns]))
        passes = 2 if any(one.binning == "quantile" for one in schema.fields) else 1
        total = cheap_count({"train": training})
        with rows_progress(f"reading the tokens of '{self.name}'", total) as progress:

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
        with rows_progress(f"encoding '{self.name}'", total) as progress:
            write_encoded(folder, sources, vocabulary, labelled, progress, fitted)


def _stamps(parts: Mapping[str, Part]) -> dict[str, Any]:
    return {split: part.stamp() for split, part in parts.items()}


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
