"""The cache of encoded rows: memory-mapped arrays, written once and opened at once ever after."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pme_lightning.data.folders import remove_abandoned, whole_folder
from pme_lightning.data.labels import binary_labels
from pme_lightning.data.sources import reading
from pme_lightning.data.vocabulary import FORMAT_VERSION, Vocabulary
from pme_lightning.errors import BadInput, did_you_mean

# Values read at a time: some hundred MB, whatever the number of columns.
_SLICE_VALUES = 1 << 23

Arrays = tuple[np.ndarray, np.ndarray | None]


def cache_root(cache_dir: str | None) -> Path:
    """The cache folder: the one given, else ``$PME_CACHE_DIR``, else ``~/.cache/pme-lightning``."""
    return Path(cache_dir or os.environ.get("PME_CACHE_DIR") or "~/.cache/pme-lightning").expanduser()


def key_of(*parts: Any) -> str:
    """A short hash of JSON-able parts and of the version of the encoding."""
    text = json.dumps([FORMAT_VERSION, *parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def check_columns(frame: pl.LazyFrame, columns: Sequence[str], where: str) -> None:
    """Raises BadInput, with the nearest name, where a frame lacks one of the columns."""
    with reading(where):
        names = frame.collect_schema().names()
    for column in columns:
        if column not in names:
            raise BadInput(f"column '{column}' is missing in {where}: {did_you_mean(column, names)}")


def slices(frame: pl.LazyFrame, columns: Sequence[str], where: str) -> Iterator[pl.DataFrame]:
    """The named columns, slice by slice in order of rows, with bounded memory.

    Raises:
        BadInput: a column is missing or the rows cannot be read.
    """
    check_columns(frame, columns, where)
    with reading(where):
        rows = max(1024, _SLICE_VALUES // len(columns))
        yield from frame.select(columns).collect_batches(chunk_size=rows, maintain_order=True)


def write_encoded(
    folder: Path,
    frames: Mapping[str, pl.LazyFrame],
    vocabulary: Vocabulary,
    labelled: bool,
    advance: Callable[[float], None],
) -> None:
    """Encodes splits into a cache folder, which appears under its name when it is whole.

    Args:
        folder: the folder to make; a damaged one is removed, one that another process makes meanwhile is kept.
        frames: rows per split.
        vocabulary: encodes them; it is saved with them.
        labelled: whether the rows must have labels.
        advance: is told the number of rows of every slice done.

    Raises:
        BadInput: an empty split, a bad label, a missing column, or no space is left for the cache.
    """
    remove_abandoned(folder.parent)
    shutil.rmtree(folder, ignore_errors=True)
    label = [vocabulary.schema.label] if labelled else []
    columns = [*label, *vocabulary.schema.columns()]
    try:
        with whole_folder(folder, replace=False) as partial:
            rows = {}
            for split, frame in frames.items():
                where = f"the {split} split"
                with (
                    _NpyWriter(partial / f"{split}_ids.npy", np.int32, len(vocabulary.fields)) as ids,
                    _NpyWriter(partial / f"{split}_labels.npy", np.uint8) as labels,
                ):
                    for part in slices(frame, columns, where):
                        if label:
                            labels.write(binary_labels(part.get_column(label[0]), where))
                        ids.write(vocabulary.encode_fields(part))
                        advance(len(part))
                if ids.rows == 0:
                    raise BadInput(f"{where} is empty: it has no rows")
                rows[split] = ids.rows
            vocabulary.save(partial / "vocabulary")
            np.save(partial / "frequencies.npy", vocabulary.frequencies.numpy())
            meta = {"rows": rows, "labelled": labelled, "schema": vocabulary.schema.to_json()}
            meta["field_tokens"] = vocabulary.field_tokens
            (partial / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    except OSError as error:
        raise BadInput(
            f"the cache '{folder.parent}' cannot be written: {error} (data.cache_dir=FOLDER moves it)"
        ) from error


def read_link(link: Path) -> str | None:
    """The name of the cache folder that a link file names; None where there is no such file or it is damaged."""
    try:
        return str(json.loads(link.read_text(encoding="utf-8"))["encoded"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_link(link: Path, name: str) -> None:
    """Writes a link file, whole or not at all."""
    link.parent.mkdir(parents=True, exist_ok=True)
    partial = link.with_suffix(f".{os.getpid()}.tmp")
    partial.write_text(json.dumps({"encoded": name}), encoding="utf-8")
    os.replace(partial, link)


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
        self.frequencies = np.load(path / "frequencies.npy")

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


class _NpyWriter:
    """Appends to a .npy file whose number of rows is known only at the end.

    Plain writes, not a memory map: a full disk then is an error and not a bus fault.
    """

    def __init__(self, path: Path, dtype: type, width: int | None = None) -> None:
        self.rows = 0
        self._dtype = np.dtype(dtype)
        self._shape = () if width is None else (width,)
        self._file = path.open("wb")
        self._header()

    def _header(self) -> None:
        # numpy pads headers so that the first axis can grow in place.
        np.lib.format.write_array_header_1_0(
            self._file,
            {"descr": self._dtype.str, "fortran_order": False, "shape": (self.rows, *self._shape)},
        )

    def write(self, array: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(array, dtype=self._dtype).data)
        self.rows += len(array)

    def __enter__(self) -> _NpyWriter:
        return self

    def __exit__(self, *_: object) -> None:
        with self._file:
            self._file.seek(0)
            self._header()
