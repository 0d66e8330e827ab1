"""The cache of encoded rows: memory-mapped arrays, written once and opened at once ever after."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pme_lightning.data.fingerprint import FORMAT_VERSION
from pme_lightning.data.folders import writing
from pme_lightning.data.parts import reading
from pme_lightning.data.vocabulary import Vocabulary
from pme_lightning.errors import BadInput, did_you_mean
from pme_lightning.written_whole import written_whole

# Values read at a time: some hundred MB, whatever the number of columns.
_SLICE_VALUES = 1 << 23
# Rows at a time where there are few columns: what looks them up takes some numbers for each.
_SLICE_ROWS = 1 << 20
# Changes whenever what is found in the cache would be made otherwise, while saved vocabularies stay as they are.
_CACHE_VERSION = 3
_PREFETCH = ("POLARS_ROW_GROUP_PREFETCH_SIZE", "POLARS_CSV_CHUNK_PREFETCH_LIMIT")

Arrays = tuple[np.ndarray, np.ndarray | None]


def cache_root(cache_dir: str | None) -> Path:
    """The cache folder: the one given, else ``$PME_CACHE_DIR``, else ``~/.cache/pme-lightning``."""
    return Path(cache_dir or os.environ.get("PME_CACHE_DIR") or "~/.cache/pme-lightning").expanduser()


def key_of(*parts: Any) -> str:
    """A short hash of JSON-able parts and of the version of the encoding."""
    text = json.dumps([FORMAT_VERSION, _CACHE_VERSION, *parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def check_name(column: str) -> None:
    """Refuses the name of a column that reads as a pattern of names.

    Raises:
        BadInput: it is ``*``, or begins with ``^`` and ends with ``$``.
    """
    if column == "*" or (column.startswith("^") and column.endswith("$")):
        raise BadInput(f"a column called '{column}' cannot be used: it reads as a pattern of names; rename it")


def check_columns(frame: pl.LazyFrame, columns: Sequence[str], where: str) -> None:
    """Raises BadInput, with the nearest name, where a frame lacks one of the columns."""
    with reading(where):
        names = frame.collect_schema().names()
    for column in columns:
        if column not in names:
            raise BadInput(f"column '{column}' is missing in {where}: {did_you_mean(column, names)}")
        check_name(column)


def slices(frame: pl.LazyFrame, columns: Sequence[str], where: str) -> Iterator[pl.DataFrame]:
    """The named columns, slice by slice in order of rows, with bounded memory.

    Raises:
        BadInput: a column is missing or the rows cannot be read.
    """
    check_columns(frame, columns, where)
    rows = max(1024, min(_SLICE_ROWS, _SLICE_VALUES // len(columns)))
    with reading(where):
        with _modest_prefetch():
            batches = iter(frame.select(columns).collect_batches(chunk_size=rows, maintain_order=True))
            first = next(batches, None)
        if first is not None:
            yield first
        yield from batches


@contextmanager
def _modest_prefetch() -> Iterator[None]:
    """Has a query that starts here read few row groups or chunks of files ahead, unless the user has said how many.

    The engine's own number makes the peak of memory half as much again and is not faster, as encoding is what takes
    the time. It takes the number from the environment when it starts to read.
    """
    names = [name for name in _PREFETCH if name not in os.environ]
    os.environ.update(dict.fromkeys(names, "2"))
    try:
        yield
    finally:
        for name in names:
            del os.environ[name]


def read_link(link: Path) -> str | None:
    """The name of the cache folder that a link file names; None where there is no such file or it is damaged."""
    try:
        return str(json.loads(link.read_text(encoding="utf-8"))["encoded"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_link(link: Path, name: str) -> None:
    """Writes a link file, whole or not at all.

    Raises:
        BadInput: the cache cannot be written.
    """
    with writing(link.parent.parent):
        link.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(link) as partial:
            partial.write_text(json.dumps({"encoded": name}), encoding="utf-8")


class EncodedFolder:
    """An open cache folder.

    Attributes:
        path: the folder.
        meta: what it says of itself: rows per split, schema, tokens per field.
        splits: ids int32 ``(n, F)`` and labels uint8 ``(n,)`` or None, as memory maps.
        frequencies: int64 ``(V,)``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.meta: dict[str, Any] = json.loads((path / "meta.json").read_text(encoding="utf-8"))
        self.splits: dict[str, Arrays] = {}
        for split, rows in self.meta["rows"].items():
            ids = _map(path / f"{split}_ids.npy", (rows, len(self.meta["field_tokens"])), np.int32)
            labels = _map(path / f"{split}_labels.npy", (rows,), np.uint8) if self.meta["labelled"] else None
            self.splits[split] = (ids, labels)
        self.frequencies = np.load(path / "frequencies.npy", mmap_mode="c")

    @classmethod
    def open(cls, path: Path) -> EncodedFolder | None:
        """Opens a cache folder; None where there is none or it is damaged (and then to be written anew)."""
        try:
            return cls(path)
        except (OSError, ValueError, KeyError, TypeError, EOFError):
            return None

    def vocabulary(self) -> Vocabulary:
        """The vocabulary that the rows were encoded with."""
        return Vocabulary.load(self.path / "vocabulary")


def _map(path: Path, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    array = np.load(path, mmap_mode="r")
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{path} is not what the cache says it is")
    return array
