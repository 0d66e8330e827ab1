"""Several optimizers as one: against the same optimizers stepped apart, and what else expects a single optimizer."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau

from pme_lightning.errors import BadInput
from pme_lightning.optim import JoinedOptimizer, build_optimizer

Make = Callable[[list[nn.Parameter]], Optimizer]
MAKERS: dict[str, Make] = {
    "adam": lambda p: Adam(p, lr=3e-3, fused=True),
    "adagrad": lambda p: Adagrad(p, lr=0.1, initial_accumulator_value=1e-8, weight_decay=2e-5, fused=True),
    "plain adagrad": lambda p: Adagrad(p, lr=0.1, lr_decay=0.1),
    "adamw": lambda p: AdamW(p, lr=0.01, amsgrad=True),
    "sgd": lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "plain sgd": lambda p: SGD(p, lr=0.1),
    "rmsprop": lambda p: RMSprop(p, lr=0.01, momentum=0.5),
}
SHAPES = [(5, 3), (7,), (2, 2), (1,), (4, 1)]


def parameters(shapes: list[tuple[int, ...]] = SHAPES) -> list[nn.Parameter]:
    torch.manual_seed(1)
    return [nn.Parameter(torch.randn(shape)) for shape in shapes]


def set_gradients(params: list[nn.Parameter], step: int, scale: float = 1.0) -> None:
    """The same gradients in every run; now and then a parameter has none, as a row without a batch."""
    generator = torch.Generator().manual_seed(step)
    for number, p in enumerate(params):
        gradient = torch.randn(p.shape, generator=generator) * scale
        p.grad = None if (step + number) % 4 == 0 else gradient


def step(params: list[nn.Parameter], optimizers: list[Optimizer], steps: range) -> None:
    for i in steps:
        set_gradients(params, i)
        for optimizer in optimizers:
            optimizer.step()


def split(params: list[nn.Parameter], kinds: list[str], homes: list[int]) -> list[Optimizer]:
    parts = [[p for p, home in zip(params, homes, strict=True) if home == i] for i in range(len(kinds))]
    return [MAKERS[kind](part) for kind, part in zip(kinds, parts, strict=True)]


def pair(first: str = "adam", second: str = "adagrad") -> tuple[list[nn.Parameter], JoinedOptimizer]:
    params = parameters()
    return params, JoinedOptimizer(split(params, [first, second], [0, 0, 1, 0, 1]))


def same(left: list[nn.Parameter], right: list[nn.Parameter]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def saved(optimizer: Optimizer) -> dict:
    """The state as a checkpoint brings it back."""
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@st.composite
def splits(draw: st.DrawFn) -> tuple[list[tuple[int, ...]], list[str], list[int]]:
    """Shapes, kinds of optimizers, and which of them trains which parameter; each trains one at least."""
    kinds = draw(st.lists(st.sampled_from(sorted(MAKERS)), min_size=1, max_size=3))
    more = draw(st.integers(0, 4))
    homes = draw(st.permutations([*range(len(kinds)), *(draw(st.integers(0, len(kinds) - 1)) for _ in range(more))]))
    shapes = [tuple(draw(st.lists(st.integers(0, 4), max_size=2))) for _ in homes]
    return shapes, kinds, list(homes)


@given(splits(), st.integers(1, 6), st.integers(0, 5))
def test_it_does_what_its_optimizers_do_apart_across_a_checkpoint(drawn: tuple, before: int, after: int) -> None:
    shapes, kinds, homes = drawn
    alone, joined, resumed = parameters(shapes), parameters(shapes), parameters(shapes)
    step(alone, split(alone, kinds, homes), range(before + after))
    optimizer = JoinedOptimizer(split(joined, kinds, homes))
    step(joined, [optimizer], range(before))
    again = JoinedOptimizer(split(resumed, kinds, homes))
    for p, value in zip(resumed, joined, strict=True):
        p.data.copy_(value.data)
    for group in again.param_groups:
        group["lr"] = 123.0
    again.load_state_dict(saved(optimizer))
    for params, each in ((joined, optimizer), (resumed, again)):
        step(params, [each], range(before, before + after))
        assert same(params, alone)


def test_the_state_has_the_layout_of_one_optimizer() -> None:
    params, optimizer = pair()
    step(params, [optimizer], range(2))
    state = optimizer.state_dict()
    assert set(state) == {"state", "param_groups"}
    assert [group["params"] for group in state["param_groups"]] == [[0, 1, 2], [3, 4]]
    assert [group["lr"] for group in state["param_groups"]] == [3e-3, 0.1]
    assert "exp_avg" in state["state"][0]
    assert state["state"][3]["sum"] is optimizer.optimizers[1].state[params[2]]["sum"]
    # The layout is torch's own: that of the base class for the same groups and states.
    assert Optimizer.state_dict(optimizer).keys() == state.keys()
    assert Optimizer.state_dict(optimizer)["state"].keys() == state["state"].keys()


def test_the_state_of_other_groups_is_refused_whole() -> None:
    params, optimizer = pair()
    step(params, [optimizer], range(2))
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=r"groups of \[5\] parameters, this one has \[3, 2\]"):
        optimizer.load_state_dict(Adam(params).state_dict())
    assert str(optimizer.state_dict()) == str(before)


def test_states_are_read_and_written_where_they_are_kept() -> None:
    params, optimizer = pair("adam", "adagrad")
    adam, adagrad = optimizer.optimizers
    table, weight = params[2], params[0]
    assert optimizer.state[table] is adagrad.state[table]
    # A look must not make a state: Adam would take an empty one for its own.
    assert optimizer.state.get(weight, "none") == "none"
    assert weight not in optimizer.state
    assert len(optimizer.state) == 2
    assert set(optimizer.state) == {params[2], params[4]}
    optimizer.state[weight]["mine"] = 1
    assert adam.state[weight] == {"mine": 1}
    optimizer.state[table] = {"sum": torch.ones(2, 2)}
    assert adagrad.state[table]["sum"].sum() == 4
    del optimizer.state[weight]
    assert weight not in adam.state
    with pytest.raises(KeyError):
        _ = optimizer.state[nn.Parameter(torch.zeros(1))]


def test_a_scheduler_changes_every_learning_rate_also_after_a_checkpoint() -> None:
    params, optimizer = pair()
    scheduler = LambdaLR(optimizer, lambda epoch: 0.5**epoch)
    optimizer.step()
    scheduler.step()
    assert [o.param_groups[0]["lr"] for o in optimizer.optimizers] == [1.5e-3, 0.05]
    state = saved(optimizer)
    optimizer.step()
    scheduler.step()
    optimizer.load_state_dict(state)
    assert [group["lr"] for group in optimizer.param_groups] == [1.5e-3, 0.05]
    scheduler.step()  # groups are new objects now: the scheduler must reach those
    assert [o.param_groups[0]["lr"] for o in optimizer.optimizers] == [3e-3 / 8, 0.1 / 8]
    plateau = ReduceLROnPlateau(optimizer, factor=0.1, patience=0)
    for loss in (1.0, 1.0):
        plateau.step(loss)
    assert optimizer.optimizers[1].param_groups[0]["lr"] == pytest.approx(0.1 / 80)
    assert params[0].grad is None


def test_schedules_of_momentum_work_where_every_optimizer_has_it() -> None:
    params = parameters()
    both = JoinedOptimizer([Adam(params[:2]), AdamW(params[2:])])
    OneCycleLR(both, max_lr=[0.1, 0.2], total_steps=10)
    assert [group["betas"][0] for group in both.param_groups] == [0.95, 0.95]
    _, optimizer = pair()
    with pytest.raises(ValueError, match="cycle_momentum"):
        OneCycleLR(optimizer, max_lr=0.1, total_steps=10)
    OneCycleLR(optimizer, max_lr=0.1, total_steps=10, cycle_momentum=False)


def test_the_closure_is_called_once_and_with_gradients() -> None:
    left, optimizer = pair()
    right, apart = pair()
    calls = []

    def closure() -> Tensor:
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = sum((p**3).sum() for p in left)
        loss.backward()
        return loss.detach()

    with torch.no_grad():
        loss = optimizer.step(closure)
    assert calls == [True]
    assert loss == sum((p**3).sum() for p in right).detach()
    sum((p**3).sum() for p in right).backward()
    for each in apart.optimizers:
        each.step()
    assert same(left, right)
    assert optimizer.step() is None


def test_zero_grad_reaches_every_parameter() -> None:
    params, optimizer = pair()
    set_gradients(params, 1)
    optimizer.zero_grad(set_to_none=False)
    assert all(p.grad is None or not p.grad.any() for p in params)
    optimizer.zero_grad()
    assert all(p.grad is None for p in params)
    before = copy.deepcopy([p.data for p in params])
    optimizer.step()  # fused optimizers too must bear a step without gradients
    assert same(params, before)


def test_further_parameters_go_to_the_first() -> None:
    params, optimizer = pair()
    new = nn.Parameter(torch.ones(2))
    optimizer.add_param_group({"params": [new], "lr": 0.5})
    assert [group["lr"] for group in optimizer.param_groups] == [3e-3, 0.5, 0.1]
    assert optimizer.optimizers[0].param_groups[1]["params"] == [new]
    new.grad = torch.ones(2)
    optimizer.step()
    assert torch.allclose(new, torch.full((2,), 0.5))
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": [params[4]]})
    assert len(optimizer.param_groups) == 3
    again = JoinedOptimizer([MAKERS["adam"](params[:2]), MAKERS["adagrad"](params[2:])])
    with pytest.raises(ValueError, match="parameter groups of"):
        again.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda whole: pickle.loads(pickle.dumps(whole))])
def test_a_copy_trains_its_own_parameters(duplicate: Callable) -> None:
    params, optimizer = pair()
    step(params, [optimizer], range(3))
    before = copy.deepcopy(params)
    theirs, copied = duplicate((params, optimizer))
    assert copied.param_groups[0] is copied.optimizers[0].param_groups[0]
    step(theirs, [copied], range(3, 5))
    assert same(params, before)
    step(params, [optimizer], range(3, 5))
    assert same(theirs, params)


def test_hooks_run_once() -> None:
    params, optimizer = pair()
    seen: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    optimizer.register_state_dict_pre_hook(lambda _: seen.append("save"))
    optimizer.register_state_dict_post_hook(lambda _, state: state | {"extra": 1})
    optimizer.register_load_state_dict_pre_hook(lambda _, state: seen.append(f"load {state['extra']}"))
    optimizer.register_load_state_dict_post_hook(lambda _: seen.append("loaded"))
    step(params, [optimizer], range(1))
    optimizer.load_state_dict(optimizer.state_dict())
    assert seen == ["before", "after", "save", "load 1", "loaded"]


@pytest.mark.parametrize("kinds", [("adam", "adagrad"), ("adam", "plain sgd"), ("adamw", "adagrad")])
def test_a_scaler_unscales_and_leaves_out_steps_that_are_not_finite(kinds: tuple[str, str]) -> None:
    params, optimizer = pair(*kinds)
    plain, apart = pair(*kinds)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for i in range(6):
        scaler.scale(torch.zeros(1))  # makes the scale, as the loss does in a training
        set_gradients(params, i, scale=scaler.get_scale())
        if i == 3:
            # In one optimizer's gradients only: the other must not step either.
            params[2].grad = torch.full((2, 2), torch.inf)
        else:
            set_gradients(plain, i)
            for each in apart.optimizers:
                each.step()
        scaler.unscale_(optimizer)
        if i != 3:
            assert all(p.grad is None or torch.equal(p.grad, q.grad) for p, q in zip(params, plain, strict=True))
        scaler.step(optimizer)
        scaler.update()
        assert same(params, plain)
    assert scaler.get_scale() == 512.0


def test_what_cannot_be_joined_is_refused() -> None:
    params = parameters()
    with pytest.raises(ValueError, match="more than one parameter group"):
        JoinedOptimizer([SGD(params[:3]), Adam(params[2:])])
    with pytest.raises(ValueError, match="LBFGS calls the model in its steps"):
        JoinedOptimizer([Adam(params[:3]), LBFGS(params[3:])])
    with pytest.raises(ValueError, match="no optimizer"):
        JoinedOptimizer([])


def test_the_table_alone_gets_the_embedding_optimizer() -> None:
    params = parameters()
    table = [params[1], params[3]]
    optimizer = build_optimizer(params, table, Adam, {"lr": 0.2}, "torch.optim.Adagrad", {"lr": 0.3})
    assert isinstance(optimizer, JoinedOptimizer)
    assert [type(each) for each in optimizer.optimizers] == [Adam, Adagrad]
    found = [[id(p) for p in group["params"]] for group in optimizer.param_groups]
    assert found == [[id(params[i]) for i in (0, 2, 4)], [id(params[i]) for i in (1, 3)]]
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 0.3]
    assert "Adam (" in repr(optimizer)
    assert "Adagrad (" in repr(optimizer)
    one = build_optimizer(params, table, SGD)
    assert type(one) is SGD
    assert [id(p) for p in one.param_groups[0]["params"]] == [id(p) for p in params]
    assert type(build_optimizer(table, table, SGD, None, Adagrad)) is Adagrad


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((Adam, {"lr": -1.0}, SGD, None), "^Adam: Invalid learning rate"),
        ((Adam, None, SGD, {"lr": -1.0}), "^embedding_optimizer: SGD: Invalid learning rate"),
        ((Adam, None, SGD, {"speed": 1}), "^embedding_optimizer: SGD: .*speed"),
        ((Adam, None, "torch.optim.Adagrd", None), "^embedding_optimizer: .* did you mean 'Adagrad'"),
        ((Adam, None, LBFGS, None), "^embedding_optimizer: LBFGS calls the model in its steps"),
    ],
)
def test_wrong_optimizers_are_named(arguments: tuple, said: str) -> None:
    params = parameters()
    with pytest.raises(BadInput, match=said):
        build_optimizer(params, params[:2], *arguments)
