"""The layers of the backbones.

Weight matrices have Xavier normal initialization (Glorot & Bengio, 2010), as in FuxiCTR; biases start at zero.

Shapes: ``B`` rows of a batch, ``F`` fields, ``D`` embedding dimension, ``N`` width of a flat input (``F·D``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .arguments import layer_widths, one_of, positive, probability

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


def linear(in_features: int, out_features: int, *, bias: bool = True) -> nn.Linear:
    """An ``nn.Linear`` with Xavier normal weights and a zero bias."""
    layer = nn.Linear(in_features, out_features, bias=bias)
    nn.init.xavier_normal_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def pairwise_interaction(embeddings: Tensor) -> Tensor:
    r"""Second-order term of a factorization machine: the sum of the inner products of all pairs of fields.

    .. math:: \sum_{i<j} \langle e_i, e_j \rangle = \tfrac12 \Big( \|\sum_i e_i\|^2 - \sum_i \|e_i\|^2 \Big)

    The right-hand side costs O(F·D) per row instead of O(F²·D).

    Args:
        embeddings: ``(B, F, D)``.

    Returns:
        ``(B,)``.

    Source: Rendle, *Factorization Machines*, ICDM 2010 (not on arXiv; https://doi.org/10.1109/ICDM.2010.127).
    """
    return _PairwiseInteraction.apply(embeddings)


class _PairwiseInteraction(torch.autograd.Function):
    """See :func:`pairwise_interaction`; autograd by itself would write three tensors as large as the embeddings."""

    @staticmethod
    def forward(ctx: Any, embeddings: Tensor) -> Tensor:
        ctx.save_for_backward(embeddings)
        square_of_sum = embeddings.sum(dim=1).square().sum(dim=1)
        sum_of_squares = torch.linalg.vector_norm(embeddings, dim=(1, 2)).square()
        return 0.5 * (square_of_sum - sum_of_squares)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        # The gradient of an embedding is the sum of the others: g · (Σ e - e). Computing Σ e again makes it
        # differentiable, too.
        (embeddings,) = ctx.saved_tensors
        scaled = grad[:, None, None] * embeddings.sum(dim=1, keepdim=True)
        return torch.addcmul(scaled, embeddings, grad[:, None, None], value=-1)


class MLP(nn.Sequential):
    """Fully connected network: ``(B, input_dim) -> (B, output width)``.

    Each hidden layer consists of a linear layer, batch normalization (if ``batch_norm``), activation and dropout (if
    above 0). If ``output_dim`` is given, a last linear layer without activation follows.

    Args:
        input_dim: width of the input.
        hidden_units: width of each hidden layer; may be empty.
        output_dim: width of the last linear layer; ``None`` to end with the last hidden layer.
        dropout: probability of zeroing a hidden value during training, in [0, 1).
        batch_norm: whether to normalize each hidden layer before its activation.
        activation: one of ``relu, leaky_relu, gelu, silu, tanh, sigmoid``.

    Attributes:
        output_width: width of the output.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_units: Sequence[int],
        *,
        output_dim: int | None = None,
        dropout: float = 0.0,
        batch_norm: bool = False,
        activation: str = "relu",
    ) -> None:
        dropout = probability("dropout", dropout)
        activation_class = ACTIVATIONS[one_of("activation", activation, ACTIVATIONS)]
        width = positive("input_dim", input_dim)
        layers: list[nn.Module] = []
        for units in layer_widths("hidden_units", hidden_units):
            # Batch normalization subtracts the mean, so a bias before it would have no effect.
            layers.append(linear(width, units, bias=not batch_norm))
            if batch_norm:
                layers.append(nn.BatchNorm1d(units))
            layers.append(activation_class())
            if dropout > 0.0:
                layers.append(nn.Dropout(dropout))
            width = units
        if output_dim is not None:
            layers.append(linear(width, positive("output_dim", output_dim)))
            width = output_dim
        super().__init__(*layers)
        self.output_width = width


class CrossNetwork(nn.Module):
    r"""Cross network with weight vectors (DCN): ``(B, N) -> (B, N)``.

    .. math:: x_{l+1} = x_0 \, (x_l^\top w_l) + b_l + x_l

    Every :math:`x_l` is :math:`\alpha_l x_0 + \beta_l` with one scalar :math:`\alpha_l` per row and a vector
    :math:`\beta_l = \sum_{k<l} b_k` shared by all rows, so that

    .. math:: \alpha_{l+1} = \alpha_l (1 + x_0^\top w_l) + \beta_l^\top w_l.

    All products with :math:`x_0` are one matrix product, and only the last layer writes an ``(B, N)`` tensor.

    Args:
        input_dim: N.
        num_layers: number of cross layers, at least 1.

    Raises:
        ValueError: an argument is below 1.

    Source: Wang et al., *Deep & Cross Network for Ad Click Predictions*, ADKDD 2017,
    https://arxiv.org/abs/1708.05123.
    """

    def __init__(self, input_dim: int, num_layers: int) -> None:
        super().__init__()
        shape = (positive("num_cross_layers", num_layers), positive("input_dim", input_dim))
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.zeros(shape))
        # Xavier normal, with each row taken as a map from N to 1.
        nn.init.normal_(self.weight, std=math.sqrt(2.0 / (input_dim + 1)))

    def forward(self, x0: Tensor) -> Tensor:
        products = F.linear(x0, self.weight)  # (B, L): x0ᵀ w_l
        sums = self.bias.cumsum(dim=0)  # row l: β_{l+1}
        shifts = ((sums - self.bias) * self.weight).sum(dim=1)  # (L,): β_lᵀ w_l
        alpha = 1.0 + products[:, 0]
        for layer in range(1, self.weight.shape[0]):
            alpha = alpha * (1.0 + products[:, layer]) + shifts[layer]
        # Not addcmul: its backward pass makes one more multiplication per factor, each in a tensor of the input's size.
        return (x0 * alpha.unsqueeze(1)).add_(sums[-1])


class CrossNetworkV2(nn.Module):
    r"""Cross network with full weight matrices (DCN-V2): ``(B, N) -> (B, N)``.

    .. math:: x_{l+1} = x_0 \odot (W_l x_l + b_l) + x_l

    Args:
        input_dim: N; each layer owns an ``(N, N)`` matrix.
        num_layers: number of cross layers, at least 1.

    Raises:
        ValueError: an argument is below 1.

    Source: Wang et al., *DCN V2*, WWW 2021, https://arxiv.org/abs/2008.13535.
    """

    def __init__(self, input_dim: int, num_layers: int) -> None:
        super().__init__()
        positive("input_dim", input_dim)
        layers = range(positive("num_cross_layers", num_layers))
        self.layers = nn.ModuleList(linear(input_dim, input_dim) for _ in layers)

    def forward(self, x0: Tensor) -> Tensor:
        x = x0
        for layer in self.layers:
            x = (x0 * layer(x)).add_(x)
        return x


class LowRankCrossNetwork(nn.Module):
    r"""Cross network with low-rank matrices, or a gated mixture of them (DCN-Mix): ``(B, N) -> (B, N)``.

    With one expert :math:`x_{l+1} = x_0 \odot (U_l V_l^\top x_l + b_l) + x_l`. With K experts

    .. math::
        x_{l+1} = x_0 \odot
            \Big( \sum_{i=1}^K G_i(x_l) \, U_l^i \tanh(C_l^i \tanh(V_l^{i\top} x_l)) + b_l \Big) + x_l

    where the gate :math:`G(x_l)` is a softmax over the experts of a linear map of :math:`x_l`.

    Args:
        input_dim: N.
        num_layers: number of cross layers, at least 1.
        rank: r, width of the subspace of each expert, at least 1; pays off when well below N / 2.
        num_experts: K, at least 1.

    Raises:
        ValueError: an argument is below 1.

    Source: Wang et al., *DCN V2*, WWW 2021, https://arxiv.org/abs/2008.13535.
    """

    def __init__(self, input_dim: int, num_layers: int, rank: int, num_experts: int = 1) -> None:
        super().__init__()
        positive("input_dim", input_dim)
        positive("low_rank", rank)
        positive("num_experts", num_experts)
        layers = range(positive("num_cross_layers", num_layers))
        self.layers = nn.ModuleList(_LowRankCross(input_dim, rank, num_experts) for _ in layers)

    def forward(self, x0: Tensor) -> Tensor:
        x = x0
        for layer in self.layers:
            x = (x0 * layer(x)).add_(x)
        return x


class _LowRankCross(nn.Module):
    """The bracketed term of one low-rank cross layer: ``(B, N) -> (B, N)``; each matrix holds all experts."""

    def __init__(self, input_dim: int, rank: int, num_experts: int) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.down = linear(input_dim, num_experts * rank, bias=False)  # all V_i, (K·r, N)
        self.up = linear(num_experts * rank, input_dim)  # all U_i, (N, K·r), and b
        for expert in range(num_experts):
            # Each expert is a separate matrix, so Xavier counts its r columns, not all K·r.
            ranks = slice(expert * rank, (expert + 1) * rank)
            nn.init.xavier_normal_(self.down.weight[ranks])
            nn.init.xavier_normal_(self.up.weight[:, ranks])
        if num_experts > 1:
            self.core = nn.Parameter(torch.empty(num_experts, rank, rank))  # all C_i
            self.gate = linear(input_dim, num_experts)
            for matrix in self.core:
                nn.init.xavier_normal_(matrix)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.down(x)  # (B, K·r)
        if self.num_experts > 1:
            experts = torch.tanh(hidden).unflatten(1, (self.num_experts, -1))  # (B, K, r)
            experts = torch.tanh(torch.einsum("bkr,ksr->bks", experts, self.core))
            gates = torch.softmax(self.gate(x), dim=1)  # (B, K)
            # The gates, being scalars, are applied before U: one product with all U_i then sums over the experts.
            hidden = (experts * gates.unsqueeze(2)).flatten(1)
        return self.up(hidden)


class InteractingLayer(nn.Module):
    r"""Multi-head self-attention over the fields of a row: ``(B, F, input_dim) -> (B, F, attention_dim)``.

    For field m and head h, with attention over all fields k (m included):

    .. math::
        \alpha^h_{m,k} = \mathrm{softmax}_k \langle W^h_Q e_m, W^h_K e_k \rangle, \quad
        e'_m = \mathrm{ReLU}\Big( \big\Vert_h \sum_k \alpha^h_{m,k} W^h_V e_k + W_{Res} e_m \Big)

    No projection has a bias.

    Args:
        input_dim: width of each field's vector.
        attention_dim: TOTAL width of the output; each head has ``attention_dim / num_heads`` of it.
        num_heads: number of heads; must divide ``attention_dim``.
        scale: whether to divide the scores by the square root of a head's width (the paper does not).
        dropout: probability of zeroing an attention weight during training, in [0, 1).
        project_residual: whether there is always a ``W_Res``, as in the paper; if not, ``e_m`` itself is added if
            ``input_dim`` equals ``attention_dim``.

    Raises:
        ValueError: an argument is out of its range.

    Source: Song et al., *AutoInt*, CIKM 2019, https://arxiv.org/abs/1810.11921.
    """

    def __init__(
        self,
        input_dim: int,
        attention_dim: int,
        num_heads: int,
        *,
        scale: bool = False,
        dropout: float = 0.0,
        project_residual: bool = True,
    ) -> None:
        super().__init__()
        positive("input_dim", input_dim)
        if positive("attention_dim", attention_dim) % positive("num_heads", num_heads):
            raise ValueError(f"num_heads must divide attention_dim ({attention_dim}), got {num_heads}")
        self.num_heads = num_heads
        self.score_scale = (attention_dim // num_heads) ** -0.5 if scale else 1.0
        self.dropout = probability("attention_dropout", dropout)
        # Four products rather than one fused product: attention then reads contiguous tensors, which is faster.
        self.query = linear(input_dim, attention_dim, bias=False)
        self.key = linear(input_dim, attention_dim, bias=False)
        self.value = linear(input_dim, attention_dim, bias=False)
        projects = project_residual or input_dim != attention_dim
        self.residual = linear(input_dim, attention_dim, bias=False) if projects else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        attended = F.scaled_dot_product_attention(
            self._heads(self.query(x)),
            self._heads(self.key(x)),
            self._heads(self.value(x)),
            dropout_p=self.dropout if self.training else 0.0,
            scale=self.score_scale,
        )
        return torch.relu(attended.transpose(1, 2).flatten(2) + self.residual(x))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (B, H, F, attention_dim / H)
