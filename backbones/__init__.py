"""CTR models that turn the embeddings of a row into a logit: plain ``nn.Module`` classes that need only torch.

A backbone is built as ``Backbone(num_fields, embedding_dim, ...)`` and called with embeddings ``(B, F, D)``;
it returns logits ``(B,)``. A backbone with a first-order term takes a second input, ``linear`` ``(B, F)``.
Backbones never own per-token parameters.
"""

from __future__ import annotations

from .autoint import AutoInt, AutoIntPlus
from .dcn import DCN, DCNv2
from .deepfm import DeepFM
from .fm import FM
from .layers import (
    MLP,
    CrossNetwork,
    CrossNetworkV2,
    InteractingLayer,
    LowRankCrossNetwork,
    pairwise_interaction,
)

__all__ = [
    "DCN",
    "FM",
    "MLP",
    "AutoInt",
    "AutoIntPlus",
    "CrossNetwork",
    "CrossNetworkV2",
    "DCNv2",
    "DeepFM",
    "InteractingLayer",
    "LowRankCrossNetwork",
    "pairwise_interaction",
]
