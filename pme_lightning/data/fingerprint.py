"""A hash that tells one vocabulary from another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from pme_lightning.data.field_table import FieldTable
from pme_lightning.data.schema import Schema

# Changes whenever the same data would be encoded otherwise than before.
FORMAT_VERSION = 2


def fingerprint_of(
    schema: Schema, tables: Sequence[FieldTable], oov_counts: Sequence[int], edges: Mapping[str, np.ndarray]
) -> str:
    """A hash of the fields, their tokens in order and the counts; arguments as in the vocabulary."""
    digest = hashlib.sha256()
    described = schema.to_json()
    # Names and order of the fields matter; what else was in the training file does not.
    facts = [FORMAT_VERSION, described["label"], described["fields"], oov_counts]
    digest.update(json.dumps(facts).encode())
    for one, table in zip(schema.fields, tables, strict=True):
        digest.update(f"{one.name}:{table.dtype}:{len(table)}".encode())
        for values in table.batches("value"):
            digest.update(values.is_null().to_numpy().tobytes())
        for counts in table.counts():
            digest.update(counts.tobytes())
        if table.dtype == pl.String:
            for values in table.batches("value"):
                digest.update(values.fill_null("").str.len_bytes().to_numpy().astype(np.int64).tobytes())
            for values in table.batches("value"):
                digest.update(values.fill_null("").str.join("").item().encode() if len(values) else b"")
        else:
            for values in table.batches("value"):
                digest.update(values.fill_null(0).to_numpy().tobytes())
        digest.update(edges.get(one.name, np.empty(0)).tobytes())
    return digest.hexdigest()
