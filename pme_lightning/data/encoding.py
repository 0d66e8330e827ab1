"""Writing the cache: slices of rows in, arrays out, from where an interrupted process has left off."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pme_lightning.data.cache import EncodedFolder, slices
from pme_lightning.data.folders import remove_abandoned, resumable_folder, unfinished, writing
from pme_lightning.data.labels import binary_labels
from pme_lightning.data.npy_writer import NpyWriter
from pme_lightning.data.progress import RowsProgress
from pme_lightning.data.splits import Division
from pme_lightning.data.tokens import Matches
from pme_lightning.data.vocabulary import Vocabulary
from pme_lightning.errors import BadInput
from pme_lightning.written_whole import written_whole

# How often what is written is noted down: that much work is lost at most.
_NOTE_SECONDS = 15.0
# Ids that are counted at a time.
_COUNTED_IDS = 1 << 22


@dataclass(frozen=True)
class Source:
    """Rows to encode: as they come, and to which splits they go."""

    frame: pl.LazyFrame
    division: Division


def write_encoded(
    folder: Path,
    sources: Mapping[str, Source],
    vocabulary: Vocabulary,
    labelled: bool,
    progress: RowsProgress,
    fitted: bool = False,
) -> None:
    """Encodes rows into a cache folder, which appears under its name when it is whole.

    Rows are read once and in order, whatever splits they go to, so that how far reading has come and how many rows
    each split has by then is all that there is to know: it is noted down from time to time, and a process that finds
    such a note goes on from there.

    Args:
        folder: the folder to make; a damaged one is removed.
        sources: rows, by the name of where they come from.
        vocabulary: encodes them; it is saved with them.
        labelled: whether the rows must have labels.
        progress: is told the number of rows of every slice done.
        fitted: whether the vocabulary was fitted on the training rows; where it was not, they are counted, and the
            folder says whether they have as many of each token as those that it was fitted on.

    Raises:
        BadInput: an empty split, a bad label, a missing column, or no space is left for the cache.
    """
    remove_abandoned(folder.parent, keep=unfinished(folder))
    with (
        writing(folder.parent),
        resumable_folder(folder, lambda found: EncodedFolder.open(found) is not None) as partial,
    ):
        if partial is None:
            return
        if not (partial / "vocabulary").is_dir():
            vocabulary.save(partial / "vocabulary")
        rows = _write_rows(partial, sources, vocabulary, labelled, progress)
        vocabulary.save_frequencies(partial / "frequencies.npy")
        meta = {"rows": rows, "labelled": labelled, "schema": vocabulary.schema.to_json()}
        meta["field_tokens"] = vocabulary.field_tokens
        meta["as_fitted"] = fitted or ("train" in rows and _counted_as(vocabulary, partial / "train_ids.npy"))
        (partial / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
        (partial / _Notes.NAME).unlink(missing_ok=True)


def _write_rows(
    partial: Path, sources: Mapping[str, Source], vocabulary: Vocabulary, labelled: bool, progress: RowsProgress
) -> dict[str, int]:
    """Writes the arrays of all splits; returns their rows."""
    notes = _Notes.read(partial, sources, [split for source in sources.values() for split in source.division.splits])
    progress.start_at(sum(notes.read_rows.values()))
    with ExitStack() as stack:
        arrays = _Arrays(stack, partial, len(vocabulary.fields), notes.written_rows)
        for name, source in sources.items():
            if name not in notes.finished:
                _write_source(name, source, vocabulary, labelled, arrays, notes, progress)
        for split, rows in arrays.rows().items():
            if rows == 0:
                raise BadInput(f"the {split} split is empty: it has no rows")
        return arrays.rows()


def _write_source(
    name: str,
    source: Source,
    vocabulary: Vocabulary,
    labelled: bool,
    arrays: _Arrays,
    notes: _Notes,
    progress: RowsProgress,
) -> None:
    division = source.division
    where = f"the {division.splits[0]} split" if len(division.splits) == 1 else "the data"
    label = [vocabulary.schema.label] if labelled else []
    columns = list(dict.fromkeys([*label, *vocabulary.schema.columns(), *division.columns]))
    matches = notes.matches.setdefault(name, Matches())
    for part in slices(source.frame.slice(notes.read_rows[name]), columns, where):
        codes = division.codes(part, notes.read_rows[name])
        ids = vocabulary.encode_fields(part, matches)
        clicks = binary_labels(part.get_column(label[0]), where) if label else None
        for code, split in enumerate(division.splits):
            of_split = slice(None) if codes is None else codes == code
            arrays.write(split, ids[of_split], None if clicks is None else clicks[of_split])
        notes.read_rows[name] += len(part)
        progress.advance(len(part))
        if notes.is_due():
            notes.write(arrays)
    matches.check()
    for column in matches.strangers():
        note = f"note: {where}: no value of column '{column}' was seen in training; all of them count as unknown"
        print(note, file=sys.stderr)
    notes.finished.append(name)


class _Arrays:
    """Ids and labels of every split, in files that grow.

    Args:
        stack: closes the files.
        folder: where they are.
        fields: ``F``.
        written_rows: by split, the rows that are in the files already.
    """

    def __init__(self, stack: ExitStack, folder: Path, fields: int, written_rows: Mapping[str, int]) -> None:
        self._ids: dict[str, NpyWriter] = {}
        self._labels: dict[str, NpyWriter] = {}
        for split, rows in written_rows.items():
            ids = NpyWriter(folder / f"{split}_ids.npy", np.int32, fields, rows)
            self._ids[split] = stack.enter_context(ids)
            labels = NpyWriter(folder / f"{split}_labels.npy", np.uint8, None, rows)
            self._labels[split] = stack.enter_context(labels)

    def rows(self) -> dict[str, int]:
        """Rows by split."""
        return {split: writer.rows for split, writer in self._ids.items()}

    def write(self, split: str, ids: np.ndarray, labels: np.ndarray | None) -> None:
        """Appends rows to a split; None where they have no labels."""
        self._ids[split].write(ids)
        if labels is not None:
            self._labels[split].write(labels)

    def sync(self) -> None:
        """Returns when all rows are on the disk."""
        for writer in (*self._ids.values(), *self._labels.values()):
            writer.sync()


def _counted_as(vocabulary: Vocabulary, file: Path) -> bool:
    """Whether encoded rows have each token as often as the rows that the vocabulary was fitted on."""
    ids, wanted = np.load(file, mmap_mode="r"), vocabulary.frequencies.numpy()
    if len(ids) * ids.shape[1] != wanted.sum():
        return False
    counts = np.zeros(len(wanted), dtype=np.int64)
    # As many ids at a time as there are counts to go through, or more.
    rows = max(_COUNTED_IDS, len(wanted)) // ids.shape[1] + 1
    for start in range(0, len(ids), rows):
        counts += np.bincount(ids[start : start + rows].ravel(), minlength=len(wanted))
    return bool((counts == wanted).all())


class _Notes:
    """How far the rows of a folder are read and written.

    Attributes:
        read_rows: rows that were read, by source.
        written_rows: rows that are on disk, by split.
        finished: the sources that were read to their end.
        matches: whether columns of other kinds than in the training data have anything to match, by source.
    """

    NAME = "unfinished.json"

    def __init__(
        self,
        file: Path,
        read_rows: dict[str, int],
        written_rows: dict[str, int],
        finished: list[str],
        matches: dict[str, Matches],
    ):
        self._file = file
        self.read_rows = read_rows
        self.written_rows = written_rows
        self.finished = finished
        self.matches = matches
        self._noted = time.monotonic()

    @classmethod
    def read(cls, folder: Path, sources: Mapping[str, Source], splits: list[str]) -> _Notes:
        """What a process before has noted; that nothing is done if none has, or files are not as it says."""
        try:
            content = json.loads((folder / cls.NAME).read_text(encoding="utf-8"))
            read_rows = {name: int(content["read"][name]) for name in sources}
            written_rows = {split: int(content["written"][split]) for split in splits}
            matches = {name: Matches(**content["matches"][name]) for name in content["matches"]}
            return cls(folder / cls.NAME, read_rows, written_rows, list(content["finished"]), matches)
        except (OSError, ValueError, KeyError, TypeError):
            return cls(folder / cls.NAME, dict.fromkeys(sources, 0), dict.fromkeys(splits, 0), [], {})

    def is_due(self) -> bool:
        """Whether it is time to note down."""
        return time.monotonic() - self._noted >= _NOTE_SECONDS

    def write(self, arrays: _Arrays) -> None:
        """Notes down, once what was written is on the disk."""
        arrays.sync()
        content: dict[str, Any] = {
            "read": self.read_rows,
            "finished": self.finished,
            "matches": {name: asdict(matches) for name, matches in self.matches.items()},
            "written": arrays.rows(),
        }
        with written_whole(self._file) as partial:
            partial.write_text(json.dumps(content), encoding="utf-8")
        self._noted = time.monotonic()
