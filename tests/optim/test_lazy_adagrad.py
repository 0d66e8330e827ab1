"""LazyAdagrad against torch's Adagrad, and its decay against hand-computed values."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pme_lightning.errors import BadInput
from pme_lightning.optim import LazyAdagrad, clip_gradients, prior_variance
from pme_lightning.optim.decay import decay
from pme_lightning.optim.sparse_gradients import coalesced

V = 9


def sparse_of(dense: Tensor) -> Tensor:
    rows = dense.abs().reshape(len(dense), -1).sum(1).nonzero()[:, 0]
    return torch.sparse_coo_tensor(rows[None], dense[rows], dense.shape)


def gradients(seed: int, shape: tuple[int, ...], steps: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(steps):
        grad = torch.randn(shape, generator=generator)
        grad[torch.rand(len(grad), generator=generator) < 0.5] = 0
        found.append(grad)
    return found


def train(optimizer: type, parameter: nn.Parameter, grads: list[Tensor], **options: Any) -> Tensor:
    stepped = optimizer([parameter], **options)
    for grad in grads:
        parameter.grad = grad.clone()
        stepped.step()
    return parameter.detach()


@given(seed=st.integers(0, 10_000), steps=st.integers(1, 6), width=st.sampled_from([None, 1, 3]))
def test_without_decay_it_is_adagrad_for_dense_and_sparse_gradients(seed: int, steps: int, width: int | None) -> None:
    shape = (V,) if width is None else (V, width)
    start = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    grads = gradients(seed, shape, steps)
    options = {"lr": 0.3, "initial_accumulator_value": 0.01}
    expected = train(torch.optim.Adagrad, nn.Parameter(start.clone()), grads, **options)
    dense = train(LazyAdagrad, nn.Parameter(start.clone()), grads, **options)
    sparse = train(LazyAdagrad, nn.Parameter(start.clone()), [sparse_of(grad) for grad in grads], **options)
    assert torch.allclose(dense, expected, atol=1e-6)
    assert torch.allclose(sparse, expected, atol=1e-6)


def test_a_value_that_never_had_a_gradient_stays_with_nothing_to_divide_by() -> None:
    start = torch.tensor([[1.0], [2.0]])
    grad = torch.tensor([[0.0], [1.0]])
    found = train(LazyAdagrad, nn.Parameter(start.clone()), [grad], lr=0.5, eps=0.0)
    assert found.tolist() == [[1.0], [1.5]]


def test_gradients_of_several_batches_are_added_up() -> None:
    parameter = nn.Parameter(torch.zeros(3, 1))
    parameter.grad = torch.sparse_coo_tensor([[0, 2, 0]], [[1.0], [1.0], [2.0]], (3, 1))
    LazyAdagrad([parameter], lr=1.0).step()
    assert parameter.tolist() == [[-1.0], [0.0], [-1.0]]


def test_decay_comes_every_interval_for_as_many_steps_and_reaches_rows_without_gradients() -> None:
    parameter = nn.Parameter(torch.tensor([[1.0], [1.0]]))
    optimizer = LazyAdagrad([parameter], lr=0.1, initial_accumulator_value=4.0, weight_decay=0.5, decay_interval=3)
    for step in range(1, 7):
        parameter.grad = sparse_of(torch.tensor([[0.0], [0.0]]))
        optimizer.step()
        # sqrt(4) = 2: each step is worth a factor of 1 - 0.1 * 0.5 / 2.
        assert parameter[1].item() == pytest.approx(0.975 ** (step // 3 * 3))


def test_decay_comes_once_in_an_epoch_or_more_often() -> None:
    one, two = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = LazyAdagrad([{"params": [one]}, {"params": [two], "decay_interval": 4}], decay_interval=64)
    optimizer.set_epoch_steps(16)
    assert [group["decay_interval"] for group in optimizer.param_groups] == [16, 4]
    optimizer.set_epoch_steps(100)
    assert [group["decay_interval"] for group in optimizer.param_groups] == [16, 4]


def test_decay_that_is_not_said_goes_by_the_rows_there_are() -> None:
    one, two = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = LazyAdagrad([{"params": [one]}, {"params": [two], "weight_decay": 0.5}], weight_decay=None)
    one.grad = torch.zeros(2)
    with pytest.raises(BadInput, match=r"weight_decay is None, which goes by the training rows, .* give it a number"):
        optimizer.step()
    with pytest.raises(BadInput, match="there are 0 rows to train on"):
        optimizer.set_training_rows(0)
    optimizer.set_training_rows(800)
    optimizer.set_training_rows(5)  # what is settled stays, as does what an interrupted training had
    assert [group["weight_decay"] for group in optimizer.param_groups] == [16 / 800, 0.5]
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    assert optimizer.param_groups[-1]["weight_decay"] == 16 / 800
    optimizer.step()


@pytest.mark.parametrize(("fields", "decay"), [(1, 0.02), (7, 0.02), (14, 0.04), (70, 0.2)])
def test_decay_that_is_not_said_goes_by_the_number_of_fields(fields: int, decay: float) -> None:
    optimizer = LazyAdagrad([nn.Parameter(torch.ones(2))], weight_decay=None)
    optimizer.set_fields(fields)
    optimizer.set_training_rows(800)
    assert optimizer.param_groups[0]["weight_decay"] == pytest.approx(decay)
    assert prior_variance(fields) == pytest.approx(1 / (800 * decay))


@pytest.mark.parametrize(("fields", "start"), [(None, 1.0), (3, 1.0), (7, 1.0), (28, 1 / 16), (63, 1 / 81)])
def test_the_rate_is_lower_and_rises_where_there_are_many_fields(fields: int | None, start: float) -> None:
    parameters = [nn.Parameter(torch.zeros(1, 1)) for _ in range(2)]
    optimizer = LazyAdagrad(parameters, lr=0.5, warmup_steps=4)
    if fields is not None:
        optimizer.set_fields(fields)
    for done in range(6):
        before = [parameter.item() for parameter in parameters]
        for parameter in parameters:
            parameter.grad = torch.ones(1, 1)
        optimizer.step()
        # The sum of squares is the number of steps.
        step = 0.5 * start**0.25 * (start + (1 - start) * min(done, 4) / 4) / (done + 1) ** 0.5
        assert [was - parameter.item() for was, parameter in zip(before, parameters, strict=True)] == pytest.approx(
            [step, step]
        )


@pytest.mark.parametrize("fields", [8, 14])
def test_of_some_more_fields_the_rate_is_lower_and_does_not_rise(fields: int) -> None:
    parameter = nn.Parameter(torch.zeros(1, 1))
    optimizer = LazyAdagrad([parameter], lr=0.5)
    optimizer.set_fields(fields)
    parameter.grad = torch.ones(1, 1)
    optimizer.step()
    assert -parameter.item() == pytest.approx(0.5 * (7 / fields) ** 0.5)


def test_without_a_sum_over_pairs_the_rate_does_not_rise() -> None:
    parameter = nn.Parameter(torch.zeros(1, 1))
    optimizer = LazyAdagrad([parameter], lr=0.5)
    optimizer.set_sums_over_pairs(False)
    optimizer.set_fields(28)
    optimizer = copy.deepcopy(optimizer)
    (parameter,) = optimizer.param_groups[0]["params"]
    parameter.grad = torch.ones(1, 1)
    optimizer.step()
    assert -parameter.item() == pytest.approx(0.25)


def test_decay_rises_with_the_rate() -> None:
    parameter = nn.Parameter(torch.full((1, 1), 8.0))
    optimizer = LazyAdagrad(
        [parameter], lr=1.0, initial_accumulator_value=1.0, weight_decay=0.5, decay_interval=1, warmup_steps=2
    )
    optimizer.set_fields(28)  # half the rate, of which it starts at a sixteenth
    for left in (8.0 * (1 - 1 / 64), 7.875 * (1 - 17 / 128), 6.8291015625 * (1 - 0.25)):
        parameter.grad = torch.zeros(1, 1)
        optimizer.step()
        assert parameter.item() == pytest.approx(left)


def test_the_rise_goes_on_where_it_was() -> None:
    grads = gradients(5, (V, 2), 6)
    whole = nn.Parameter(torch.ones(V, 2))
    optimizer = LazyAdagrad([whole], warmup_steps=5)
    optimizer.set_fields(20)
    for number, grad in enumerate(grads):
        if number == 3:
            part, state = nn.Parameter(whole.detach().clone()), copy.deepcopy(optimizer.state_dict())
        whole.grad = grad.clone()
        optimizer.step()
    again = LazyAdagrad([part], warmup_steps=5)
    again.set_fields(20)
    again.load_state_dict(state)
    again = copy.deepcopy(again)
    (part,) = again.param_groups[0]["params"]
    for grad in grads[3:]:
        part.grad = grad.clone()
        again.step()
    assert torch.equal(part, whole)


def test_the_state_of_a_version_that_knew_no_rise() -> None:
    parameter = nn.Parameter(torch.ones(2, 2))
    optimizer = LazyAdagrad([parameter])
    parameter.grad = torch.ones(2, 2)
    optimizer.step()
    state = optimizer.state_dict()
    del state["param_groups"][0]["warmup_steps"]
    optimizer.load_state_dict(state)
    optimizer.set_fields(100)
    before = parameter.detach().clone()
    optimizer.step()
    assert (before - parameter).flatten().tolist() == pytest.approx([0.01 * 0.07**0.5 / 2**0.5] * 4, rel=1e-5)


def test_rates_and_priors_may_be_left_as_they_are_set() -> None:
    parameter = nn.Parameter(torch.zeros(1, 1))
    optimizer = copy.deepcopy(LazyAdagrad([parameter], lr=0.5, weight_decay=None, scale_by_fields=False))
    (parameter,) = optimizer.param_groups[0]["params"]
    optimizer.set_fields(100)
    optimizer.set_training_rows(800)
    assert optimizer.param_groups[0]["weight_decay"] == 16 / 800
    parameter.grad = torch.ones(1, 1)
    optimizer.step()
    assert parameter.item() == pytest.approx(-0.5)


@pytest.mark.parametrize("steps", [-1, 2.5])
def test_a_rise_takes_whole_steps(steps: float) -> None:
    with pytest.raises(BadInput, match=f"LazyAdagrad: warmup_steps is {steps}; it must be"):
        LazyAdagrad([nn.Parameter(torch.ones(1))], warmup_steps=steps)  # type: ignore[arg-type]


def test_decay_stops_at_zero() -> None:
    parameter = nn.Parameter(torch.tensor([[1.0]]))
    optimizer = LazyAdagrad([parameter], lr=1.0, initial_accumulator_value=1.0, weight_decay=3.0, decay_interval=1)
    parameter.grad = sparse_of(torch.zeros(1, 1))
    optimizer.step()
    assert parameter.item() == 0.0


def test_decay_in_arrears_is_close_to_that_of_every_step_where_the_sums_have_settled() -> None:
    grads = gradients(3, (V, 2), 128)
    start = 10 + torch.randn(V, 2, generator=torch.Generator().manual_seed(0))
    found = {
        interval: train(
            LazyAdagrad, nn.Parameter(start.clone()), grads,
            lr=2.0, initial_accumulator_value=400.0, weight_decay=1e-2, decay_interval=interval,
        )
        for interval in (1, 64)
    }  # fmt: skip
    undecayed = train(LazyAdagrad, nn.Parameter(start.clone()), grads, lr=2.0, initial_accumulator_value=400.0)
    assert (found[64] - found[1]).abs().max() < 0.1 * (undecayed - found[1]).abs().min()


def test_a_loaded_state_goes_on_as_if_nothing_had_happened() -> None:
    grads = gradients(5, (V, 2), 10)
    options = {"lr": 0.1, "weight_decay": 1e-2, "decay_interval": 4}
    start = torch.randn(V, 2, generator=torch.Generator().manual_seed(0))
    whole = train(LazyAdagrad, nn.Parameter(start.clone()), grads, **options)
    first = nn.Parameter(start.clone())
    optimizer = LazyAdagrad([first], **options)
    for grad in grads[:5]:
        first.grad = grad
        optimizer.step()
    second = nn.Parameter(first.detach().clone())
    again = LazyAdagrad([second], **options)
    again.load_state_dict(optimizer.state_dict())
    for grad in grads[5:]:
        second.grad = grad
        again.step()
    assert torch.equal(second, whole)


@given(interval=st.integers(1, 200), n=st.integers(0, 40), strength=st.floats(0.0, 0.5))
def test_decay_is_a_power_of_that_of_one_step(interval: int, n: int, strength: float) -> None:
    generator = torch.Generator().manual_seed(interval)
    values, sums = (torch.rand(n, 2, dtype=torch.float64, generator=generator) for _ in range(2))
    expected = values * (1 - strength / (sums.sqrt() + 1e-3)).clamp(min=0) ** interval
    decay(values, sums, {"lr": 1.0, "weight_decay": strength, "decay_interval": interval, "eps": 1e-3})
    assert torch.allclose(values, expected)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"lr": -1.0}, "lr is -1.0; it must be 0 or more"),
        ({"decay_interval": 0}, "decay_interval is 0; it must be 1 or more"),
        ({"decay_interval": 2.5}, "decay_interval is 2.5; it must be a whole number of steps"),
        ({"weight_decay": float("nan")}, "weight_decay is nan"),
    ],
)
def test_arguments_out_of_range_are_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        LazyAdagrad([nn.Parameter(torch.zeros(1))], **options)


def test_rising_rows_are_taken_as_they_are_and_others_added_up() -> None:
    rising = torch.sparse_coo_tensor([[1, 4]], [1.0, 2.0], (V,))
    assert coalesced(rising).is_coalesced()
    twice = torch.sparse_coo_tensor([[4, 1, 4]], [1.0, 2.0, 3.0], (V,))
    assert torch.equal(coalesced(twice).to_dense(), twice.to_dense())
    assert coalesced(twice)._nnz() == 2


@pytest.mark.parametrize("algorithm", ["norm", "value"])
@given(seed=st.integers(0, 10_000), limit=st.floats(0.01, 10))
def test_clipping_is_that_of_dense_gradients(algorithm: str, seed: int, limit: float) -> None:
    grads = [gradients(seed, (V, 2), 1)[0], torch.randn(4, generator=torch.Generator().manual_seed(seed))]
    dense = [nn.Parameter(torch.zeros_like(grad)) for grad in grads]
    ours = [nn.Parameter(torch.zeros_like(grad)) for grad in grads]
    for parameter, grad in zip(dense, grads, strict=True):
        parameter.grad = grad.clone()
    # In two halves, as two batches leave it: they must be added up before the norm is taken.
    half = sparse_of(grads[0] / 2)
    ours[0].grad, ours[1].grad = half + half, grads[1].clone()
    ours.append(nn.Parameter(torch.zeros(1)))  # without a gradient
    clip = nn.utils.clip_grad_norm_ if algorithm == "norm" else nn.utils.clip_grad_value_
    clip(dense, limit)
    clip_gradients(ours, limit, algorithm)
    assert torch.allclose(ours[0].grad.to_dense(), dense[0].grad, atol=1e-6)
    assert torch.allclose(ours[1].grad, dense[1].grad, atol=1e-6)


@pytest.mark.parametrize("splits", [False, True])
def test_the_norm_of_gradients_of_16_bits_has_32(monkeypatch: pytest.MonkeyPatch, splits: bool) -> None:
    """Rounded to 16 it would be wrong by up to a 250th, in what the network is clipped by too."""
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda _: None)
    table, network = nn.Parameter(torch.zeros(V, 2, dtype=torch.bfloat16)), nn.Parameter(torch.zeros(2))
    table.grad = sparse_of(torch.full((V, 2), 1.0).bfloat16())
    network.grad = torch.full((2,), 1.0)
    clip_gradients([table, network], 1.0, split=[table] if splits else [])
    assert network.grad.tolist() == pytest.approx([(V * 2 + 2) ** -0.5] * 2, rel=1e-5)


def narrow(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.to(torch.bfloat16, copy=True))


@given(seed=st.integers(0, 10_000), width=st.sampled_from([None, 1, 3]))
def test_a_step_in_16_bits_is_that_in_32_rounded(seed: int, width: int | None) -> None:
    shape = (V,) if width is None else (V, width)
    start = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(torch.bfloat16)
    grads = [grad.to(torch.bfloat16) for grad in gradients(seed, shape, 1)]
    options = {"lr": 0.3, "initial_accumulator_value": 0.25, "weight_decay": 0.5, "decay_interval": 1}
    expected = train(LazyAdagrad, nn.Parameter(start.float()), [grad.float() for grad in grads], **options)
    dense = train(LazyAdagrad, narrow(start), grads, **options)
    sparse = train(LazyAdagrad, narrow(start), [sparse_of(grad) for grad in grads], **options)
    for found in (dense, sparse):
        assert found.dtype == torch.bfloat16
        # Rounded twice, after the step and after the decay; of the sum, that the decay is divided by, once.
        torch.testing.assert_close(found.float(), expected, rtol=2**-5, atol=2**-8)


def test_in_16_bits_steps_and_sums_far_below_the_last_place_add_up() -> None:
    # A step is 0.01 / sqrt(100): the last place of 1 in bfloat16 is .004 below it, and of 100 it is .5.
    parameter = narrow(torch.ones(4000))
    optimizer = LazyAdagrad([parameter], lr=0.01, initial_accumulator_value=100.0)
    for _ in range(200):
        parameter.grad = torch.full((4000,), 0.1, dtype=torch.bfloat16)
        optimizer.step()
    grad = torch.tensor(0.1).bfloat16().item()
    sums = optimizer.state[parameter]["sum"]
    assert sums.dtype == torch.bfloat16
    assert sums.double().mean().item() == pytest.approx(100 + 200 * grad**2, abs=0.05)
    assert parameter.double().mean().item() == pytest.approx(1 - 200 * 0.01 * grad / 10, abs=2e-3)


def test_in_16_bits_decay_adds_up() -> None:
    parameter = narrow(torch.ones(4000, 1))
    options = {"lr": 0.1, "initial_accumulator_value": 1.0, "weight_decay": 1e-3, "decay_interval": 2}
    optimizer = LazyAdagrad([parameter], **options)
    for _ in range(1000):
        parameter.grad = torch.sparse_coo_tensor([[0]], torch.zeros(1, 1, dtype=torch.bfloat16), (4000, 1))
        optimizer.step()
    assert parameter.double().mean().item() == pytest.approx((1 - 1e-4) ** 1000, abs=2e-3)


def test_in_16_bits_chance_is_the_same_everywhere_and_leaves_that_of_others_alone() -> None:
    grads = [grad.to(torch.bfloat16) for grad in gradients(1, (V, 3), 8)]
    start = torch.randn(V, 3)
    options = {"lr": 0.1, "weight_decay": 0.1, "decay_interval": 4}
    before = torch.random.get_rng_state()
    whole = train(LazyAdagrad, narrow(start), [sparse_of(grad) for grad in grads], **options)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(7)
    assert torch.equal(train(LazyAdagrad, narrow(start), [sparse_of(grad) for grad in grads], **options), whole)
    # Stopped, and gone on with.
    first = narrow(start)
    optimizer = LazyAdagrad([first], **options)
    for grad in grads[:3]:
        first.grad = sparse_of(grad)
        optimizer.step()
    second = nn.Parameter(first.detach().clone())
    again = LazyAdagrad([second], **options)
    again.load_state_dict(optimizer.state_dict())
    for grad in grads[3:]:
        second.grad = sparse_of(grad)
        again.step()
    assert torch.equal(second, whole)


def test_steps_are_counted_however_many_they_are() -> None:
    weight = torch.nn.Parameter(torch.ones(3, 2))
    optimizer = LazyAdagrad([weight], lr=0.1, weight_decay=0.5, initial_accumulator_value=1.0, decay_interval=64)
    optimizer.state[weight].update(step=torch.tensor(1 << 24), sum=torch.ones(3, 2))
    weight.grad = torch.zeros(3, 2)
    for _ in range(63):
        optimizer.step()
    assert torch.equal(weight, torch.ones(3, 2)), "no decay is due"
    optimizer.step()
    assert (weight < 1).all()


def test_the_count_of_steps_is_a_whole_number() -> None:
    weight = torch.nn.Parameter(torch.ones(3, 2))
    optimizer = LazyAdagrad([weight])
    weight.grad = torch.ones(3, 2)
    optimizer.step()
    assert optimizer.state[weight]["step"].dtype == torch.int64


def test_a_parameter_without_dimensions_decays_too() -> None:
    parameters = [nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(1))]
    optimizer = LazyAdagrad(parameters, lr=0.1, weight_decay=0.5, decay_interval=2)
    for _ in range(5):
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, 0.5)
        optimizer.step()
    assert parameters[0].item() == parameters[1].item() < 0.7
    with pytest.raises(BadInput, match="there are 0 fields"):
        optimizer.set_fields(0)
