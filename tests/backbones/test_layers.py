"""Each layer against its formula, written out with loops, in double precision."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pme_lightning.backbones import (
    MLP,
    CrossNetwork,
    CrossNetworkV2,
    InteractingLayer,
    LowRankCrossNetwork,
    pairwise_interaction,
)

sizes = st.integers(1, 5)


def randomised(module: nn.Module) -> nn.Module:
    """In double precision, every parameter drawn anew, so that biases count too."""
    torch.manual_seed(1)
    module.double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def inputs(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def dot(left: Tensor, right: Tensor) -> float:
    return sum(a * b for a, b in zip(left.tolist(), right.tolist(), strict=True))


def times(matrix: Tensor, vector: Tensor) -> Tensor:
    return torch.tensor([dot(row, vector) for row in matrix], dtype=torch.float64)


@settings(deadline=None, max_examples=30)
@given(batch=sizes, fields=sizes, dim=sizes)
def test_pairwise_interaction_is_the_sum_over_pairs(batch: int, fields: int, dim: int) -> None:
    embeddings = inputs(batch, fields, dim)
    expected = [sum(dot(a, b) for a, b in itertools.combinations(row, 2)) for row in embeddings]
    torch.testing.assert_close(
        pairwise_interaction(embeddings), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12
    )


@settings(deadline=None, max_examples=30)
@given(batch=sizes, width=sizes, num_layers=sizes)
def test_cross_network_follows_its_formula(batch: int, width: int, num_layers: int) -> None:
    cross = randomised(CrossNetwork(width, num_layers))
    x0 = inputs(batch, width)
    for row, result in zip(x0, cross(x0), strict=True):
        x = row
        for w, b in zip(cross.weight.detach(), cross.bias.detach(), strict=True):
            x = row * dot(x, w) + b + x
        torch.testing.assert_close(result, x)


@settings(deadline=None, max_examples=30)
@given(batch=sizes, width=sizes, num_layers=sizes)
def test_cross_network_v2_follows_its_formula(batch: int, width: int, num_layers: int) -> None:
    cross = randomised(CrossNetworkV2(width, num_layers))
    x0 = inputs(batch, width)
    for row, result in zip(x0, cross(x0), strict=True):
        x = row
        for layer in cross.layers:
            x = row * (times(layer.weight.detach(), x) + layer.bias.detach()) + x
        torch.testing.assert_close(result, x)


@settings(deadline=None, max_examples=30)
@given(batch=sizes, width=sizes, num_layers=st.integers(1, 3), rank=st.integers(1, 3))
def test_low_rank_cross_network_of_one_expert(batch: int, width: int, num_layers: int, rank: int) -> None:
    cross = randomised(LowRankCrossNetwork(width, num_layers, rank))
    x0 = inputs(batch, width)
    for row, result in zip(x0, cross(x0), strict=True):
        x = row
        for layer in cross.layers:
            u, v_transposed, b = layer.up.weight.detach(), layer.down.weight.detach(), layer.up.bias.detach()
            x = row * (times(u, times(v_transposed, x)) + b) + x
        torch.testing.assert_close(result, x)


@settings(deadline=None, max_examples=30)
@given(batch=sizes, width=sizes, rank=st.integers(1, 3), num_experts=st.integers(2, 4))
def test_low_rank_cross_network_of_gated_experts(batch: int, width: int, rank: int, num_experts: int) -> None:
    cross = randomised(LowRankCrossNetwork(width, 2, rank, num_experts))
    x0 = inputs(batch, width)
    for row, result in zip(x0, cross(x0), strict=True):
        x = row
        for layer in cross.layers:
            scores = [math.exp(dot(w, x) + b) for w, b in zip(layer.gate.weight, layer.gate.bias.tolist(), strict=True)]
            mixture = torch.zeros_like(x)
            for i in range(num_experts):
                own = range(i * rank, (i + 1) * rank)
                v_transposed, u = layer.down.weight.detach()[own], layer.up.weight.detach()[:, own]
                inner = torch.tanh(times(layer.core.detach()[i], torch.tanh(times(v_transposed, x))))
                expert = row * (times(u, inner) + layer.up.bias.detach())
                mixture = mixture + scores[i] / sum(scores) * expert
            x = mixture + x
        torch.testing.assert_close(result, x)


@settings(deadline=None, max_examples=30)
@given(
    batch=st.integers(1, 3),
    fields=st.integers(1, 4),
    dim=st.integers(1, 4),
    heads=st.integers(1, 3),
    head_dim=st.integers(1, 3),
    scale=st.booleans(),
    project_residual=st.booleans(),
)
def test_interacting_layer_is_attention_written_out(
    batch: int, fields: int, dim: int, heads: int, head_dim: int, scale: bool, project_residual: bool
) -> None:
    width = heads * head_dim
    layer = randomised(InteractingLayer(dim, width, heads, scale=scale, project_residual=project_residual))
    projects = isinstance(layer.residual, nn.Linear)
    assert projects == (project_residual or dim != width)
    x = inputs(batch, fields, dim)
    results = layer(x)
    assert results.shape == (batch, fields, heads * head_dim)
    divisor = math.sqrt(head_dim) if scale else 1.0
    for row, result in zip(x, results, strict=True):
        for m in range(fields):
            heads_of_m: list[float] = []
            for h in range(heads):
                own = range(h * head_dim, (h + 1) * head_dim)
                query = times(layer.query.weight.detach()[own], row[m])
                keys = [times(layer.key.weight.detach()[own], e) for e in row]
                values = [times(layer.value.weight.detach()[own], e) for e in row]
                scores = [math.exp(dot(query, key) / divisor) for key in keys]
                attended = sum(s / sum(scores) * v for s, v in zip(scores, values, strict=True))
                heads_of_m.extend(attended.tolist())
            residual = (times(layer.residual.weight.detach(), row[m]) if projects else row[m]).tolist()
            expected = [max(0.0, a + r) for a, r in zip(heads_of_m, residual, strict=True)]
            torch.testing.assert_close(result[m], torch.tensor(expected, dtype=torch.float64))


@settings(deadline=None, max_examples=30)
@given(batch=sizes, width=sizes, hidden=st.lists(st.integers(1, 4), max_size=3), output=st.booleans())
def test_mlp_is_affine_maps_with_relu_between(batch: int, width: int, hidden: list[int], output: bool) -> None:
    mlp = randomised(MLP(width, hidden, output_dim=2 if output else None))
    x = inputs(batch, width)
    affine = [module for module in mlp if isinstance(module, nn.Linear)]
    for row, result in zip(x, mlp(x), strict=True):
        for position, layer in enumerate(affine):
            row = times(layer.weight.detach(), row) + layer.bias.detach()
            if position < len(hidden):
                row = row.clamp(min=0.0)
        torch.testing.assert_close(result, row)
        assert len(row) == mlp.output_width


def test_mlp_normalises_before_the_activation() -> None:
    mlp = MLP(3, [4], batch_norm=True, activation="tanh").double()
    x = inputs(6, 3)
    hidden = x @ mlp[0].weight.detach().T
    normalised = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(mlp(x), torch.tanh(normalised))


def test_mlp_dropout_acts_in_training_only() -> None:
    torch.manual_seed(3)
    mlp = MLP(8, [64], dropout=0.5, activation="sigmoid")
    x = torch.randn(4, 8)
    dropped = mlp(x)
    kept = mlp.eval()(x)
    zeros = dropped == 0
    assert 0.3 < zeros.float().mean() < 0.7
    assert (kept != 0).all()
    torch.testing.assert_close(dropped[~zeros], 2.0 * kept[~zeros])


def test_attention_dropout_acts_in_training_only() -> None:
    torch.manual_seed(3)
    layer = InteractingLayer(4, 4, 2, dropout=0.5)
    x = torch.randn(8, 5, 4)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


@pytest.mark.parametrize(
    "layer",
    [CrossNetwork(4, 3), CrossNetworkV2(4, 2), LowRankCrossNetwork(4, 2, 2), LowRankCrossNetwork(4, 2, 2, 2)],
    ids=["v1", "v2", "low rank", "mixture"],
)
def test_gradients_of_cross_networks(layer: nn.Module) -> None:
    randomised(layer)
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (inputs(2, 4).requires_grad_(), *layer.parameters()))


def test_gradients_of_interacting_layer_and_pairs() -> None:
    layer = randomised(InteractingLayer(2, 4, 2))
    x = inputs(2, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, *layer.parameters()))
    assert torch.autograd.gradcheck(pairwise_interaction, x)
    assert torch.autograd.gradgradcheck(pairwise_interaction, x)


def test_weights_start_xavier_normal_and_biases_zero() -> None:
    torch.manual_seed(4)
    n, rank, experts = 400, 50, 4

    def spread(weight: Tensor, fan_in: int, fan_out: int) -> float:
        return weight.std().item() / math.sqrt(2.0 / (fan_in + fan_out))

    low_rank = LowRankCrossNetwork(n, 1, rank, experts).layers[0]
    attention = InteractingLayer(n, 200, 2)
    mlp = MLP(n, [300], output_dim=1)
    cross, cross_v2 = CrossNetwork(n, 20), CrossNetworkV2(n, 1)
    spreads = [
        spread(cross.weight, n, 1),
        spread(cross_v2.layers[0].weight, n, n),
        spread(low_rank.down.weight, n, rank),
        spread(low_rank.up.weight, rank, n),
        spread(low_rank.core, rank, rank),
        spread(attention.query.weight, n, 200),
        spread(mlp[0].weight, n, 300),
    ]
    assert spreads == pytest.approx([1.0] * len(spreads), abs=0.05)
    modules = nn.ModuleList([cross, cross_v2, low_rank, attention, mlp])
    biases = [value for name, value in modules.named_parameters() if name.endswith("bias")]
    assert len(biases) == 6
    assert all((bias == 0).all() for bias in biases)
