"""Embedding tables: the same full size for all tokens (search), or a separate size for each (after the transfer)."""

from pme_lightning.embedding.field_decays import FieldDecays
from pme_lightning.embedding.full import FullEmbedding
from pme_lightning.embedding.multi_size import MultiSizeEmbedding
from pme_lightning.embedding.shard import RowLayout, Shard
from pme_lightning.embedding.size_classes import SizeClass
from pme_lightning.embedding.soft_threshold import SoftThreshold

__all__ = ["FieldDecays", "FullEmbedding", "MultiSizeEmbedding", "RowLayout", "Shard", "SizeClass", "SoftThreshold"]
