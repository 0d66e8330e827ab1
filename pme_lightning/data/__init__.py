"""Data: schema, vocabulary, encoding, batches and the data modules over them."""

from pme_lightning.data.batches import ClickDataset, PermutationBatchSampler
from pme_lightning.data.datamodule import ClickDataModule
from pme_lightning.data.encoded import EncodedData, EncodedDataModule
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
