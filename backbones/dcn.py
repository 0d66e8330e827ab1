"""Deep & cross networks, version 1 and 2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from .arguments import layer_widths, one_of, positive
from .layers import MLP, CrossNetwork, CrossNetworkV2, LowRankCrossNetwork, linear


class DCN(nn.Module):
    r"""Deep & cross network: a cross network and a deep network in parallel, with one linear layer over both.

    .. math:: \hat y = w^\top [\mathrm{Cross}(x_0); \mathrm{MLP}(x_0)] + b, \quad x_0 = [e_1; \dots; e_F]

    Args:
        num_fields: F, number of fields, at least 1.
        embedding_dim: D, width of each embedding, at least 1.
        num_cross_layers: number of cross layers (see :class:`~.layers.CrossNetwork`), at least 1.
        hidden_units: width of each hidden layer of the deep network; empty for the cross network alone.
        dropout: probability of zeroing a hidden value during training, in [0, 1).
        batch_norm: whether to normalize each hidden layer before its activation.
        activation: one of ``relu, leaky_relu, gelu, silu, tanh, sigmoid``.

    Attributes:
        sums_over_pairs: False: no products of values are added up over all pairs of fields, as FM does
            (:meth:`~pme_lightning.optim.LazyAdagrad.set_sums_over_pairs`).

    Raises:
        ValueError: an argument is out of its range.

    Source: Wang et al., *Deep & Cross Network for Ad Click Predictions*, ADKDD 2017,
    https://arxiv.org/abs/1708.05123.
    """

    sums_over_pairs: ClassVar[bool] = False

    def __init__(
        self,
        num_fields: int,
        embedding_dim: int,
        *,
        num_cross_layers: int = 3,
        hidden_units: Sequence[int] = (400, 400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        width = positive("num_fields", num_fields) * positive("embedding_dim", embedding_dim)
        hidden_units = layer_widths("hidden_units", hidden_units)
        self.cross = CrossNetwork(width, num_cross_layers)
        self.mlp = MLP(width, hidden_units, dropout=dropout, batch_norm=batch_norm, activation=activation)
        self.has_deep = len(hidden_units) > 0
        self.output = linear(width + (self.mlp.output_width if self.has_deep else 0), 1)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Logits ``(B,)`` of the rows whose embeddings are ``(B, F, D)``."""
        x0 = embeddings.flatten(1)
        if not self.has_deep:
            return self.output(self.cross(x0)).squeeze(1)
        return _linear_of_both(self.cross(x0), self.mlp(x0), self.output.weight, self.output.bias)


class DCNv2(nn.Module):
    r"""Deep & cross network with weight matrices (full, low-rank or mixed), in parallel with an MLP or below it.

    .. math::
        \text{parallel:}\ \hat y = w^\top [\mathrm{Cross}(x_0); \mathrm{MLP}(x_0)] + b \qquad
        \text{stacked:}\ \hat y = w^\top \mathrm{MLP}(\mathrm{Cross}(x_0)) + b

    with :math:`x_0 = [e_1; \dots; e_F]`.

    Args:
        num_fields: F, number of fields, at least 1.
        embedding_dim: D, width of each embedding, at least 1.
        structure: ``"parallel"`` or ``"stacked"``.
        num_cross_layers: number of cross layers, at least 1.
        low_rank: rank of the cross layers' matrices (see :class:`~.layers.LowRankCrossNetwork`); ``None`` for
            full ``(F·D, F·D)`` matrices (see :class:`~.layers.CrossNetworkV2`).
        num_experts: number of low-rank experts per cross layer; above 1, a softmax gate mixes them
            (the paper's DCN-Mix), and ``low_rank`` must be given.
        hidden_units: width of each hidden layer of the deep network; empty for the cross network alone.
        dropout: probability of zeroing a hidden value during training, in [0, 1).
        batch_norm: whether to normalize each hidden layer before its activation.
        activation: one of ``relu, leaky_relu, gelu, silu, tanh, sigmoid``.

    Attributes:
        sums_over_pairs: False: no products of values are added up over all pairs of fields, as FM does
            (:meth:`~pme_lightning.optim.LazyAdagrad.set_sums_over_pairs`).

    Raises:
        ValueError: an argument is out of its range.

    Source: Wang et al., *DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning
    to Rank Systems*, WWW 2021, https://arxiv.org/abs/2008.13535.
    """

    sums_over_pairs: ClassVar[bool] = False

    def __init__(
        self,
        num_fields: int,
        embedding_dim: int,
        *,
        structure: Literal["parallel", "stacked"] = "parallel",
        num_cross_layers: int = 3,
        low_rank: int | None = None,
        num_experts: int = 1,
        hidden_units: Sequence[int] = (400, 400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        width = positive("num_fields", num_fields) * positive("embedding_dim", embedding_dim)
        one_of("structure", structure, ("parallel", "stacked"))
        if positive("num_experts", num_experts) > 1 and low_rank is None:
            raise ValueError(f"num_experts={num_experts} mixes low-rank experts: give low_rank too, or 1 expert")
        hidden_units = layer_widths("hidden_units", hidden_units)
        self.cross: CrossNetworkV2 | LowRankCrossNetwork
        if low_rank is None:
            self.cross = CrossNetworkV2(width, num_cross_layers)
        else:
            self.cross = LowRankCrossNetwork(width, num_cross_layers, low_rank, num_experts)
        self.mlp = MLP(width, hidden_units, dropout=dropout, batch_norm=batch_norm, activation=activation)
        # Without hidden layers, both structures are just the cross network.
        self.is_parallel = structure == "parallel" and len(hidden_units) > 0
        self.output = linear(self.mlp.output_width + (width if self.is_parallel else 0), 1)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Logits ``(B,)`` of the rows whose embeddings are ``(B, F, D)``."""
        x0 = embeddings.flatten(1)
        cross = self.cross(x0)
        if self.is_parallel:
            return _linear_of_both(cross, self.mlp(x0), self.output.weight, self.output.bias)
        return self.output(self.mlp(cross)).squeeze(1)


def _linear_of_both(left: Tensor, right: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The ``(B,)`` linear map of ``cat([left, right], dim=1)``, without the copy that concatenation makes."""
    width = left.shape[1]
    logits = F.linear(left, weight[:, :width], bias) + F.linear(right, weight[:, width:])
    return logits.squeeze(1)
