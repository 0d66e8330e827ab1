"""Expected information against the formula written out, and against values that were planted."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pme_lightning.errors import BadInput
from pme_lightning.search import ExpectedInformation, RowInformation, information
from pme_lightning.search.spectrum import Spectrum

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


def plain_spectra(targets: list[float], noise: list[float]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Variance of what is behind targets and what share of the noise they have; and the variance if it is all of it."""
    variance, share = 1e-3, 1.0
    for _ in range(40):
        weights = [(variance + share * n) ** -2 for n in noise]
        # Weighted linear regression of squares on noise.
        middle = sum(w * n for w, n in zip(weights, noise, strict=True)) / sum(weights)
        height = sum(w * t**2 for w, t in zip(weights, targets, strict=True)) / sum(weights)
        slope = sum(w * (n - middle) * t**2 for w, t, n in zip(weights, targets, noise, strict=True))
        share = min(max(slope / sum(w * (n - middle) ** 2 for w, n in zip(weights, noise, strict=True)), 0), 1)
        variance = max(height - share * middle, 1e-9)
    alone = 1e-3
    for _ in range(20):
        weights = [(alone + n) ** -2 for n in noise]
        weighted = sum(w * (t**2 - n) for w, t, n in zip(weights, targets, noise, strict=True))
        alone = max(weighted / sum(weights), 1e-9)
    return (variance, share), (alone, 1.0)


def plain_sizes(
    targets: list[list[float]], noises: list[list[float]], variances: list[float]
) -> tuple[list[float], list[float], list[float]]:
    """Shares of tokens by size, and variances of values within and beyond it: 30 rounds, a token at a time."""
    axes = len(variances)
    shares, narrow = [1 / (axes + 1)] * (axes + 1), [0.02 * v for v in variances]

    def wide() -> list[float]:
        has = [sum(shares[k + 1 :]) for k in range(axes)]
        return [max((v - (1 - p) * n) / p, 1e-9) for v, p, n in zip(variances, has, narrow, strict=True)]

    for _ in range(30):
        chances = [plain_chances(t, n, shares, wide(), narrow) for t, n in zip(targets, noises, strict=True)]
        beyond = [[sum(of[: k + 1]) for k in range(axes)] for of in chances]
        shares = [sum(of[d] for of in chances) + (d == axes) for d in range(axes + 1)]
        shares = [max(share / (len(targets) + 1), 1e-9) for share in shares]
        squares = [
            sum(b[k] * expected_square(t[k], n[k], narrow[k]) for b, t, n in zip(beyond, targets, noises, strict=True))
            for k in range(axes)
        ]
        narrow = [min(squares[k] / max(sum(b[k] for b in beyond), 1e-9), 0.25 * variances[k]) for k in range(axes)]
    return shares, wide(), narrow


def plain_chances(
    target: list[float], noise: list[float], shares: list[float], wide: list[float], narrow: list[float]
) -> list[float]:
    def density(t: float, variance: float) -> float:
        return math.exp(-(t**2) / (2 * variance)) / math.sqrt(variance)

    of = [
        share
        * math.prod(
            density(t, n + (inside if k < d else beyond))
            for k, (t, n, inside, beyond) in enumerate(zip(target, noise, wide, narrow, strict=True))
        )
        for d, share in enumerate(shares)
    ]
    return [each / sum(of) for each in of]


def expected_square(target: float, noise: float, variance: float) -> float:
    trust = variance / (variance + noise)
    return (trust * target) ** 2 + variance * (1 - trust)


def plain_gain(signal: float, usual: float) -> float:
    """What is saved by a value ``√s`` that is estimated with noise 1, times ``r``: ``s - E(r (√s + noise) - √s)²``."""
    middle = math.sqrt(signal * usual)
    shrunk = middle / (1 + middle)
    return signal - (shrunk**2 + (1 - shrunk) ** 2 * signal)


def plain_in_turn(gradients: Tensor) -> tuple[Tensor, Tensor]:
    """What is left of gradients ``(B, D)`` of the values once those before them are fitted, and how they were fitted.

    Gram-Schmidt, a value at a time: ``gradients = left @ fitted.T``.
    """
    left, fitted = gradients.double().clone(), torch.eye(gradients.shape[1], dtype=torch.float64)
    for k in range(gradients.shape[1]):
        for j in range(k):
            fitted[k, j] = (gradients[:, k].double() @ left[:, j]) / (left[:, j] @ left[:, j])
            left[:, k] -= fitted[k, j] * left[:, j]
    return left, fitted


def plain(ids: Tensor, gradients: Tensor, weight: Tensor, frequencies: Tensor, stood: Tensor | None = None) -> Tensor:
    """The docstring's five steps, one token and one axis at a time; ``stood``: where rows did in the mean."""
    scores = torch.zeros(TOKENS, DIM, dtype=torch.float64)
    start = 0
    for field, tokens in enumerate(FIELDS):
        own = range(start, start + tokens)
        start += tokens
        share = len(ids) / sum(int(frequencies[v]) for v in own)
        energy = {b: float((gradients[b, field].double() ** 2).sum()) for b in range(len(ids))}
        mean = sum(energy.values()) / len(ids)
        popularity = {b: math.floor(math.log2(frequencies[ids[b, field]])) for b in range(len(ids))}
        more = {}
        for v in own:
            alike = [b for b in popularity if popularity[b] == math.floor(math.log2(frequencies[v]))]
            more[v] = (sum(energy[b] for b in alike) + 64 * mean) / ((len(alike) + 64) * mean)
        left, fitted = plain_in_turn(gradients[:, field])
        values = weight.double() @ fitted
        before = values if stood is None else stood.double() @ fitted
        saved, usual = torch.zeros(2, TOKENS, DIM, dtype=torch.float64)
        targets: dict[int, dict[int, float]] = {}
        noises: dict[int, dict[int, float]] = {}
        for k in range(DIM):
            h = float((left[:, k] ** 2).mean())
            noise, target = {}, {}
            for v in own:
                seen = float(frequencies[v]) * h * more[v] * share
                total = sum(float(left[b, k]) for b in range(len(ids)) if ids[b, field] == v)
                noise[v], target[v] = 1 / seen, float(values[v, k]) - total / seen
            targets[k], noises[k] = target, noise
        both = [plain_spectra(list(targets[k].values()), list(noises[k].values())) for k in range(DIM)]
        shared = sum(share for (_, share), _ in both) / DIM < 0.5
        variances, shares_of_noise = zip(*(each[0] if shared else each[1] for each in both), strict=True)
        target_of = {v: [targets[k][v] for k in range(DIM)] for v in own}
        noise_of = {v: [max(shares_of_noise[k] * noises[k][v], 1e-6 * variances[k]) for k in range(DIM)] for v in own}
        tell = [v for v in own if any(variances[k] > 2 * noise_of[v][k] for k in range(DIM))]
        sizes, wide, narrow = plain_sizes([target_of[v] for v in tell], [noise_of[v] for v in tell], list(variances))
        if not tell:
            sizes, wide, narrow = [1e-9] * DIM + [1.0], list(variances), list(variances)
        for v in own:
            target_of[v] = [target_of[v][k] - float(values[v, k]) + float(before[v, k]) for k in range(DIM)]
            chances = plain_chances(target_of[v], noise_of[v], sizes, wide, narrow)
            for k in range(DIM):
                has = sum(chances[k + 1 :])
                square = has * expected_square(target_of[v][k], noise_of[v][k], wide[k])
                square += (1 - has) * expected_square(target_of[v][k], noise_of[v][k], narrow[k])
                h = float((left[:, k] ** 2).mean()) * more[v]
                saved[v, k], usual[v, k] = h * square, float(frequencies[v]) * h * variances[k]
        for v in own:
            sum_before = 0.0
            for k in range(DIM):
                together = 2 * math.log(2) * (1 - math.exp(-float(saved[v, : k + 1].sum()) / (2 * math.log(2))))
                s = float(frequencies[v]) * (together - sum_before)
                sum_before = together
                scores[v, k] = plain_gain(s, float(usual[v, k]))
    return scores


def test_it_is_the_formula() -> None:
    ids, gradients, _ = rows(40)
    weight = torch.randn(TOKENS, DIM, generator=torch.Generator().manual_seed(3))
    frequencies = torch.tensor([20, 35, 25, 70, 10])
    found = criterion()
    found.start(weight, None, frequencies)
    found.update_rows(ids, frequencies[ids], gradients)
    scores = found.scores(weight, None, frequencies)
    assert scores.basis is None
    assert scores.linear is None
    torch.testing.assert_close(scores.table.double(), plain(ids, gradients, weight, frequencies), rtol=1e-4, atol=1e-6)


def test_targets_of_tokens_start_from_where_their_rows_stood_and_spectra_from_where_they_end() -> None:
    ids, gradients, linear = rows(40)
    frequencies = torch.tensor([20, 35, 25, 70, 10])
    ids[ids == 4] = 3  # that one is met by no row, and counts where it ends
    generator = torch.Generator().manual_seed(3)
    there = [torch.randn(TOKENS, DIM, generator=generator) for _ in range(2)]
    firsts = [torch.randn(TOKENS, 1, generator=generator) for _ in range(2)]
    there[1][0, 1] = 0  # pruned meanwhile
    found = criterion()
    found.start(there[0], firsts[0], frequencies)
    counts = []
    for part, weight, first in zip((slice(0, 13), slice(13, 40)), there, firsts, strict=True):
        found.update_rows(ids[part], frequencies[ids[part]], gradients[part], linear[part])
        found.update_standing(weight, first)
        counts.append(torch.bincount(ids[part].reshape(-1), minlength=TOKENS).unsqueeze(1))
    met = sum(counts).clamp(min=1)  # type: ignore[union-attr, call-overload]
    stood = sum(n * each for n, each in zip(counts, there, strict=True)) / met
    stood[4], stood[0, 1] = there[1][4], 0
    found.scores(there[1], firsts[1], frequencies)
    assert found._sums is not None
    without = criterion()
    without.start(there[1], None, frequencies)
    without.update_rows(ids, frequencies[ids], gradients)
    alone = without.scores(there[1], None, frequencies)
    torch.testing.assert_close(alone.table.double(), plain(ids, gradients, there[1], frequencies), rtol=1e-4, atol=1e-6)
    with_it = criterion()
    with_it.start(there[1], None, frequencies)
    with_it.load_state(
        {name: each for name, each in found.state().items() if "linear" not in name and name != "product"}
    )
    table = with_it.scores(there[1], None, frequencies).table
    torch.testing.assert_close(
        table.double(), plain(ids, gradients, there[1], frequencies, stood), rtol=1e-4, atol=1e-6
    )
    assert not torch.allclose(table, alone.table, rtol=0.01)
    # First-order weights, one value a token, alike.
    of_firsts = sum(n * each for n, each in zip(counts, firsts, strict=True)) / met
    of_firsts[4] = firsts[1][4]
    torch.testing.assert_close(
        found._sums.mean_standing(firsts[1][:, 0], slice(0, TOKENS), linear=True), of_firsts[:, 0]
    )


def test_of_many_tokens_nothing_is_kept_of_where_rows_stood(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, gradients, _ = rows(40)
    weight, frequencies = torch.randn(TOKENS, DIM), torch.tensor([20, 35, 25, 70, 10])
    sizes = []
    for limit in (TOKENS, TOKENS + 1):
        monkeypatch.setattr(information, "_KEEPS_STANDING", limit)
        found = criterion()
        found.start(weight, None, frequencies)
        found.update_rows(ids, frequencies[ids], gradients)
        found.update_standing(weight + 1, None)
        sizes.append(sum(found.state()[name].numel() for name in found.per_token if name in found.state()))
    assert sizes == [TOKENS * DIM, TOKENS * (2 * DIM + 1)]


@pytest.mark.parametrize("scale", [1.0, 0.05], ids=["noise", "little noise"])
@pytest.mark.parametrize("seed", range(4))
def test_the_formula_where_targets_have_less_noise_than_their_rows_say(scale: float, seed: int) -> None:
    # Gradients that add up to little, as they do where a model has fitted the rows, beside large single ones.
    ids, gradients, _ = rows(40, seed)
    gradients = torch.cat([gradients, scale * gradients - gradients])
    ids = torch.cat([ids, ids])
    weight = 0.1 * torch.randn(TOKENS, DIM, generator=torch.Generator().manual_seed(seed))
    frequencies = torch.tensor([20, 35, 25, 70, 10])
    found = criterion()
    found.start(weight, None, frequencies)
    found.update_rows(ids, frequencies[ids], gradients)
    scores = found.scores(weight, None, frequencies).table
    expected = plain(ids, gradients, weight, frequencies)
    torch.testing.assert_close(scores.double(), expected, rtol=1e-3, atol=1e-6)


def test_axes_of_each_field_are_those_of_its_tokens_alone() -> None:
    """Fields scored together along their own axes are scored as if each were all there is."""
    ids, gradients, linear = rows(60)
    weight = torch.randn(TOKENS, DIM, generator=torch.Generator().manual_seed(3))
    first = torch.randn(TOKENS, 1, generator=torch.Generator().manual_seed(4))
    frequencies = torch.tensor([20, 35, 25, 70, 10])
    together = criterion("field")
    together.start(weight, first, frequencies)
    together.update_rows(ids, frequencies[ids], gradients, linear)
    found = together.scores(weight, first, frequencies)
    assert found.basis is not None
    assert found.basis.shape == (len(FIELDS), DIM, DIM)
    for field, own in enumerate((slice(0, 3), slice(3, 5))):
        part = slice(field, field + 1)
        alone = criterion("principal", [FIELDS[field]])
        alone.start(weight[own], first[own], frequencies[own])
        alone.update_rows(ids[:, part] - own.start, frequencies[ids[:, part]], gradients[:, part], linear[:, part])
        expected = alone.scores(weight[own], first[own], frequencies[own])
        torch.testing.assert_close(found.basis[field].abs(), expected.basis.abs(), rtol=0, atol=1e-4)  # type: ignore[union-attr]
        torch.testing.assert_close(found.table[own], expected.table, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(found.linear[own], expected.linear, rtol=1e-3, atol=1e-4)  # type: ignore[index]
        torch.testing.assert_close(found.spectrum[field], expected.spectrum[0], rtol=1e-3, atol=1e-4)  # type: ignore[index]
        energy = frequencies[own].float() @ (weight[own] @ found.basis[field]).square()
        told = together.state()["information"][field].float()
        worth = energy * (found.basis[field].T @ told @ found.basis[field]).diagonal()
        assert (worth.diff() <= 1e-4 * worth.max()).all(), "in the order of what rows depend on them"
        torch.testing.assert_close(together.information.table[field], alone.information.table[0], rtol=1e-3, atol=1e-4)


def test_the_spectrum_is_the_mean_of_what_squares_are_expected_to_be() -> None:
    """With rows enough that targets have no noise it is their mean square, in the order of the axes."""
    ids, gradients, linear = rows(400, seed=5)
    weight = torch.randn(TOKENS, DIM, generator=torch.Generator().manual_seed(3)) * torch.tensor([0.2, 3.0, 1.0])
    first, frequencies = torch.zeros(TOKENS, 1), torch.bincount(ids.reshape(-1), minlength=TOKENS)
    gradients = gradients * 1e3  # a row tells a million times as much
    found = criterion("principal")
    found.start(weight, first, frequencies)
    found.update_rows(ids, frequencies[ids], gradients, linear)
    scores = found.scores(weight, first, frequencies)
    assert scores.basis is not None
    assert scores.spectrum is not None
    rotated = (weight @ scores.basis.float()).split(FIELDS)
    fitted = [plain_in_turn(gradients[:, field] @ scores.basis.float())[1].float() for field in range(len(FIELDS))]
    means = torch.stack([(own @ turn).square().mean(0) for own, turn in zip(rotated, fitted, strict=True)])
    torch.testing.assert_close(scores.spectrum.float(), means, rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("axes", ["original", "field"])
def test_tokens_without_rows_leave_the_spectrum_as_it_is(axes: str) -> None:
    ids, gradients, linear = rows(200, seed=5)
    weight = torch.randn(TOKENS, DIM, generator=torch.Generator().manual_seed(3))
    more, spectra = 4, []
    for others in (0, more):
        fields = [FIELDS[0] + others, *FIELDS[1:]]
        own = ids + others * (ids >= FIELDS[0])
        table = torch.cat([weight[: FIELDS[0]], torch.ones(others, DIM), weight[FIELDS[0] :]])
        first, frequencies = torch.zeros(len(table), 1), torch.bincount(own.reshape(-1), minlength=len(table))
        found = criterion(axes, fields)
        found.start(table, first, frequencies)
        found.update_rows(own, frequencies[own], gradients, linear)
        spectra.append(found.scores(table, first, frequencies).spectrum)
    torch.testing.assert_close(*spectra)


def test_auto_tries_shared_axes_and_those_of_each_field() -> None:
    assert ExpectedInformation().tries == ("nested", "field")
    assert ExpectedInformation().axes == "nested"
    assert ExpectedInformation("field").tries == ("field",)


def test_rows_that_are_seen_again_tell_nothing_new() -> None:
    _, gradients, linear = rows(36)
    # The tokens of a field are equally popular, and so in one band: a band's own rows count the more the more they are.
    ids = torch.stack([torch.arange(36) % 3, 3 + torch.arange(36) % 2], 1)
    weight = torch.randn(TOKENS, DIM, generator=torch.Generator().manual_seed(3))
    frequencies = ids.reshape(-1).bincount(minlength=TOKENS)
    found = {}
    for epochs in (1, 3):
        one = criterion()
        one.start(weight, linear[:TOKENS, :1], frequencies)
        for _ in range(epochs):
            one.update_rows(ids, frequencies[ids], gradients, linear)
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
    found.update_rows(seen.unsqueeze(1), frequencies[seen.unsqueeze(1)], gradients)
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


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4])
def test_values_are_found_where_fields_share_the_noise(share: float) -> None:
    # Targets with less noise than their rows tell of: to take all of it off would leave too little.
    tokens, spread = 4000, 0.1
    generator = torch.Generator().manual_seed(0)
    frequencies = torch.randint(1, 100, (tokens,), generator=generator)
    truth = torch.randn(tokens, 1, generator=generator) * spread
    weight = truth + torch.randn(tokens, 1, generator=generator) * (share / frequencies.unsqueeze(1)).sqrt()
    owner = torch.repeat_interleave(torch.arange(tokens), frequencies)
    # A row tells 1 about a value, and all rows of a token together that it is where it should be.
    sign = torch.randint(0, 2, (len(owner), 1, 1), generator=generator) * 2.0 - 1
    sums = torch.zeros(tokens, 1, 1).index_add_(0, owner, sign)
    gradients = sign - (sums / frequencies.view(-1, 1, 1))[owner]
    found = criterion(fields=[tokens])
    found.start(weight, None, frequencies)
    found.update_rows(owner.unsqueeze(1), frequencies[owner.unsqueeze(1)], gradients)
    found.scores(weight, None, frequencies)
    assert found._expected is not None
    assert found._expected.squares.mean() == pytest.approx(spread**2, rel=0.25)


def test_sums_over_rows_do_not_depend_on_batches() -> None:
    ids, gradients, linear = rows(30)
    weight, frequencies = torch.randn(TOKENS, DIM), torch.tensor([10, 10, 10, 20, 10])
    first = torch.randn(TOKENS, 1)
    whole, parts = criterion("principal"), criterion("principal")
    for each in (whole, parts):
        each.start(weight, first, frequencies)
    whole.update_rows(ids, frequencies[ids], gradients, linear)
    for part in (slice(0, 7), slice(7, 30)):
        parts.update_rows(ids[part], frequencies[ids[part]], gradients[part], linear[part])
    one, other = whole.scores(weight, first, frequencies), parts.scores(weight, first, frequencies)
    torch.testing.assert_close(one.table, other.table)
    torch.testing.assert_close(one.linear, other.linear)
    # Added up over processes they are those of one.
    halves = []
    for part in (slice(0, 15), slice(15, 30)):
        half = criterion("principal")
        half.start(weight, first, frequencies)
        half.update_rows(ids[part], frequencies[ids[part]], gradients[part], linear[part])
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
    found.update_rows(ids, frequencies[ids], gradients, linear)
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
    found.update_rows(ids, frequencies[ids], gradients, linear if first_order else None)
    scores = found.scores(weight, first, frequencies)
    same = found.scores_given(found.information, frequencies)
    torch.testing.assert_close(same.table, scores.table)
    assert torch.equal(same.basis, scores.basis)  # type: ignore[arg-type]
    if first_order:
        torch.testing.assert_close(same.linear, scores.linear)
    # Axis 1 of the second field alone tells something, and then a tenth of that; no value says what another one does.
    told = torch.zeros_like(found.information.table)
    told[1, 1] = 0.01
    apart = None if found.information.shared is None else torch.zeros_like(found.information.shared)
    before = found.scores_given(RowInformation(told, found.information.linear, apart), frequencies).table.double()
    after = found.scores_given(RowInformation(told / 10, found.information.linear, apart), frequencies).table.double()
    assert found._expected is not None
    most = 2 * math.log(2)
    for table, tells in ((before, 0.01), (after, 0.001)):
        for v in range(FIELDS[0], TOKENS):
            n, square = float(frequencies[v]), float(found._expected.squares[v, 1])
            signal = n * most * -math.expm1(-tells * square / most)
            usual = n * tells * float(found._expected.variance[1, 1])
            assert float(table[v, 1]) == pytest.approx(plain_gain(signal, usual), rel=1e-4, abs=1e-6)
    for table in (before, after):
        assert (table[FIELDS[0] :, 1] != 0).all()
        table[FIELDS[0] :, 1] = 0
        assert (table == 0).all()


def test_a_token_never_saves_more_than_its_rows_can_lose() -> None:
    ids, gradients, linear = rows(200)
    weight, first = torch.full((TOKENS, DIM), 100.0), torch.full((TOKENS, 1), 0.01)
    frequencies = torch.tensor([60, 60, 80, 120, 80])
    found = criterion()
    found.start(weight, first, frequencies)
    found.update_rows(ids, frequencies[ids], gradients, linear)
    scores = found.scores(weight, first, frequencies).table
    assert (scores.sum(1) < 2 * math.log(2) * frequencies).all()
    assert (scores[:, 0] > 0.9 * 2 * math.log(2) * frequencies).all(), "all of which the first value saves already"


def test_rows_of_popular_tokens_may_tell_less() -> None:
    # One field of a popular token, whose gradients are a tenth of those of ten rarer ones.
    generator = torch.Generator().manual_seed(0)
    frequencies = torch.tensor([1000] + [100] * 10)
    ids = torch.arange(11).repeat_interleave(frequencies).unsqueeze(1)
    gradients = torch.randn(2000, 1, DIM, generator=generator)
    gradients[:1000] *= 0.1
    found = criterion(fields=[11])
    found.start(torch.zeros(11, DIM), None, frequencies)
    found.update_rows(ids, frequencies[ids], gradients)
    found.scores(torch.zeros(11, DIM), None, frequencies)
    told = found.information.of_tokens(0, frequencies)
    torch.testing.assert_close(told[0], torch.full((DIM,), 0.01).double(), rtol=4.0, atol=0)
    torch.testing.assert_close(told[5], torch.ones(DIM).double(), rtol=0.15, atol=0)
    assert (told[0] < 0.06).all(), "64 rows of the field's speak for it too"


@given(st.integers(0, 10_000), st.sampled_from([0.01, 1.0, 30.0]))
def test_scores_are_finite_and_cost_no_more_than_their_noise(seed: int, scale: float) -> None:
    ids, gradients, linear = rows(20, seed)
    gradients[..., 1] = 0  # an axis without any gradient
    weight, first = scale * torch.randn(TOKENS, DIM), scale * torch.randn(TOKENS, 1)
    frequencies = torch.tensor([0, 15, 5, 20, 0])
    found = criterion("nested")
    found.start(weight, first, frequencies)
    found.update_rows(ids, frequencies[ids], gradients, linear)
    scores = found.scores(weight, first, frequencies)
    for values in (scores.table, scores.linear):
        assert values is not None
        assert values.isfinite().all()
        assert (values >= -1).all()
    assert (scores.table[[0, 4]] == 0).all(), "a token that never occurs is worth nothing"
    assert scores.basis is not None
    torch.testing.assert_close(scores.basis.T @ scores.basis, torch.eye(DIM), atol=1e-5, rtol=0)


@pytest.mark.parametrize("axes", ["nested", "principal", "field"])
def test_axes_lie_in_memory_as_a_file_gives_them_back(axes: str) -> None:
    """Products with them round by how they lie: a fine-tune from saved sizes is that of a whole run, bit by bit."""
    ids, gradients, _ = rows(40)
    weight = torch.randn(TOKENS, DIM, generator=torch.Generator().manual_seed(3))
    frequencies = torch.tensor([20, 35, 25, 70, 10])
    found = criterion(axes)
    found.start(weight, None, frequencies)
    found.update_rows(ids, frequencies[ids], gradients)
    basis = found.scores(weight, None, frequencies).basis
    assert basis is not None
    assert basis.is_contiguous()


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
        found.update_rows(ids, ids, gradients)
    with pytest.raises(RuntimeError, match="before start"):
        found.scores(torch.zeros(TOKENS, DIM), None, torch.ones(TOKENS))
    found.start(torch.zeros(TOKENS, DIM), None, torch.ones(TOKENS))
    with pytest.raises(ValueError, match="both start and update_rows"):
        found.update_rows(ids, ids, gradients, linear)
    with pytest.raises(ValueError, match="no accumulator"):
        found.load_state({"table": torch.zeros(1)})


@pytest.mark.parametrize("axes", ["principal", "field"])
@pytest.mark.parametrize("first_order", [False, True])
def test_some_tokens_score_what_they_do_among_all(axes: str, first_order: bool) -> None:
    """Every token stands twice in the table, the second time among those that are left out."""
    fields = [4, 6]
    ids, gradients, linear = (torch.cat([each, each]) for each in rows(150, fields=[2, 3], dim=DIM))
    # Small values, and gradients that add up to nothing: how many values tokens have is asked of those that tell it,
    # and here none does.
    gradients[150:], linear[150:] = -gradients[150:], -linear[150:]
    once = ids + torch.tensor([0, 2])  # the first halves of the fields of 4 and 6
    both = torch.cat([once, once + torch.tensor([2, 3])])
    generator = torch.Generator().manual_seed(5)
    half, firsts = 0.01 * torch.randn(5, DIM, generator=generator), 0.01 * torch.randn(5, 1, generator=generator)
    places = torch.tensor([0, 1, 0, 1, 2, 3, 4, 2, 3, 4])
    weight, first = half[places], firsts[places] if first_order else None
    frequencies = torch.tensor([100, 250, 60, 130, 400])[places]
    found = criterion(axes, fields)
    found.start(weight, first, frequencies)
    found.update_rows(both, frequencies[both], gradients.repeat(2, 1, 1), linear.repeat(2, 1) if first_order else None)
    tokens = torch.tensor([0, 1, 4, 5, 6])
    some = found.of_some(tokens, frequencies)
    assert some.field_tokens == [2, 3]
    theirs = some.scores(weight[tokens], None if first is None else first[tokens], frequencies[tokens])
    scores = found.scores(weight, first, frequencies)
    torch.testing.assert_close(theirs.basis.abs(), scores.basis.abs())  # type: ignore[union-attr]
    torch.testing.assert_close(theirs.table, scores.table[tokens])
    again = found.scores_given(found.information, frequencies, tokens)
    assert torch.equal(again.table, found.scores_given(found.information, frequencies).table[tokens])
    if first_order:
        torch.testing.assert_close(theirs.linear, scores.linear[tokens])  # type: ignore[index]
        assert torch.equal(again.linear, found.scores_given(found.information, frequencies).linear[tokens])  # type: ignore[index, arg-type]


def test_without_a_network_axes_are_principal_and_tokens_expected_to_have_all_values() -> None:
    generator = torch.Generator().manual_seed(2)
    tokens, fields = 400, [400]
    frequencies = torch.randint(50, 500, (tokens,), generator=generator)
    # Half of the tokens have a value along one axis alone.
    weight = torch.randn(tokens, DIM, generator=generator) @ torch.linalg.qr(torch.randn(DIM, DIM)).Q
    weight[::2] = torch.randn(tokens // 2, 1, generator=generator) * weight[0]
    ids = torch.repeat_interleave(torch.arange(tokens), frequencies).unsqueeze(1)
    gradients = torch.randn(len(ids), 1, DIM, generator=generator)
    made = {}
    for has_network in (True, False):
        made[has_network] = criterion("nested", fields)
        made[has_network].has_network = has_network
        made[has_network].start(weight, None, frequencies)
        made[has_network].update_rows(ids, frequencies[ids], gradients)
    scores = {each: found.scores(weight, None, frequencies) for each, found in made.items()}
    plain = criterion("principal", fields)
    plain.start(weight, None, frequencies)
    plain.update_rows(ids, frequencies[ids], gradients)
    principal = plain.scores(weight, None, frequencies)
    torch.testing.assert_close(scores[False].basis, principal.basis)
    assert not torch.allclose(scores[True].basis.abs(), principal.basis.abs(), atol=0.01)  # type: ignore[union-attr, arg-type]
    expected = made[False]._expected
    assert expected is not None
    # One variance for all tokens: the less a token's rows leave open, the nearer to its target squared.
    told = frequencies.unsqueeze(1) * made[False].information.of_tokens(0, frequencies)
    basis = scores[False].basis.double()  # type: ignore[union-attr]
    left, fitted = plain_in_turn(gradients[:, 0].double() @ basis)
    sums = torch.zeros(tokens, DIM).double().index_add_(0, ids[:, 0], left)
    targets = weight.double() @ basis @ fitted - sums / told
    trust = expected.variance / (expected.variance + 1 / told)
    squares = (trust * targets).square() + expected.variance * (1 - trust)
    torch.testing.assert_close(expected.squares.double(), squares, rtol=1e-3, atol=1e-5)


def test_some_tokens_at_even_distances_are_asked_how_many_values_they_have(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def of_targets(cls: type, sums: Tensor, number: Tensor, seen: Tensor, shared: object, some: object, *_: object):  # type: ignore[no-untyped-def]
        asked.append(some(torch.arange(len(seen)) > 0, 100))  # type: ignore[operator]
        return before(cls, sums, number, seen, shared, None)

    before = Spectrum.of_targets.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(Spectrum, "of_targets", classmethod(of_targets))
    tokens = 20_000
    frequencies = 1 + torch.arange(tokens) % 4  # tokens seen once tell nothing here
    weight = torch.zeros(tokens, DIM)
    weight[:, 0] = torch.arange(tokens)
    found = criterion(fields=[tokens])
    found.start(weight, None, frequencies)
    ids = torch.tensor([[0], [1]])
    found.update_rows(ids, frequencies[ids], torch.tensor([[[1.0] * DIM], [[-1.0] * DIM]]))
    found.scores(weight, None, frequencies)
    ((targets, seen),) = asked
    assert 100 <= len(targets) <= 200
    told = [token for token in range(tokens) if token % 4][:: 15_000 // 100]
    kept = [token for token in told if token > 1]  # those that no row has are where they were
    torch.testing.assert_close(targets[-len(kept) :, 0], torch.tensor(kept).double())
    assert len(seen) == len(told) == len(targets)


def test_a_field_that_the_backbone_does_not_listen_to_has_axes_however_many_rows_it_has() -> None:
    weight, frequencies = torch.randn(6, 3), torch.full((6,), 10**9)
    criterion = ExpectedInformation(axes="field", rounds=0)
    criterion.field_tokens = [3, 3]
    criterion.start(weight, None, frequencies)
    ids, gradients = torch.tensor([[0, 3], [1, 4], [2, 5], [0, 5]]), torch.randn(4, 2, 3)
    gradients[:, 1] = 0
    criterion.update_rows(ids, frequencies[ids], gradients)
    scores = criterion.scores(weight, None, frequencies)
    assert scores.table.isfinite().all()
    assert not scores.table[3:].any()


@pytest.mark.parametrize("axes", ["nested", "principal", "field", "original"])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 1e25])
def test_gradients_that_are_no_numbers_are_told(axes: str, wrong: float) -> None:
    weight, frequencies = torch.randn(6, 3), torch.full((6,), 10)
    criterion = ExpectedInformation(axes=axes, rounds=0)  # type: ignore[arg-type]
    criterion.field_tokens = [3, 3]
    criterion.start(weight, None, frequencies)
    ids, gradients = torch.tensor([[0, 3], [1, 4]]), torch.randn(2, 2, 3)
    gradients[0, 1, 2] = wrong
    criterion.update_rows(ids, frequencies[ids], gradients)
    with pytest.raises(BadInput, match="the gradients of rows hold NaN or infinity: the search diverged"):
        criterion.scores(weight, None, frequencies)
