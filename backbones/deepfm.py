"""DeepFM."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .arguments import positive
from .layers import MLP, pairwise_interaction


class DeepFM(nn.Module):
    r"""Factorization machine and a deep network on the same embeddings; their logits are added.

    .. math:: \hat y = \sum_i w_i + \sum_{i<j} \langle e_i, e_j \rangle + \mathrm{MLP}([e_1; \dots; e_F])

    The bias of the network's output layer is the global bias.

    Args:
        num_fields: F, number of fields, at least 1.
        embedding_dim: D, width of each embedding, at least 1.
        hidden_units: width of each hidden layer of the network.
        dropout: probability of zeroing a hidden value during training, in [0, 1).
        batch_norm: whether to normalize each hidden layer before its activation.
        activation: one of ``relu, leaky_relu, gelu, silu, tanh, sigmoid``.

    Raises:
        ValueError: an argument is out of its range.

    Source: Guo et al., *DeepFM: A Factorization-Machine based Neural Network for CTR Prediction*, IJCAI 2017,
    https://arxiv.org/abs/1703.04247.
    """

    def __init__(
        self,
        num_fields: int,
        embedding_dim: int,
        *,
        hidden_units: Sequence[int] = (400, 400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.mlp = MLP(
            positive("num_fields", num_fields) * positive("embedding_dim", embedding_dim),
            hidden_units,
            output_dim=1,
            dropout=dropout,
            batch_norm=batch_norm,
            activation=activation,
        )

    def forward(self, embeddings: Tensor, linear: Tensor) -> Tensor:
        """Logits of a batch.

        Args:
            embeddings: ``(B, F, D)``.
            linear: ``(B, F)``, the first-order weight of each token of the row.

        Returns:
            logits ``(B,)``.
        """
        deep = self.mlp(embeddings.flatten(1)).squeeze(1)
        return linear.sum(dim=1) + pairwise_interaction(embeddings) + deep
