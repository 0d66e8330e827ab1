"""Factorization machine."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .arguments import positive
from .layers import pairwise_interaction


class FM(nn.Module):
    r"""Factorization machine of degree 2: a bias, a first-order and a second-order term.

    .. math:: \hat y = b + \sum_i w_i + \sum_{i<j} \langle e_i, e_j \rangle

    The weights :math:`w_i` and vectors :math:`e_i` of the row's tokens are inputs; the model itself owns only
    the bias.

    Args:
        num_fields: F, number of fields, at least 1.
        embedding_dim: D, width of each embedding, at least 1.

    Raises:
        ValueError: an argument is below 1.

    Source: Rendle, *Factorization Machines*, ICDM 2010 (not on arXiv; https://doi.org/10.1109/ICDM.2010.127).
    """

    def __init__(self, num_fields: int, embedding_dim: int) -> None:
        super().__init__()
        positive("num_fields", num_fields)
        positive("embedding_dim", embedding_dim)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, embeddings: Tensor, linear: Tensor) -> Tensor:
        """Logits of a batch.

        Args:
            embeddings: ``(B, F, D)``.
            linear: ``(B, F)``, the first-order weight of each token of the row.

        Returns:
            logits ``(B,)``.
        """
        return self.bias + linear.sum(dim=1) + pairwise_interaction(embeddings)
