"""Clicks with the token popularity of real logs and nothing to learn: for measuring time and memory alone."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch

from pme_lightning.data import EncodedData, EncodedDataModule
from pme_lightning.data.planted import field_sizes

ZIPF_EXPONENT = 1.1


class ZipfClicks(EncodedDataModule):
    """Rows whose tokens are drawn by a Zipf law within each field; labels are coin tosses.

    Vocabularies grow geometrically from 10 tokens to the bulk, as in real logs. Within a field, index 0 is the
    out-of-vocabulary token and the others are in the order of their popularity.

    Args:
        tokens: ``V``, of all fields.
        num_fields: ``F``.
        train_rows: rows of the training split.
        eval_rows: rows of each of the others.
        batch_size: training rows per batch.
        seed: of the rows and their order.
    """

    def __init__(
        self,
        tokens: int,
        num_fields: int = 39,
        train_rows: int = 40 * 4096,
        eval_rows: int = 4096,
        batch_size: int = 4096,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, seed=seed)
        self.sizes = field_sizes(tokens, num_fields)
        self.counts = {"train": train_rows, "valid": eval_rows, "test": eval_rows}

    def encoded(self) -> EncodedData:
        """Draws the rows."""
        splits = _rows(tuple(self.sizes), tuple(self.counts.items()), self.seed)
        frequencies = np.bincount(splits["train"][0].reshape(-1), minlength=sum(self.sizes))
        names = [f"field_{number}" for number in range(1, len(self.sizes) + 1)]
        return EncodedData("zipf", names, list(self.sizes), torch.from_numpy(frequencies), splits)

    def popularity(self) -> torch.Tensor:
        """Returns the share of rows that each token is expected in, ``(V,)`` float64; 0 for out-of-vocabulary."""
        return torch.from_numpy(np.concatenate([np.append(0.0, _weights(size)) for size in self.sizes]))


@lru_cache(maxsize=1)  # two modules of a case have the same ones
def _rows(sizes: tuple[int, ...], counts: tuple[tuple[str, int], ...], seed: int) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    splits = {}
    for split, rows in counts:
        ids, start = np.empty((rows, len(sizes)), dtype=np.int32), 0
        for field, size in enumerate(sizes):
            ids[:, field] = start + _draw(generator, size, rows)
            start += size
        splits[split] = (ids, (generator.random(rows) < 0.25).astype(np.int8))
    return splits


def _weights(size: int) -> np.ndarray:
    weights = np.arange(1, size, dtype=np.float64) ** -ZIPF_EXPONENT
    return weights / weights.sum()


def _draw(generator: np.random.Generator, size: int, rows: int) -> np.ndarray:
    edges = np.cumsum(_weights(size))
    return 1 + np.minimum(np.searchsorted(edges, generator.random(rows)), size - 2)
