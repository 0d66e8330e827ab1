"""Data: schema, vocabulary, encoding, batches and the data modules over them.

The names below are loaded when they are first used: loader processes need no Lightning, which takes seconds to import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pme_lightning.data.batches import ClickDataset, PermutationBatchSampler
    from pme_lightning.data.datamodule import ClickDataModule
    from pme_lightning.data.encoded import EncodedDataModule
    from pme_lightning.data.encoded_data import EncodedData
    from pme_lightning.data.schema import Field, Schema
    from pme_lightning.data.synthetic import SyntheticDataModule
    from pme_lightning.data.vocabulary import Vocabulary

__all__ = [
    "ClickDataModule",
    "ClickDataset",
    "EncodedData",
    "EncodedDataModule",
    "Field",
    "PermutationBatchSampler",
    "Schema",
    "SyntheticDataModule",
    "Vocabulary",
]

_HOMES = {
    "ClickDataModule": "datamodule",
    "ClickDataset": "batches",
    "EncodedData": "encoded_data",
    "EncodedDataModule": "encoded",
    "Field": "schema",
    "PermutationBatchSampler": "batches",
    "Schema": "schema",
    "SyntheticDataModule": "synthetic",
    "Vocabulary": "vocabulary",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pme_lightning.data' has no attribute '{name}'")
    return getattr(importlib.import_module(f"pme_lightning.data.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
