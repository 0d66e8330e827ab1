"""Schedules, step by step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pme_lightning.errors import BadInput
from pme_lightning.search import (
    Action,
    AfterWarmup,
    AtInit,
    Epoch,
    Gradual,
    NoTraining,
    Schedule,
    SingleShot,
    keep_fraction,
)


def plan(schedule: Schedule, steps_per_epoch: int) -> list[Action]:
    epoch = Epoch(steps_per_epoch)
    return [schedule.action(step, epoch) for step in range(schedule.num_steps(epoch))]


def test_no_training_has_no_steps() -> None:
    assert plan(NoTraining(), 100) == []
    with pytest.raises(ValueError, match="outside"):
        NoTraining().action(0, Epoch(100))


def test_the_last_step_prunes_to_the_budget_whatever_a_schedule_says() -> None:
    class Forgets(Schedule):
        def num_steps(self, epoch: Epoch) -> int:
            return 3

        def _action(self, step: int, num_steps: int) -> Action:
            return Action(prune=0.25, score=True)

    assert [action.prune for action in plan(Forgets(), 10)] == [0.25, 0.25, 1.0]


@pytest.mark.parametrize("steps_per_epoch", [1, 2, 1000])
def test_at_init_is_frozen_and_scores_all(steps_per_epoch: int) -> None:
    assert plan(AtInit(batches=3), steps_per_epoch) == [
        Action(frozen=True, start=True, score=True),
        Action(frozen=True, score=True),
        Action(frozen=True, score=True, prune=1.0),
    ]


def test_after_warmup_scores_its_last_share() -> None:
    assert plan(AfterWarmup(epochs=0.5, score_last=0.4), 10) == [
        Action(),
        Action(),
        Action(),
        Action(start=True, score=True),
        Action(score=True, prune=1.0),
    ]
    assert plan(AfterWarmup(epochs=2, score_last=0.01), 2)[2:] == [
        Action(),
        Action(start=True, score=True, prune=1.0),
    ]


def test_gradual_prunes_along_the_cubic() -> None:
    actions = plan(Gradual(epochs=1.0, start=0.25, prunings=3), 8)
    assert actions[:2] == [Action(), Action()]
    assert all(action.score and not action.frozen for action in actions[2:])
    assert [step for step, action in enumerate(actions) if action.start] == [2, 4, 6]
    assert {step: action.prune for step, action in enumerate(actions) if action.prune is not None} == {
        3: pytest.approx(1 - (2 / 3) ** 3),
        5: pytest.approx(1 - (1 / 3) ** 3),
        7: 1.0,
    }


def test_gradual_with_fewer_steps_than_prunings_prunes_every_step() -> None:
    actions = plan(Gradual(epochs=1.0, start=0.0, prunings=10), 2)
    assert actions == [
        Action(start=True, score=True, prune=0.875),
        Action(start=True, score=True, prune=1.0),
    ]


@pytest.mark.parametrize("schedule", [AtInit(1), AfterWarmup(), AfterWarmup(epochs=0.01), Gradual()])
def test_one_step_is_enough(schedule: Schedule) -> None:
    assert schedule.num_steps(Epoch(1)) == 1
    action = schedule.action(0, Epoch(1))
    assert (action.start, action.score, action.prune) == (True, True, 1.0)


@given(
    st.one_of(
        st.builds(AtInit, batches=st.integers(1, 30)),
        st.builds(AfterWarmup, epochs=st.floats(0.01, 3), score_last=st.floats(0.01, 1)),
        st.builds(Gradual, epochs=st.floats(0.01, 3), start=st.floats(0, 0.99), prunings=st.integers(1, 20)),
    ),
    st.integers(1, 40),
)
def test_what_holds_for_every_schedule(schedule: Schedule, steps_per_epoch: int) -> None:
    actions = plan(schedule, steps_per_epoch)
    prunings = [action.prune for action in actions if action.prune is not None]
    assert actions[-1].prune == 1.0
    assert prunings == sorted(set(prunings))
    assert all(0 < progress <= 1 for progress in prunings)
    in_window = False
    for action in actions:
        in_window |= action.start
        assert action.score == in_window  # no gradient counts outside a window
        assert action.prune is None or action.score  # every window has a scored step before its pruning
        in_window &= action.prune is None
    if isinstance(schedule, Gradual):
        assert len(prunings) <= schedule.prunings


@pytest.mark.parametrize("step", [-1, 5])
def test_steps_outside_the_search(step: int) -> None:
    with pytest.raises(ValueError, match="outside this search of 5 steps"):
        AfterWarmup().action(step, Epoch(5))


def test_keep_fraction() -> None:
    assert keep_fraction(0.0, 0.1) == 1.0
    assert keep_fraction(1.0, 0.1) == 0.1
    assert keep_fraction(0.5, 0.1) == pytest.approx(0.55)


@pytest.mark.parametrize(
    ("schedule", "arguments"),
    [
        (AtInit, {"batches": 0}),
        (AfterWarmup, {"epochs": 0}),
        (AfterWarmup, {"epochs": float("nan")}),
        (AfterWarmup, {"score_last": 0}),
        (AfterWarmup, {"score_last": 1.1}),
        (Gradual, {"epochs": -1}),
        (Gradual, {"start": 1.0}),
        (Gradual, {"start": -0.1}),
        (Gradual, {"prunings": 0}),
    ],
)
def test_wrong_arguments(schedule: type[Schedule], arguments: dict[str, float]) -> None:
    name = next(iter(arguments))
    with pytest.raises(BadInput, match=f"{schedule.__name__}: {name} is"):
        schedule(**arguments)


def test_a_warm_up_lasts_its_least_number_of_steps() -> None:
    schedule = AfterWarmup(epochs=1.0, score_last=0.5, min_steps=30)
    assert schedule.num_steps(Epoch(100)) == 100
    assert schedule.num_steps(Epoch(7)) == 30
    actions = [schedule.action(step, Epoch(7)) for step in range(30)]
    assert [action.score for action in actions] == [False] * 15 + [True] * 15
    assert [action.prune for action in actions] == [None] * 29 + [1.0]
    with pytest.raises(BadInput, match="AfterWarmup: min_steps is -1"):
        AfterWarmup(min_steps=-1)


def test_a_warm_up_lasts_no_longer_than_its_most_steps() -> None:
    schedule = AfterWarmup(epochs=2.0, score_last=0.5, min_steps=30, max_steps=40)
    assert [schedule.num_steps(Epoch(steps)) for steps in (7, 15, 18, 20, 1000)] == [30, 30, 36, 40, 40]
    actions = [schedule.action(step, Epoch(1000)) for step in range(40)]
    assert [action.score for action in actions] == [False] * 20 + [True] * 20
    assert [action.prune for action in actions] == [None] * 39 + [1.0]


def test_least_steps_are_no_more_than_so_many_epochs() -> None:
    schedule = AfterWarmup(epochs=2.0, min_steps=30, min_steps_max_epochs=5.0, max_steps=40)
    assert [schedule.num_steps(Epoch(steps)) for steps in (1, 5, 6, 7, 18, 1000)] == [5, 25, 30, 30, 36, 40]
    assert AfterWarmup(epochs=8.0, min_steps=30, min_steps_max_epochs=5.0).num_steps(Epoch(3)) == 24, "it is asked for"
    with pytest.raises(BadInput, match="min_steps_max_epochs is 0; it must be above 0, or null for no limit"):
        AfterWarmup(min_steps_max_epochs=0)


@pytest.mark.parametrize(("least", "most"), [(30, 29), (0, 0), (0, -1)])
def test_a_warm_up_is_not_shorter_than_its_least_steps(least: int, most: int) -> None:
    with pytest.raises(BadInput, match=f"AfterWarmup: max_steps is {most}; it must be {max(1, least)} or more"):
        AfterWarmup(min_steps=least, max_steps=most)


def test_a_warm_up_on_large_data_ends_after_so_many_rows() -> None:
    schedule = AfterWarmup(epochs=2.0, min_steps=30, max_rows=6400, max_rows_min_steps=50)
    lengths = {
        Epoch(1000, step_rows=32): 200,
        Epoch(1000, step_rows=64): 100,
        Epoch(1000, step_rows=640): 50,  # large batches: not too few steps
        Epoch(20, step_rows=640): 40,  # two epochs are fewer
        Epoch(5, step_rows=640): 30,
        Epoch(1000): 2000,  # nobody knows how many rows
    }
    assert {epoch: schedule.num_steps(epoch) for epoch in lengths} == lengths
    assert AfterWarmup(epochs=2.0, max_rows=6400, max_steps=70).num_steps(Epoch(1000, 32)) == 70, "both hold"
    for bad in (0, -5):
        with pytest.raises(BadInput, match=f"max_rows is {bad}; it must be 1 or more, or null for no limit"):
            AfterWarmup(max_rows=bad)
    with pytest.raises(BadInput, match="max_rows_min_steps is -1; it must be 0 or more"):
        AfterWarmup(max_rows_min_steps=-1)


def test_single_shot_trains_then_scores_frozen() -> None:
    schedule = SingleShot(epochs=0.5, batches=2)
    assert schedule.num_steps(Epoch(6)) == 5
    assert [schedule.action(step, Epoch(6)) for step in range(5)] == [
        Action(),
        Action(),
        Action(),
        Action(frozen=True, start=True, score=True),
        Action(frozen=True, score=True, prune=1.0),
    ]
    assert SingleShot(epochs=1, batches=1).action(6, Epoch(6)) == Action(frozen=True, start=True, score=True, prune=1.0)


@pytest.mark.parametrize("arguments", [{"epochs": 0}, {"epochs": float("nan")}, {"batches": 0}])
def test_wrong_arguments_of_single_shot(arguments: dict[str, float]) -> None:
    with pytest.raises(BadInput, match=next(iter(arguments))):
        SingleShot(**arguments)
