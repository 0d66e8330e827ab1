"""Allocators against brute force, and what must hold for every allocation."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from pme_lightning.errors import BadInput
from pme_lightning.search import Allocation, Allocator, FieldSizes, Popularity, Prefix, TopK
from pme_lightning.search.across import ALONE
from pme_lightning.search.allocators import check_allocation

ALLOCATORS = [Prefix, TopK]


@dataclass
class Case:
    """One problem: scores from few values (many ties) and an allocator of any kind."""

    allocator: Allocator
    scores: Tensor
    linear_scores: Tensor | None
    priority: Tensor | None
    field_tokens: list[int]

    def allocate(self, budget: int) -> Allocation:
        return self.allocator.allocate(self.scores, budget, self.linear_scores, self.priority, self.field_tokens)

    @property
    def least(self) -> int:
        return len(self.scores) * self.allocator.min_size

    @property
    def most(self) -> int:
        largest = self.allocator.allowed_sizes[-1] if self.allocator.allowed_sizes else self.scores.shape[1]
        return len(self.scores) * (largest + (self.linear_scores is not None))

    @property
    def widest_step(self) -> int:
        sizes = self.allocator.allowed_sizes or range(1, self.scores.shape[1] + 1)
        sizes = [self.allocator.min_size, *(size for size in sizes if size > self.allocator.min_size)]
        return max((b - a for a, b in itertools.pairwise(sizes)), default=1)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    embedding_dim = draw(st.integers(1, 6))
    field_tokens = draw(st.lists(st.integers(0, 6), min_size=1, max_size=4).filter(any))
    num_tokens = sum(field_tokens)

    def numbers(count: int) -> Tensor:
        return torch.tensor(draw(st.lists(st.integers(0, 9), min_size=count, max_size=count))).float()

    allowed = draw(st.none() | st.sets(st.integers(1, embedding_dim), min_size=1))
    return Case(
        allocator=draw(st.sampled_from(ALLOCATORS))(
            scope=draw(st.sampled_from(["global", "field"])),
            allowed_sizes=None if allowed is None else list(allowed),
            min_size=draw(st.sampled_from([0, *(sorted(allowed) if allowed else range(1, embedding_dim + 1))])),
        ),
        scores=numbers(num_tokens * embedding_dim).view(num_tokens, embedding_dim),
        linear_scores=numbers(num_tokens) if draw(st.booleans()) else None,
        priority=numbers(num_tokens) if draw(st.booleans()) else None,
        field_tokens=field_tokens,
    )


def spent(allocation: Allocation) -> int:
    return int(allocation.sizes.sum()) + (0 if allocation.linear is None else int(allocation.linear.sum()))


@settings(max_examples=200)
@given(cases(), st.data())
def test_what_holds_for_every_allocation(case: Case, data: st.DataObject) -> None:
    budget = data.draw(st.integers(case.least, case.most + 3))
    found = case.allocate(budget)

    # The budget is met exactly, or undershot by less than one size step.
    if budget >= case.most:
        assert spent(found) == case.most
    else:
        assert 0 <= budget - spent(found) < case.widest_step

    # Sizes are allowed ones.
    embedding_dim = case.scores.shape[1]
    allowed = {0, *(case.allocator.allowed_sizes or range(1, embedding_dim + 1))}
    assert set(found.sizes.tolist()) <= {size for size in allowed if size >= case.allocator.min_size}
    assert (found.linear is None) == (case.linear_scores is None)

    # A larger budget never takes from any token.
    more = case.allocate(data.draw(st.integers(budget, case.most + 3)))
    assert bool((more.sizes >= found.sizes).all())
    if found.linear is not None and more.linear is not None:
        assert bool((more.linear | ~found.linear).all())

    # The positions kept are as many as the size says.
    kept = case.allocator.kept(case.scores, found.sizes)
    assert torch.equal(kept.sum(1), found.sizes)


@settings(max_examples=100)
@given(cases(), st.data())
def test_order_of_tokens_does_not_matter(case: Case, data: st.DataObject) -> None:
    # Ties are settled by priorities, so distinct priorities settle everything; tokens move within their field.
    num_tokens = len(case.scores)
    case.priority = torch.tensor(data.draw(st.permutations(range(num_tokens))))
    starts = itertools.accumulate([0, *case.field_tokens])
    blocks = [range(start, start + count) for start, count in zip(starts, case.field_tokens, strict=False)]
    moved = torch.tensor([token for block in blocks for token in data.draw(st.permutations(block))])
    budget = data.draw(st.integers(case.least, case.most))

    found = case.allocate(budget)
    case.scores, case.priority = case.scores[moved], case.priority[moved]
    case.linear_scores = None if case.linear_scores is None else case.linear_scores[moved]
    found_moved = case.allocate(budget)

    assert torch.equal(found_moved.sizes, found.sizes[moved])
    if found.linear is not None and found_moved.linear is not None:
        assert torch.equal(found_moved.linear, found.linear[moved])


@pytest.mark.parametrize("allowed_sizes", [None, [2, 3, 6]])
@pytest.mark.parametrize("min_size", [0, 2])
def test_prefix_is_the_bisected_multiplier(allowed_sizes: list[int] | None, min_size: int) -> None:
    generator = torch.Generator().manual_seed(3)
    scores = torch.rand(400, 6, generator=generator, dtype=torch.float64) ** 4
    linear_scores = torch.rand(400, generator=generator, dtype=torch.float64) ** 8
    choices = torch.tensor(sorted({min_size, *(allowed_sizes or range(7))} - set(range(min_size))))
    gains = torch.cat([torch.zeros(400, 1), scores.cumsum(1)], 1).double()[:, choices]

    low, high = 0.0, 2.0
    for _ in range(60):
        multiplier = (low + high) / 2
        sizes = choices[(gains - multiplier * choices).argmax(1)]
        linear = linear_scores > multiplier
        if int(sizes.sum() + linear.sum()) > 1200:
            low = multiplier
        else:
            high = multiplier
    budget = int(sizes.sum() + linear.sum())

    found = Prefix(allowed_sizes=allowed_sizes, min_size=min_size).allocate(scores, budget, linear_scores)
    assert torch.equal(found.sizes, sizes)
    assert found.linear is not None
    assert torch.equal(found.linear, linear)


def test_top_k_keeps_the_largest_scores_of_all() -> None:
    scores = torch.rand(500, 8, generator=torch.Generator().manual_seed(0))
    allocator = TopK()
    found = allocator.allocate(scores, 1000)
    threshold = scores.flatten().sort(descending=True).values[1000]
    assert torch.equal(allocator.kept(scores, found.sizes), scores > threshold)


def test_prefix_keeps_the_leading_positions() -> None:
    kept = Prefix().kept(torch.zeros(3, 4), torch.tensor([0, 2, 4]))
    assert kept.int().tolist() == [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]


def test_a_late_large_score_carries_the_values_before_it() -> None:
    # Row 0 averages 3 over its first three values, row 1 offers 2 and 1.
    scores = torch.tensor([[0.0, 0.0, 9.0], [2.0, 1.0, 0.0]])
    assert Prefix().allocate(scores, 3).sizes.tolist() == [3, 0]
    assert Prefix().allocate(scores, 4).sizes.tolist() == [3, 1]
    assert TopK().allocate(scores, 3).sizes.tolist() == [1, 2]


def test_first_order_weights_compete_in_the_same_unit() -> None:
    scores = torch.tensor([[5.0, 1.0], [3.0, 2.0]])
    found = Prefix().allocate(scores, 3, torch.tensor([4.0, 0.5]))
    assert found.sizes.tolist() == [1, 1]
    assert found.linear is not None
    assert found.linear.tolist() == [True, False]


def test_ties_go_to_priority_then_position_then_token() -> None:
    scores = torch.ones(3, 2)
    assert Prefix().allocate(scores, 4).sizes.tolist() == [2, 1, 1]
    assert Prefix().allocate(scores, 3, priority=torch.tensor([1, 5, 1])).sizes.tolist() == [1, 2, 0]
    found = Prefix().allocate(scores, 4, linear_scores=torch.ones(3))
    assert found.sizes.tolist() == [1, 0, 0]
    assert found.linear is not None
    assert found.linear.all()


def test_fields_keep_the_same_fraction() -> None:
    scores = torch.rand(130, 4, generator=torch.Generator().manual_seed(0))
    scores[:100] += 10  # worth more, every one of them
    everywhere = Prefix().allocate(scores, 130).sizes
    assert (int(everywhere[:100].sum()), int(everywhere[100:].sum())) == (130, 0)
    by_field = Prefix(scope="field").allocate(scores, 130, field_tokens=[100, 20, 10]).sizes
    assert [int(part.sum()) for part in by_field.split([100, 20, 10])] == [100, 20, 10]
    alone = Prefix().allocate(scores[100:120], 20).sizes
    assert torch.equal(by_field[100:120], alone)


def test_fields_pass_on_what_their_steps_leave_over() -> None:
    # Six fields of three tokens with steps of 5: each alone would leave up to 4 values of its share.
    scores = torch.rand(18, 5, generator=torch.Generator().manual_seed(0))
    allocator = Prefix(scope="field", allowed_sizes=[5])
    before = torch.zeros(18, dtype=torch.int64)
    for budget in range(91):
        sizes = allocator.allocate(scores, budget, field_tokens=[3] * 6).sizes
        assert int(sizes.sum()) == budget // 5 * 5
        assert bool((sizes >= before).all())
        fields = torch.stack([field.sum() for field in sizes.split(3)])
        assert fields.max() - fields.min() <= 5
        before = sizes


@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_half_precision_scores_are_taken(allocator: type[Allocator]) -> None:
    scores = torch.tensor([[4.0, 2.0], [3.0, 1.0]])
    assert torch.equal(allocator().allocate(scores.bfloat16(), 3).sizes, allocator().allocate(scores, 3).sizes)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"scope": "fields"}, "did you mean 'field'"),
        ({"min_size": -1}, "0 or more"),
        ({"allowed_sizes": []}, "one or more"),
        ({"allowed_sizes": [0, 4]}, "at least 1"),
        ({"allowed_sizes": [2, 4], "min_size": 3}, "not among"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        Prefix(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("allocator", "arguments", "says"),
    [
        (Prefix(allowed_sizes=[2, 5]), {}, "1 ... 4"),
        (Prefix(min_size=5), {}, "above the embedding dimension 4"),
        (
            Prefix(min_size=3),
            {},
            r"3 for each of 10 tokens takes 30 values.* the largest min_size that fits is 2$",
        ),
        (TopK(min_size=4, allowed_sizes=[1, 4]), {}, "the largest min_size that fits is 1"),
        (Prefix(scope="field"), {}, "needs field_tokens"),
        (Prefix(scope="field"), {"field_tokens": [4, 4]}, "add up to 8"),
        (Prefix(), {"linear_scores": torch.zeros(9)}, "linear_scores has shape"),
        (Prefix(), {"linear_scores": torch.full((10,), torch.nan)}, "NaN"),
        (Prefix(), {"scores": torch.full((10, 4), torch.inf)}, "infinity"),
        (Prefix(), {"scores": torch.zeros(10, 4).index_fill(1, torch.tensor(2), torch.nan)}, "NaN"),
        (Prefix(), {"priority": torch.full((10,), -torch.inf)}, "infinity"),
    ],
)
def test_wrong_input(allocator: Allocator, arguments: dict[str, object], says: str) -> None:
    with pytest.raises(BadInput, match=says) as error:
        allocator.allocate(**{"scores": torch.zeros(10, 4), "budget": 25, **arguments})  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("allocation", "says"),
    [
        ((torch.ones(3), None), "must return an Allocation, not tuple"),
        (Allocation([1, 1, 1], None), r"whose sizes are whole numbers or bool \(3,\), not list"),  # type: ignore[arg-type]
        (Allocation(torch.ones(3), None), r"whose sizes are .*, not of shape \(3,\) and torch.float32"),
        (Allocation(torch.ones(2).long(), None), r"whose sizes are .*, not of shape \(2,\)"),
        (Allocation(torch.ones(3).long(), None), r"whose linear are .*, not NoneType"),
        (Allocation(torch.full((3,), 9), torch.ones(3).bool()), "gave sizes from 9 to 9; they must lie in 0 ... 4"),
        (Allocation(torch.ones(3).long(), torch.ones(3).bool()), "gave away 6 values, and the budget leaves 5"),
    ],
)
def test_what_ones_own_allocator_returns_is_looked_at(allocation: Allocation, says: str) -> None:
    with pytest.raises(BadInput, match=f"search.allocator Mine .*{says}"):
        check_allocation("Mine", allocation, (3, 4), True, 5, ALONE)


def test_overflow_of_a_rule_is_not_blamed_on_training_alone() -> None:
    scores = Popularity(alpha=300.0).scores(torch.zeros(3, 4), None, torch.tensor([1, 20, 300]))
    with pytest.raises(BadInput, match=r"training diverged .* or the rule's numbers overflow"):
        Prefix().allocate(scores.table, 6)


@given(st.integers(1, 8), st.integers(0, 99), st.booleans())
def test_the_largest_min_size_named_fits_and_the_next_does_not(min_size: int, budget: int, some: bool) -> None:
    allowed = [2, 5, 8] if some else None
    assume(allowed is None or min_size in allowed)
    try:
        Prefix(min_size=min_size, allowed_sizes=allowed).check_sizes(10, 8, budget)
    except BadInput as error:
        largest = int(str(error).rsplit(" ", 1)[1])
        Prefix(min_size=largest, allowed_sizes=allowed).check_sizes(10, 8, budget)
        above = next(size for size in allowed or range(1, 9) if size > largest)
        assert above * 10 > budget
    else:
        assert min_size * 10 <= budget


@given(
    tokens=st.integers(1, 60),
    embedding_dim=st.integers(1, 5),
    kept=st.floats(0, 1),
    linear=st.booleans(),
    min_size=st.integers(0, 1),
    seed=st.integers(0, 10_000),
)
def test_some_tokens_get_what_they_get_among_all(
    tokens: int, embedding_dim: int, kept: float, linear: bool, min_size: int, seed: int
) -> None:
    """Where the budget runs out for those that stand for all, it does for the others."""
    generator = torch.Generator().manual_seed(seed)
    # Falling: no two values of a token are worth the same, as the mean of a rise would be.
    scores = torch.rand(tokens, embedding_dim, generator=generator, dtype=torch.float64).sort(1, descending=True).values
    firsts = torch.rand(tokens, generator=generator, dtype=torch.float64) if linear else None
    allocator = Prefix(min_size=min_size)
    least = tokens * min_size
    budget = least + int(kept * (tokens * (embedding_dim + linear) - least))
    among_all = allocator.allocate(scores, budget, firsts)
    for drawn in (torch.ones(tokens, dtype=torch.bool), torch.rand(tokens, generator=generator) < 0.5):
        theirs = Allocation(among_all.sizes[drawn], None if firsts is None else among_all.linear[drawn])  # type: ignore[index]
        found = allocator.allocate_some(scores, spent(theirs), drawn, firsts)
        assert torch.equal(found.sizes[drawn], theirs.sizes)
        if firsts is not None:
            assert torch.equal(found.linear[drawn], theirs.linear)  # type: ignore[index, arg-type]
        # The others get no more than among all: what is kept last may be one of theirs.
        assert (found.sizes <= among_all.sizes).all()
        if drawn.all():
            assert torch.equal(found.sizes, among_all.sizes)


def test_one_price_is_for_one_scope_and_the_allocators_own_way() -> None:
    class Mine(Prefix):
        def allocate(self, *args: object, **kwargs: object) -> Allocation:
            raise NotImplementedError

    assert Prefix().has_one_price
    assert TopK(min_size=1).has_one_price
    assert not Prefix(scope="field").has_one_price
    assert not FieldSizes().has_one_price
    assert not Mine().has_one_price
