"""What is known of streamed splits before they are trained on: tokens, rows of each shard; kept in the cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pme_lightning.data.folders import whole_folder, writing
from pme_lightning.data.labels import binary_labels
from pme_lightning.data.options import SPLITS
from pme_lightning.data.progress import RowsProgress
from pme_lightning.data.schema import Schema
from pme_lightning.data.streams import Stream
from pme_lightning.data.vocabulary import Vocabulary
from pme_lightning.errors import BadInput


class StreamFolder:
    """An open folder of what a pass over streamed splits has found.

    Attributes:
        path: the folder.
        meta: rows of each shard and clicks by split, schema, tokens per field.
        splits: no arrays: rows are read as they are trained on.
        frequencies: int64 ``(V,)``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.meta: dict[str, Any] = json.loads((path / "meta.json").read_text(encoding="utf-8"))
        self.splits: dict[str, Any] = {}
        self.frequencies = np.load(path / "frequencies.npy", mmap_mode="c")
        if "clicks" not in self.meta or len(self.frequencies) != sum(self.meta["field_tokens"]):
            raise ValueError(f"{path} is not what it says it is")

    @classmethod
    def open(cls, path: Path) -> StreamFolder | None:
        """Opens a folder; None where there is none or it is damaged (and then to be written anew)."""
        try:
            return cls(path)
        except (OSError, ValueError, KeyError, TypeError, EOFError):
            return None

    @property
    def rows(self) -> dict[str, int]:
        """Rows per split."""
        counts = self.meta["shard_rows"]
        return {split: sum(counts[split]) for split in SPLITS if split in counts}

    def vocabulary(self) -> Vocabulary:
        """The vocabulary."""
        return Vocabulary.load(self.path / "vocabulary")


def read_streams(
    folder_of: Callable[[Vocabulary], Path],
    streams: Mapping[str, Stream],
    schema: Schema,
    vocabulary: Vocabulary | Callable[[Callable[[], Iterator[pl.DataFrame]]], Vocabulary],
    progress: RowsProgress,
) -> StreamFolder:
    """Goes over all splits once: counts the rows of each shard, looks at the labels, fits the vocabulary on train.

    Args:
        folder_of: which folder to make, given the vocabulary; it appears when it is whole.
        streams: the splits.
        schema: label and fields.
        vocabulary: to use, and then of the training rows only labels are read; or what makes one of them.
        progress: is told of rows.

    Raises:
        BadInput: a bad label, a split without rows or with labels of one kind, rows that cannot be read,
            or no space is left for the cache.
    """
    shard_rows: dict[str, list[int]] = {}
    clicks: dict[str, int] = {}

    def counted(split: str, columns: list[str]) -> Iterator[pl.DataFrame]:
        stream, counts, clicked = streams[split], [], 0
        for shard in range(stream.num_shards()):
            counts.append(0)
            for part in stream.slices(shard, list(dict.fromkeys([schema.label, *columns]))):
                labels = binary_labels(part.get_column(schema.label), f"the {split} split")
                clicked += int(np.count_nonzero(labels))
                counts[-1] += len(part)
                progress.advance(len(part))
                yield part
        if not sum(counts):
            raise BadInput(f"the {split} split is empty: it has no rows")
        shard_rows[split], clicks[split] = counts, clicked

    if not isinstance(vocabulary, Vocabulary):
        vocabulary = vocabulary(lambda: counted("train", schema.columns()))
    for split in streams:
        if split not in shard_rows:
            for _ in counted(split, []):
                pass
    folder = folder_of(vocabulary)
    with writing(folder.parent), whole_folder(folder) as partial:
        vocabulary.save(partial / "vocabulary")
        vocabulary.save_frequencies(partial / "frequencies.npy")
        meta: dict[str, Any] = {"shard_rows": shard_rows, "clicks": clicks, "schema": vocabulary.schema.to_json()}
        meta["field_tokens"] = vocabulary.field_tokens
        (partial / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    return StreamFolder(folder)
