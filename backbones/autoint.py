"""AutoInt and AutoInt+."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from .arguments import positive
from .layers import MLP, InteractingLayer, linear


class AutoInt(nn.Module):
    r"""Layers of multi-head self-attention over the fields, followed by one linear layer on the flattened output.

    .. math:: \hat y = w^\top [e^{(L)}_1; \dots; e^{(L)}_F] + b

    Each layer maps every field's vector as described in :class:`~.layers.InteractingLayer`. As in the paper,
    there is no first-order term.

    Args:
        num_fields: F, number of fields, at least 1.
        embedding_dim: D, width of each embedding, at least 1.
        num_layers: number of interacting layers, at least 1.
        num_heads: attention heads of each layer; must divide ``attention_dim``.
        attention_dim: TOTAL width of a field's vector after a layer, all heads concatenated (64 with 2 heads
            is the paper's 32 per head).
        scale: whether to divide the attention scores by the square root of a head's width (the paper does not).
        attention_dropout: probability of zeroing an attention weight during training, in [0, 1).
        project_residual: whether the residual connection of every layer projects its input, as in the paper; if not,
            only layers that change the width project it (such as the first), and all others add the input itself.

    Attributes:
        sums_over_pairs: False: no products of values are added up over all pairs of fields, as FM does
            (:meth:`~pme_lightning.optim.LazyAdagrad.set_sums_over_pairs`).

    Raises:
        ValueError: an argument is out of its range.

    Source: Song et al., *AutoInt: Automatic Feature Interaction Learning via Self-Attentive Neural Networks*,
    CIKM 2019, https://arxiv.org/abs/1810.11921.
    """

    sums_over_pairs: ClassVar[bool] = False

    def __init__(
        self,
        num_fields: int,
        embedding_dim: int,
        *,
        num_layers: int = 3,
        num_heads: int = 2,
        attention_dim: int = 64,
        scale: bool = False,
        attention_dropout: float = 0.0,
        project_residual: bool = True,
    ) -> None:
        super().__init__()
        width = positive("embedding_dim", embedding_dim)
        layers = []
        for _ in range(positive("num_layers", num_layers)):
            layers.append(
                InteractingLayer(
                    width,
                    attention_dim,
                    num_heads,
                    scale=scale,
                    dropout=attention_dropout,
                    project_residual=project_residual,
                )
            )
            width = attention_dim
        self.layers = nn.Sequential(*layers)
        self.output = linear(positive("num_fields", num_fields) * attention_dim, 1)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Logits ``(B,)`` of the rows whose embeddings are ``(B, F, D)``."""
        return self.output(self.layers(embeddings).flatten(1)).squeeze(1)


class AutoIntPlus(nn.Module):
    r"""AutoInt and a deep network on the same embeddings; their logits are added.

    .. math:: \hat y = \mathrm{AutoInt}(e) + \mathrm{MLP}([e_1; \dots; e_F])

    Args:
        num_fields: F, number of fields, at least 1.
        embedding_dim: D, width of each embedding, at least 1.
        num_layers: number of interacting layers, at least 1.
        num_heads: attention heads of each layer; must divide ``attention_dim``.
        attention_dim: TOTAL width of a field's vector after a layer, all heads concatenated.
        scale: whether to divide the attention scores by the square root of a head's width (the paper does not).
        attention_dropout: probability of zeroing an attention weight during training, in [0, 1).
        project_residual: whether the residual connection of every layer projects its input; see :class:`AutoInt`.
        hidden_units: width of each hidden layer of the deep network.
        dropout: probability of zeroing a hidden value of the deep network during training, in [0, 1).
        batch_norm: whether to normalize each hidden layer of the deep network before its activation.
        activation: activation of the deep network, one of ``relu, leaky_relu, gelu, silu, tanh, sigmoid``.

    Attributes:
        sums_over_pairs: False: no products of values are added up over all pairs of fields, as FM does
            (:meth:`~pme_lightning.optim.LazyAdagrad.set_sums_over_pairs`).

    Raises:
        ValueError: an argument is out of its range.

    Source: Song et al., *AutoInt*, CIKM 2019, https://arxiv.org/abs/1810.11921 (there: AutoInt+).
    """

    sums_over_pairs: ClassVar[bool] = False

    def __init__(
        self,
        num_fields: int,
        embedding_dim: int,
        *,
        num_layers: int = 3,
        num_heads: int = 2,
        attention_dim: int = 64,
        scale: bool = False,
        attention_dropout: float = 0.0,
        project_residual: bool = True,
        hidden_units: Sequence[int] = (400, 400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.autoint = AutoInt(
            num_fields,
            embedding_dim,
            num_layers=num_layers,
            num_heads=num_heads,
            attention_dim=attention_dim,
            scale=scale,
            attention_dropout=attention_dropout,
            project_residual=project_residual,
        )
        self.mlp = MLP(
            num_fields * embedding_dim,
            hidden_units,
            output_dim=1,
            dropout=dropout,
            batch_norm=batch_norm,
            activation=activation,
        )

    def forward(self, embeddings: Tensor) -> Tensor:
        """Logits ``(B,)`` of the rows whose embeddings are ``(B, F, D)``."""
        return self.autoint(embeddings) + self.mlp(embeddings.flatten(1)).squeeze(1)
