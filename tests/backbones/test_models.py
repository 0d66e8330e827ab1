"""What every backbone owes the framework, and each model put together from its parts."""

from __future__ import annotations

import inspect
import itertools
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pme_lightning.backbones import DCN, FM, AutoInt, AutoIntPlus, DCNv2, DeepFM

NET: dict[str, Any] = {"hidden_units": (7, 5)}
ATTENTION: dict[str, Any] = {"num_layers": 2, "num_heads": 2, "attention_dim": 6}

CASES: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "fm": (FM, {}),
    "deepfm": (DeepFM, NET),
    "dcn": (DCN, NET),
    "dcn, cross only": (DCN, {"hidden_units": ()}),
    "dcnv2 parallel": (DCNv2, NET),
    "dcnv2 stacked": (DCNv2, {**NET, "structure": "stacked"}),
    "dcnv2 cross only": (DCNv2, {"hidden_units": ()}),
    "dcnv2 low rank": (DCNv2, {**NET, "low_rank": 3}),
    "dcnv2 mixture": (DCNv2, {**NET, "structure": "stacked", "low_rank": 3, "num_experts": 2}),
    "autoint": (AutoInt, ATTENTION),
    "autoint scaled": (AutoInt, {**ATTENTION, "scale": True}),
    "autoint_plus": (AutoIntPlus, {**ATTENTION, **NET}),
}
every_case = pytest.mark.parametrize("case", CASES)
every_model = pytest.mark.parametrize("model", [FM, DeepFM, DCN, DCNv2, AutoInt, AutoIntPlus])


def build(case: str, num_fields: int = 4, embedding_dim: int = 3, **changes: Any) -> nn.Module:
    torch.manual_seed(0)
    model, arguments = CASES[case]
    return model(num_fields, embedding_dim, **{**arguments, **changes})


def batch(model: nn.Module, rows: int = 16, num_fields: int = 4, embedding_dim: int = 3) -> list[Tensor]:
    """Random inputs of the model: embeddings, and first-order weights if it takes them."""
    torch.manual_seed(1)
    tensors = [torch.randn(rows, num_fields, embedding_dim)]
    if "linear" in inspect.signature(model.forward).parameters:
        tensors.append(torch.randn(rows, num_fields))
    return tensors


def randomise_biases(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)


@every_case
@pytest.mark.parametrize(("rows", "num_fields"), [(16, 4), (1, 4), (5, 1), (1, 1)])
def test_one_finite_logit_a_row(case: str, rows: int, num_fields: int) -> None:
    model = build(case, num_fields)
    logits = model(*batch(model, rows, num_fields))
    assert logits.shape == (rows,)
    assert logits.isfinite().all()


@every_case
def test_rows_do_not_see_each_other(case: str) -> None:
    model = build(case)
    inputs = batch(model)
    alone = torch.cat([model(*(x[row : row + 1] for x in inputs)) for row in range(16)])
    torch.testing.assert_close(model(*inputs), alone)


@every_case
def test_gradient_reaches_every_input_and_parameter(case: str) -> None:
    model = build(case)
    randomise_biases(model)
    inputs = [x.requires_grad_() for x in batch(model, rows=64)]
    model(*inputs).square().sum().backward()
    for x in inputs:
        reached = x.grad.reshape(64, 4, -1).any(dim=2)
        # Not all: a row whose hidden units are all off at a ReLU rightly gets none.
        assert (reached.float().mean(dim=0) > 0.8).all(), "a field got no gradient"
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@every_case
def test_gradients_are_those_of_finite_differences(case: str) -> None:
    model = build(case, num_fields=3, embedding_dim=2).double()
    randomise_biases(model)
    inputs = [x.double().requires_grad_() for x in batch(model, 2, 3, 2)]
    assert torch.autograd.gradcheck(model, inputs)


@every_case
def test_state_dict_round_trip(case: str) -> None:
    model, other = build(case), build(case)
    for parameter in other.parameters():
        nn.init.constant_(parameter, 0.5)
    inputs = batch(model)
    assert not torch.equal(model(*inputs), other(*inputs))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(*inputs), other(*inputs))


@every_case
def test_bfloat16_autocast_is_close(case: str) -> None:
    model = build(case)
    inputs = batch(model)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(*inputs)
    logits.float().sum().backward()
    expected = model(*inputs)
    torch.testing.assert_close(logits.float(), expected, rtol=0.05, atol=0.05 * expected.abs().max().item())


@every_case
def test_compiles_without_a_graph_break(case: str) -> None:
    model = build(case)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*batch(model)), model(*batch(model)))


@every_model
def test_contract_of_the_signatures(model: type[nn.Module]) -> None:
    arguments = list(inspect.signature(model).parameters.values())
    assert [argument.name for argument in arguments[:2]] == ["num_fields", "embedding_dim"]
    for argument in arguments[2:]:
        assert argument.kind is inspect.Parameter.KEYWORD_ONLY
        assert isinstance(argument.default, str | int | float | bool | tuple | None)
        json.dumps(argument.default)
    inputs = list(inspect.signature(model.forward).parameters)[1:]
    assert inputs == (["embeddings", "linear"] if model in (FM, DeepFM) else ["embeddings"])


@pytest.mark.parametrize("case", ["deepfm", "dcn", "dcnv2 stacked", "autoint_plus"])
def test_network_arguments_reach_the_network(case: str) -> None:
    kinds = [type(m) for m in build(case, dropout=0.3, batch_norm=True, activation="silu").modules()]
    assert [kinds.count(kind) for kind in (nn.Dropout, nn.BatchNorm1d, nn.SiLU, nn.ReLU)] == [2, 2, 2, 0]


def test_fm_is_bias_plus_weights_plus_pairs() -> None:
    model = build("fm")
    randomise_biases(model)
    embeddings, linear = batch(model)
    expected = [
        model.bias.item() + w.sum().item() + sum((a @ b).item() for a, b in itertools.combinations(e, 2))
        for e, w in zip(embeddings, linear, strict=True)
    ]
    torch.testing.assert_close(model(embeddings, linear), torch.tensor(expected))


def test_deepfm_adds_the_network_to_the_fm() -> None:
    model = build("deepfm")
    randomise_biases(model)
    embeddings, linear = batch(model)
    expected = FM(4, 3)(embeddings, linear) + model.mlp(embeddings.reshape(16, 12)).reshape(16)
    torch.testing.assert_close(model(embeddings, linear), expected)


@pytest.mark.parametrize("case", ["dcn", "dcnv2 parallel", "dcnv2 low rank"])
def test_parallel_networks_are_concatenated(case: str) -> None:
    model = build(case)
    randomise_biases(model)
    (embeddings,) = batch(model)
    x0 = embeddings.reshape(16, 12)
    both = torch.cat([model.cross(x0), model.mlp(x0)], dim=1)
    torch.testing.assert_close(model(embeddings), model.output(both).reshape(16))


@pytest.mark.parametrize("case", ["dcnv2 stacked", "dcnv2 mixture"])
def test_stacked_network_reads_the_cross_network(case: str) -> None:
    model = build(case)
    randomise_biases(model)
    (embeddings,) = batch(model)
    expected = model.output(model.mlp(model.cross(embeddings.reshape(16, 12)))).reshape(16)
    torch.testing.assert_close(model(embeddings), expected)


@pytest.mark.parametrize("model", [DCN(4, 3, hidden_units=()), DCNv2(4, 3, hidden_units=())])
def test_cross_network_alone(model: nn.Module) -> None:
    (embeddings,) = batch(model)
    expected = model.output(model.cross(embeddings.reshape(16, 12))).reshape(16)
    torch.testing.assert_close(model(embeddings), expected)
    assert model.output.in_features == 12


def test_autoint_plus_adds_the_network_to_autoint() -> None:
    model = build("autoint_plus")
    randomise_biases(model)
    (embeddings,) = batch(model)
    attention = model.autoint
    last = attention.layers[1](attention.layers[0](embeddings))
    expected = attention.output(last.reshape(16, 24)) + model.mlp(embeddings.reshape(16, 12))
    torch.testing.assert_close(model(embeddings), expected.reshape(16))


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (FM, {"num_fields": 0}, "num_fields must be an integer of at least 1, got 0"),
        (FM, {"embedding_dim": -1}, "embedding_dim must be an integer of at least 1, got -1"),
        (DeepFM, {"embedding_dim": 1.5}, "embedding_dim must be an integer"),
        (DeepFM, {"num_fields": True}, "num_fields must be an integer"),
        (DeepFM, {"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
        (DeepFM, {"dropout": -0.1}, "dropout must be"),
        (DeepFM, {"dropout": float("nan")}, "dropout must be"),
        (DeepFM, {"dropout": "0.1"}, "dropout must be"),
        (DeepFM, {"hidden_units": (400, 0)}, "hidden_units must be a list of integers of at least 1"),
        (DeepFM, {"hidden_units": 400}, "hidden_units must be a list"),
        (DeepFM, {"hidden_units": "400"}, "hidden_units must be a list"),
        (DeepFM, {"activation": "rleu"}, "activation must be one of relu, .* got 'rleu'"),
        (DCN, {"num_cross_layers": 0}, "num_cross_layers must be"),
        (DCN, {"num_fields": 0}, "num_fields must be"),
        (DCN, {"hidden_units": (-1,)}, "hidden_units must be"),
        (DCNv2, {"num_cross_layers": 0}, "num_cross_layers must be"),
        (DCNv2, {"num_cross_layers": 0, "low_rank": 2}, "num_cross_layers must be"),
        (DCNv2, {"structure": "serial"}, "structure must be one of parallel, stacked, got 'serial'"),
        (DCNv2, {"low_rank": 0}, "low_rank must be"),
        (DCNv2, {"low_rank": 2, "num_experts": 0}, "num_experts must be"),
        (DCNv2, {"num_experts": 2}, "num_experts=2 .* low_rank"),
        (AutoInt, {"num_layers": 0}, "num_layers must be"),
        (AutoInt, {"num_heads": 3}, "num_heads must divide attention_dim .64., got 3"),
        (AutoInt, {"num_heads": 0}, "num_heads must be"),
        (AutoInt, {"attention_dim": 0}, "attention_dim must be"),
        (AutoInt, {"attention_dropout": 1.5}, "attention_dropout must be"),
        (AutoInt, {"num_fields": 0}, "num_fields must be"),
        (AutoIntPlus, {"dropout": 2}, "^dropout must be"),
        (AutoIntPlus, {"hidden_units": [0]}, "hidden_units must be"),
        (AutoIntPlus, {"num_heads": 7}, "num_heads must divide"),
    ],
)
def test_bad_arguments_are_named(model: type[nn.Module], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        model(**{"num_fields": 4, "embedding_dim": 3, **arguments})
    assert "\n" not in str(error.value)
