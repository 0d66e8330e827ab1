"""Expected information against the formula written out, and against values that were planted."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pme_lightning.errors import BadInput
from pme_lightning.search import ExpectedInformation, RowInformation

FIELDS = [3, 2]
TOKENS, DIM = 5, 3


def rows(count: int, seed: int = 0, fields: list[int] | None = None, dim: int = DIM) -> tuple[Tensor, Tensor, Tensor]:
    """Returns ids ``(B, F)`` and gradients at embeddings ``(B, F, D)`` and first-order weights ``(B, F)``."""
    fields = fields or FIELDS
    generator = torch.Generator().manual_seed(seed)
    starts = torch.tensor([0, *fields]).cumsum(0)[:-1]
    ids = torch.stack([torch.randint(0, n, (count,), generator=generator) for n in fields], 1) + starts
    gradients = torch.randn(count, len(fields), dim, generator=generator)
    return ids, gradients, torch.randn(count, 1, generator=generator).expand(-1, len(fields)).clone()


def criterion(axes: str = "original", fields: list[int] | None = None) -> ExpectedInformation:
    made = ExpectedInformation(axes)  # type: ignore[arg-type]
    made.field_tokens = fields or FIELDS
    return made


def plain(ids: Tensor, gradients: Tensor, weight: Tensor, frequencies: Tensor) -> Tensor:
    """The docstring's four steps, one token and one axis at a time."""
    scores = torch.zeros(TOKENS, DIM, dtype=torch.float64)
    start = 0
    for field, tokens in enumerate(FIELDS):
        own = range(start, start + tokens)
        start += tokens
        share = len(ids) / sum(int(frequencies[v]) for v in own)
        for k in range(DIM):
            h = float((gradients[:, field, k].double() ** 2).mean())
            noise, target = {}, {}
            for v in own:
                seen = float(frequencies[v]) * h * share
                total = sum(float(gradients[b, field, k]) for b in range(len(ids)) if ids[b, field] == v)
                noise[v], target[v] = 1 / seen, float(weight[v, k]) - total / seen
            variance = 1e-3
            for _ in range(20):
                precision = {v: (variance + noise[v]) ** -2 for v in own}
                weighted = sum(precision[v] * (target[v] ** 2 - noise[v]) for v in own)
                variance = max(weighted / sum(precision.values()), 1e-9)
            for v in own:
                trust = variance / (variance + noise[v])
                s = float(frequencies[v]) * h * ((trust * target[v]) ** 2 + variance * (1 - trust))
                scores[v, k] = s * s / (1 + s)
    return scores


def test_it_is_the_formula() -> None:
    ids, gradients, _ = rows(40)
    weight = torch.randn(TOKENS, DIM, generator=torch.Generator().manual_seed(3))
    frequencies = torch.tensor([20, 35, 25, 70, 10])
    found = criterion()
    found.start(weight, None, frequencies)
    found.update_rows(ids, gradients)
    scores = found.scores(weight, None, frequencies)
    assert scores.basis is None
    assert scores.linear is None
    torch.testing.assert_close(scores.table.double(), plain(ids, gradients, weight, frequencies), rtol=1e-4, atol=1e-6)


def test_rows_that_are_seen_again_tell_nothing_new() -> None:
    ids, gradients, linear = rows(40)
    weight = torch.randn(TOKENS, DIM, generator=torch.Generator().manual_seed(3))
    frequencies = ids.reshape(-1).bincount(minlength=TOKENS)
    found = {}
    for epochs in (1, 3):
        one = criterion()
        one.start(weight, linear[:TOKENS, :1], frequencies)
        for _ in range(epochs):
            one.update_rows(ids, gradients, linear)
        found[epochs] = one.scores(weight, linear[:TOKENS, :1], frequencies)
    torch.testing.assert_close(found[1].table, found[3].table)
    torch.testing.assert_close(found[1].linear, found[3].linear)


def test_a_planted_spectrum_is_found_from_little_data() -> None:
    # A linear model: of a value's gradient -(w* - w) x² + noise, each row tells w* to within noise.
    tokens, dim, share = 4000, 3, 0.3
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([0.3, 0.1, 0.0])
    truth = torch.randn(tokens, dim, generator=generator) * spread
    frequencies = torch.randint(1, 100, (tokens,), generator=generator)
    owner = torch.repeat_interleave(torch.arange(tokens), frequencies)
    seen = owner[torch.rand(len(owner), generator=generator) < share]
    # Noise of variance 1 beside a signal that is small in each row: the information of a row is about 1.
    gradients = torch.randn(len(seen), 1, dim, generator=generator) - truth[seen].unsqueeze(1)
    found = criterion(fields=[tokens])
    weight = torch.zeros(tokens, dim)
    found.start(weight, None, frequencies)
    found.update_rows(seen.unsqueeze(1), gradients)
    scores = found.scores(weight, None, frequencies).table
    whole = frequencies.unsqueeze(1) * truth.square()  # what the rows of the whole training split would tell
    gain = whole.square() / (1 + whole)
    assert scores[:, 0].sum() == pytest.approx(float(gain[:, 0].sum()), rel=0.35)
    assert scores[:, 2].sum() < 0.02 * scores[:, 0].sum(), "an axis with nothing in it is worth nothing"
    # Tokens never seen in the window are judged by their field, the more the more rows they are going to have.
    unseen = torch.ones(tokens, dtype=torch.bool)
    unseen[seen] = False
    ranks = scores[unseen, 0][frequencies[unseen].argsort()]
    assert (ranks.diff() >= -1e-6).all()
    assert ranks[-1] > 0


def test_sums_over_rows_do_not_depend_on_batches() -> None:
    ids, gradients, linear = rows(30)
    weight, frequencies = torch.randn(TOKENS, DIM), torch.tensor([10, 10, 10, 20, 10])
    first = torch.randn(TOKENS, 1)
    whole, parts = criterion("principal"), criterion("principal")
    for each in (whole, parts):
        each.start(weight, first, frequencies)
    whole.update_rows(ids, gradients, linear)
    for part in (slice(0, 7), slice(7, 30)):
        parts.update_rows(ids[part], gradients[part], linear[part])
    one, other = whole.scores(weight, first, frequencies), parts.scores(weight, first, frequencies)
    torch.testing.assert_close(one.table, other.table)
    torch.testing.assert_close(one.linear, other.linear)
    # Added up over processes they are those of one.
    halves = []
    for part in (slice(0, 15), slice(15, 30)):
        half = criterion("principal")
        half.start(weight, first, frequencies)
        half.update_rows(ids[part], gradients[part], linear[part])
        halves.append(half.state())
    joined = criterion("principal")
    joined.load_state({name: halves[0][name] + halves[1][name] for name in halves[0]})
    torch.testing.assert_close(joined.scores(weight, first, frequencies).table, one.table)


def test_what_both_values_say_counts_once() -> None:
    ids, gradients, linear = rows(200)
    gradients[..., 0] = 2 * linear  # axis 0 and the first-order weight say the same
    weight, first = torch.full((TOKENS, DIM), 0.5), torch.full((TOKENS, 1), 0.1)
    frequencies = torch.tensor([60, 60, 80, 120, 80])
    found = criterion()
    found.start(weight, first, frequencies)
    found.update_rows(ids, gradients, linear)
    scores = found.scores(weight, first, frequencies)
    assert scores.linear is not None
    best = scores.table.max(dim=1)
    assert (best.values > 1).all()
    assert (scores.linear[best.indices == 0] < 1e-6).all()
    # With first-order weights that say more, it is the axis that adds nothing, and the others still do.
    weight, first = torch.full((TOKENS, DIM), 0.1), torch.full((TOKENS, 1), 3.0)
    scores = found.scores(weight, first, frequencies)
    assert (scores.table[:, 0] < 1e-6).all()
    assert (scores.linear > 1).all()  # type: ignore[operator]


@pytest.mark.parametrize("first_order", [False, True])
def test_given_other_information_it_is_the_formula_with_that(first_order: bool) -> None:
    ids, gradients, linear = rows(60)
    weight, first = torch.randn(TOKENS, DIM), torch.randn(TOKENS, 1) if first_order else None
    frequencies = torch.tensor([20, 35, 25, 70, 10])
    found = criterion("principal")
    found.start(weight, first, frequencies)
    found.update_rows(ids, gradients, linear if first_order else None)
    scores = found.scores(weight, first, frequencies)
    same = found.scores_given(found.information, frequencies)
    torch.testing.assert_close(same.table, scores.table)
    assert torch.equal(same.basis, scores.basis)  # type: ignore[arg-type]
    if first_order:
        torch.testing.assert_close(same.linear, scores.linear)
    # Nothing is told of the first field any more, and four times as much of the other one's axis 1; no value says what
    # another one does. s of s² / (1 + s) is then four times as large.
    told = found.information.table.clone()
    told[0] = 0
    apart = None if found.information.shared is None else torch.zeros_like(found.information.shared)
    before = found.scores_given(RowInformation(told, found.information.linear, apart), frequencies).table
    told[1, 1] *= 4
    after = found.scores_given(RowInformation(told, found.information.linear, apart), frequencies).table
    assert (after[: FIELDS[0]] == 0).all()
    gain = before[FIELDS[0] :, 1].double()
    signal = 4 * (gain + (gain.square() + 4 * gain).sqrt()) / 2
    torch.testing.assert_close(after[FIELDS[0] :, 1].double(), signal.square() / (1 + signal), rtol=1e-4, atol=1e-6)
    assert torch.equal(after[FIELDS[0] :, 0], before[FIELDS[0] :, 0])


def test_information_of_rows_by_hand() -> None:
    rows, squares = torch.tensor([2.0]).double(), torch.tensor([[8.0, 18.0]]).double()
    found = RowInformation.of_sums(rows, squares, torch.tensor([2.0]).double(), torch.tensor([[4.0, 3.0]]).double())
    assert found.table.tolist() == [[4.0, 9.0]]
    assert found.linear.tolist() == [1.0]  # type: ignore[union-attr]
    assert found.shared.tolist() == [[1.0, 0.25]]  # type: ignore[union-attr]
    other = RowInformation(torch.tensor([[1.0, 4.0]]), torch.tensor([9.0]), torch.tensor([[0.5, 0.0]]))
    between = found.halfway(other)
    assert between.table.tolist() == [[2.0, 6.0]]
    assert between.linear.tolist() == [3.0]  # type: ignore[union-attr]
    assert between.shared.tolist() == [[0.5, 0.0]]  # type: ignore[union-attr]
    rounded = RowInformation.of_sums(rows, torch.tensor([[8.0, 1e-12]]).double())
    assert rounded.table.tolist() == [[4.0, 0.0]], "rounding tells nothing"
    assert RowInformation.of_sums(torch.zeros(1).double(), torch.zeros(1, 2).double()).table.tolist() == [[0.0, 0.0]]


@given(st.integers(0, 10_000))
def test_scores_are_finite_and_never_negative(seed: int) -> None:
    ids, gradients, linear = rows(20, seed)
    gradients[..., 1] = 0  # an axis without any gradient
    weight, first = torch.randn(TOKENS, DIM), torch.randn(TOKENS, 1)
    frequencies = torch.tensor([0, 15, 5, 20, 0])
    found = criterion("principal")
    found.start(weight, first, frequencies)
    found.update_rows(ids, gradients, linear)
    scores = found.scores(weight, first, frequencies)
    for values in (scores.table, scores.linear):
        assert values is not None
        assert values.isfinite().all()
        assert (values >= 0).all()
    assert (scores.table[[0, 4]] == 0).all(), "a token that never occurs is worth nothing"
    assert (scores.table.sum(0).diff() <= 1e-4 * scores.table.sum()).all(), "axes come by what they are worth"
    assert scores.basis is not None
    torch.testing.assert_close(scores.basis.T @ scores.basis, torch.eye(DIM), atol=1e-5, rtol=0)


def test_it_says_what_is_wrong() -> None:
    with pytest.raises(BadInput, match=r"ExpectedInformation: axes 'principle' are unknown; did you mean 'principal'"):
        ExpectedInformation("principle")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="rounds is -1; it must be 0 or more"):
        ExpectedInformation(rounds=-1)
    found = criterion()
    with pytest.raises(RuntimeError, match="before scores"):
        found.scores_given(RowInformation(torch.ones(2, DIM)), torch.ones(TOKENS))
    ids, gradients, linear = rows(4)
    with pytest.raises(RuntimeError, match="before start"):
        found.update_rows(ids, gradients)
    with pytest.raises(RuntimeError, match="before start"):
        found.scores(torch.zeros(TOKENS, DIM), None, torch.ones(TOKENS))
    found.start(torch.zeros(TOKENS, DIM), None, torch.ones(TOKENS))
    with pytest.raises(ValueError, match="both start and update_rows"):
        found.update_rows(ids, gradients, linear)
    with pytest.raises(ValueError, match="no accumulator"):
        found.load_state({"table": torch.zeros(1)})
