"""What a value will be worth once it is trained, judged from a search that ends long before it is."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pme_lightning.embedding.distinct import DistinctTokens
from pme_lightning.errors import BadInput
from pme_lightning.search.across import ALONE
from pme_lightning.search.axes import known_axes, principal_axes
from pme_lightning.search.criterion import Criterion, KnowsFields, Scores
from pme_lightning.search.nesting import nested_axes
from pme_lightning.search.row_information import BANDS, RowInformation, band_sums
from pme_lightning.search.spectrum import Spectrum

# Twice the log loss of a row whose model knows nothing (p = 1/2): scores are in units of half a nat.
_MOST_OF_A_ROW = 2 * math.log(2)
# Tokens worked on at a time: intermediate results are in double precision, and there are some ten of them.
_CHUNK_ROWS = 1 << 13
# Of fewer tokens the criterion keeps where their rows stood as well: as much again as the table.
_KEEPS_STANDING = 1 << 18


@dataclass(frozen=True)
class _Expected:
    """What values are expected to be after full training.

    Attributes:
        squares: ``(V, D)``: ``E[w²]`` of embedding values, in turn.
        firsts: ``(V,)``: that of first-order weights; None without them.
        variance: float64 ``(F, D)``: the mean square of each field's true values, ``σ²``.
        first_variance: float64 ``(F,)``: that of its first-order weights.
    """

    squares: Tensor
    firsts: Tensor | None
    variance: Tensor
    first_variance: Tensor | None


class ExpectedInformation(KnowsFields, Criterion):
    r"""What each value is expected to save in log loss after full training: empirical Bayes on a short search.

    A score of what a token's row holds now underrates every token with few rows: they have hardly been trained when
    they are scored. This one estimates what the row *will* hold, in five steps, each for one field:

    1. **Information.** The mean of a row's squared gradient is the Fisher information that one row brings about a
       value. Two values whose gradients go together share it: where both are kept, one need not say what the other
       says. So values are taken in turn, as a token keeps them. ``h`` is what a row tells about a value beyond what it
       tells about those before, and ``w`` stands for ``w_k`` and what it would say of those after it, were they not
       there (:class:`~pme_lightning.search.in_turn.InTurn`): what the first ``k`` values save is then a sum, and the
       noise of one tells nothing of that of another. A token with ``n`` rows in the training split ends up with
       ``n h``. The more popular tokens of a field may differ from the rarer ones: ``h`` is taken times how much larger
       the squared gradients of a token's band of popularity are (1 row, 2 to 3, 4 to 7, ...) than those of the field.
    2. **Target.** One Newton step, ``t = w - Σg / Σh``, is an estimate of where a value is heading, with variance
       ``1 / Σh``, sums over the rows of the scoring window (each counted once, however many epochs it has).
    3. **Spectrum.** The tokens' true values have a variance ``σ²``, found from the targets by moments: ``t² - 1/Σh``
       has mean ``σ²``. Fields that repeat one another (a book, its author) share what is to be fitted, and of two that
       do each target has a quarter of the noise: ``t²`` has mean ``σ² + λ/Σh``, and since targets of more rows have
       less of it, ``λ`` can be found beside ``σ²``. Where it is below a half in the mean of a field's axes, nearer to
       a quarter than to 1, ``λ/Σh`` takes the place of ``1/Σh`` in that field.
    4. **Sizes.** Not all tokens have all values. A token of a field has ``d`` of them, the first ones, with a chance
       that is found, by expectation maximization, from the tokens that tell; its values are of a variance ``σ₊²``, and
       those beyond of a smaller one (:class:`~pme_lightning.search.spectrum.Spectrum`), so that the mean square of all
       is ``σ²``. Given its targets a token has a ``k``-th value with a chance of ``p``, and its expected square is
       ``E[w²] = p E₊ + (1 - p) E₋``, of either variance ``E = (r t)² + σ² (1 - r)`` with ``r = σ² / (σ² + 1/Σh)``. Of
       a token with few rows all this is what the field's are: it says little about itself. Here the target starts from
       the mean of where the row stood at each of its rows, and not from where it ends, with which what it has moved
       meanwhile counts twice; of 262,144 tokens and more it starts from the end, as it does for the spectrum.
    5. **Gain.** ``a = h E[w²]`` is twice what a value saves a row, by a square that knows no end, and no row can save
       more than ``ln 2``: the first ``k`` values of a token together save it ``A_k = c (1 - exp(-Σ a / c))``, with
       ``c = 2 ln 2``. With ``s = n (A_k - A_{k-1})``, the signal to noise of what full training can learn, the score
       is ``r ((2 - r) s - r)``, where ``r`` is what training shrinks the value by, ``√(s s₀) / (1 + √(s s₀))`` with the
       field's ``s₀ = n h σ²``: about ``s`` where there are rows enough to learn the value, less where there are not,
       and below 0 for a value of a frequent token that is next to nothing, which costs more than it saves.

    A first-order weight and an embedding value often say the same thing, such as how high a user rates in general.
    ``ρ²``, the squared correlation of their gradients over the rows of the field, that of the value in turn, is the
    share of the one that the other can say as well. Of a token's first-order weight and its best embedding value, the
    more informative one counts in full; the other's ``s`` is taken times ``1 - ρ²``.

    **Once more on the pruned model.** A value says little where its partners have been pruned: an item's tenth value
    is of no use to users that keep two. So ``h`` and ``ρ²`` are measured again on the model as the sizes leave it, by
    a few batches without training, new sizes are made with their geometric means, and so on, :attr:`rounds` times.
    A network listens to a value whose partners are gone, and makes nothing good of it: so ``h`` counts by the share
    that kept values save, to second order, of the ``Σ h w² / 2`` that they are expected to (:class:`RowInformation`).
    Sizes settle on the values whose partners stay as well.

    Without a network behind the embedding (FM) values learn only as their partners do, and one that is nothing yet may
    come to be something: tokens are expected to have all values there, and axes stay principal.

    The axes are those in which most tokens need few values (:func:`~pme_lightning.search.nested_axes`), turned from the
    principal ones of ``Σ_f h_f Σ_v n_v w_v w_vᵀ``: a field counts by how much its rows depend on it. The first value of
    a row is the one that most tokens need.

    **Axes of each field.** Where a backbone multiplies fields value by value (FM) they have to share axes. One with
    weights of its own for each field (DCN, a deep network) does as well with axes for each, the eigenvectors of ``Σ_v
    n_v w_v w_vᵀ`` of its own tokens, in the order of how much its rows depend on them: more of what a field says then
    stands in its first few values, at the price of a projection ``(D, D)`` a field. With ``auto`` the search makes
    sizes both ways, and takes the axes of each field where they save a tenth or more of the log loss that pruning costs
    along shared ones. Without rounds, ``auto`` is ``nested``.

    The sums hold one number a value, as much memory as the table, and of fewer than 262,144 tokens two. They are sums
    over rows: neither the batch size nor the number of processes matters.

    Args:
        axes: ``auto``; ``nested``, the same for all fields; ``principal``, those that they are turned from; ``field``,
            principal ones of each; or ``original``.
        rounds: how often ``h`` is measured again on the pruned model; 0: on the full-size one alone.

    Raises:
        BadInput: other axes, or less than 0 rounds; or, when scoring, a table or gradients that are not finite.

    Attributes:
        tries: the axes to choose among: of ``auto``, ``nested`` and ``field``. Scores are along the first of them
            until ``self.axes`` is set to another.

    Sources: empirical Bayes and its shrinkage after Efron and Morris, *Stein's estimation rule and its competitors*,
    JASA 1973; the Fisher score that it starts from as in Theis et al. 2018, arXiv:1801.05787. The combination is ours.
    """

    needs_rows: ClassVar[bool] = True
    splits: ClassVar[bool] = True
    per_token: ClassVar[tuple[str, ...]] = ("gradient", "linear_gradient", "met", "stood", "linear_stood")

    def __init__(
        self, axes: Literal["auto", "nested", "principal", "field", "original"] = "auto", rounds: int = 4
    ) -> None:
        known_axes("ExpectedInformation", axes, ("auto", "nested", "principal", "field", "original"))
        self.tries = ("nested", "field") if axes == "auto" else (axes,)
        self.axes = self.tries[0]
        if rounds < 0:
            raise BadInput(f"ExpectedInformation: rounds is {rounds}; it must be 0 or more")
        self.rounds = rounds
        self._sums: dict[str, Tensor] = {}
        self._expected: _Expected | None = None
        # Rows of the training split, field by field, where those of the tokens here do not add up to them.
        self._rows_of: Tensor | None = None
        # Of the rows that came last.
        self._distinct: DistinctTokens | None = None

    def start(self, weight: Tensor, linear: Tensor | None, frequencies: Tensor) -> None:
        fields, dim = len(self._fields(len(weight))), weight.shape[1]
        zeros = partial(weight.new_zeros, dtype=torch.float64)
        self.basis = None
        self._sums = {
            "rows": zeros(1),
            "gradient": torch.zeros_like(weight, requires_grad=False),
            "information": zeros(fields, dim, dim),
            "bands": zeros(2 if linear is None else 3, fields, BANDS),
        }
        if linear is not None:
            self._sums |= {
                "linear_gradient": weight.new_zeros(len(weight)),
                "linear_information": zeros(fields),
                "product": zeros(fields, dim),
            }
        if self.tokens.total(len(weight)) < _KEEPS_STANDING:
            self._sums |= {
                "met": weight.new_zeros(len(weight), dtype=torch.int32),
                "stood": torch.zeros_like(weight, requires_grad=False),
            }
            if linear is not None:
                self._sums["linear_stood"] = weight.new_zeros(len(weight))

    @torch.no_grad()
    def update_rows(
        self, ids: Tensor, frequencies: Tensor, row_grad: Tensor, linear_grad: Tensor | None = None
    ) -> None:
        if not self._sums:
            raise RuntimeError("ExpectedInformation.update_rows was called before start")
        if (linear_grad is None) != ("product" not in self._sums):
            raise ValueError("first-order weights must be given to both start and update_rows, or to neither")
        distinct, dtype = DistinctTokens.of(ids.reshape(-1)), self._sums["gradient"].dtype
        self.update_moments(frequencies, row_grad, linear_grad)
        column = None if linear_grad is None else distinct.sum(linear_grad.to(dtype).reshape(-1, 1))[:, 0]
        row_sums = distinct.sum(row_grad.to(dtype).reshape(ids.numel(), -1))
        self.update_tokens(distinct.tokens.long(), row_sums, column)
        self._distinct = distinct

    @torch.no_grad()
    def update_standing(
        self, weight: Tensor, linear: Tensor | None, tokens: Tensor | None = None, counts: Tensor | None = None
    ) -> None:
        if self._distinct is not None:
            tokens, counts = self._distinct.tokens.long(), self._distinct.counts
            self._distinct = None
        if "stood" not in self._sums or tokens is None or counts is None:
            return
        self._sums["met"].index_add_(0, tokens, counts.int())
        stood = self._sums["stood"]
        stood.index_add_(0, tokens, weight[tokens].to(stood.dtype) * counts.unsqueeze(1))
        if linear is not None:
            of_linear = self._sums["linear_stood"]
            of_linear.index_add_(0, tokens, linear[tokens, 0].to(of_linear.dtype) * counts)

    def _standing(self, end: Tensor, name: str, part: slice | Tensor) -> Tensor:
        """Returns where values stood, in the mean over the rows that looked them up; where they end, if none did.

        Args:
            end: Where they end, ``(n, ...)``.
            name: Of the sums.
            part: Which tokens.
        """
        if name not in self._sums:
            return end
        met = self._sums["met"][part].view(-1, *[1] * (end.ndim - 1))
        # What was pruned before is 0, wherever it stood.
        return torch.where((met > 0) & (end != 0), self._sums[name][part] / met.clamp(min=1), end)

    @torch.no_grad()
    def update_moments(self, frequencies: Tensor, row_grad: Tensor, linear_grad: Tensor | None = None) -> None:
        sums = self._sums
        sums["rows"] += len(row_grad)
        sums["bands"] += band_sums(frequencies, row_grad, linear_grad)
        # All products of a field's gradients at once, that at the first-order weight behind the others.
        parts = [row_grad] if linear_grad is None else [row_grad, linear_grad.unsqueeze(-1)]
        by_field = torch.cat([part.to(sums["gradient"].dtype).transpose(0, 1) for part in parts], 2)  # (F, B, D + 1)
        products, dim = by_field.transpose(1, 2) @ by_field, row_grad.shape[2]
        sums["information"] += products[:, :dim, :dim]
        if linear_grad is not None:
            sums["linear_information"] += products[:, dim, dim]
            sums["product"] += products[:, dim, :dim]

    @torch.no_grad()
    def update_tokens(self, tokens: Tensor, row_grad: Tensor, linear_grad: Tensor | None = None) -> None:
        sums = self._sums
        sums["gradient"].index_add_(0, tokens, row_grad.to(sums["gradient"].dtype))
        if linear_grad is not None:
            sums["linear_gradient"].index_add_(0, tokens, linear_grad.to(sums["linear_gradient"].dtype))

    @torch.no_grad()
    def scores(self, weight: Tensor, linear: Tensor | None, frequencies: Tensor) -> Scores:
        if not self._sums:
            raise RuntimeError("ExpectedInformation was asked for scores before start and update_rows")
        if "product" in self._sums and linear is None:
            raise ValueError("the first-order weights given to start are missing")
        if not bool(self._sums["information"].isfinite().all()):
            raise BadInput("the gradients of rows hold NaN or infinity: the search diverged; lower the learning rate")
        self._expected = None  # of axes that were tried before: as large as the table
        basis = self._axes(weight, frequencies)
        self.information = self._measured(basis)
        in_turn = self.information.in_turn
        assert in_turn is not None
        # Where tokens are split memory is short: what is expected takes the place of the sums, unless these are scored
        # along other axes too.
        in_place = self.tokens is not ALONE and len(self.tries) == 1
        squares = self._sums["gradient"] if in_place else torch.empty_like(weight)
        firsts = None if linear is None else weight.new_empty(len(weight))
        variances, first_variances = [], []

        def embeddings(field: int, axes: Tensor | None, part: slice | Tensor, mean: bool) -> tuple[Tensor, Tensor]:
            values, gradients = weight[part], self._sums["gradient"][part].double()
            values = (self._standing(values, "stood", part) if mean else values).double()
            if axes is not None:
                values, gradients = values @ axes, gradients @ axes
            return in_turn.values(field, values), in_turn.gradients(field, gradients)

        def linears(part: slice | Tensor, mean: bool) -> tuple[Tensor, Tensor]:
            assert linear is not None
            values = linear[part, 0]
            values = self._standing(values, "linear_stood", part) if mean else values
            return values.double().unsqueeze(1), self._sums["linear_gradient"][part].double().unsqueeze(1)

        for field, own in enumerate(self._own(len(weight))):
            told = partial(self.information.of_tokens, field)
            axes = None if basis is None else (basis if basis.ndim == 2 else basis[field]).double()
            rows = self.tokens.sum(frequencies[own].sum()) if self._rows_of is None else self._rows_of[field]
            epochs = self._sums["rows"].clamp(min=1) / rows.clamp(min=1)
            expect = partial(self._expect, own=own, frequencies=frequencies, epochs=epochs)
            found = expect(squares[own], looked_at=partial(embeddings, field, axes), told=told)
            variances.append(found.variance)
            if firsts is not None:
                of_firsts = partial(told, linear=True)
                found = expect(firsts[own].unsqueeze(1), looked_at=linears, told=of_firsts, shared=found.shared)
                first_variances.append(found.variance)
        of_first = torch.cat(first_variances) if first_variances else None
        self._expected = _Expected(squares, firsts, torch.stack(variances), of_first)
        spectrum = self._mean_squares(squares, frequencies)
        self.basis = basis
        scores = self.scores_given(self.information, frequencies)
        if not self.rounds:
            self._expected = None  # as large as the table
        return replace(scores, spectrum=spectrum)

    @torch.no_grad()
    def scores_given(self, information: RowInformation, frequencies: Tensor, tokens: Tensor | None = None) -> Scores:
        if self._expected is None:
            raise RuntimeError("ExpectedInformation was asked for scores given information before scores")
        squares, firsts = self._expected.squares, self._expected.firsts
        fields = self._own(len(squares))
        if tokens is not None:
            fields = _own_among(tokens, fields)
            squares, frequencies = squares[tokens], frequencies[tokens]
            firsts = None if firsts is None else firsts[tokens]
        # In main memory where tokens are split: that is where the budget is shared out then.
        home = squares.device if self.tokens is ALONE else torch.device("cpu")
        table = torch.empty_like(squares, device=home)
        column = None if firsts is None else torch.empty_like(firsts, device=home)
        for field, own in enumerate(fields):
            for part in _parts(own):
                own_rows = frequencies[part]
                counts = own_rows.double().unsqueeze(1)
                told = information.of_tokens(field, own_rows)
                signal = counts * _one_by_one(told * squares[part])
                usual = counts * told * self._expected.variance[field]
                if firsts is not None and column is not None:
                    assert information.shared is not None
                    assert self._expected.first_variance is not None
                    told_first = information.of_tokens(field, own_rows, linear=True)
                    usual_first = (counts * told_first)[:, 0] * self._expected.first_variance[field]
                    first = (counts * _one_by_one(told_first * firsts[part].unsqueeze(1)))[:, 0]
                    shared = information.shared[field]
                    best = signal.max(dim=1)
                    embedding_first = best.values >= first
                    alone = torch.where(embedding_first, first * (1 - shared[best.indices]), first)
                    column[part] = _gain(alone, usual_first).to(home)
                    signal = torch.where(embedding_first.unsqueeze(1), signal, signal * (1 - shared))
                table[part] = _gain(signal, usual).to(home)
        return Scores(table, column, self.basis)

    @torch.no_grad()
    def of_some(self, tokens: Tensor, frequencies: Tensor) -> ExpectedInformation:
        some, fields = copy.copy(self), self._own(len(frequencies))
        some.field_tokens = [own.stop - own.start for own in _own_among(tokens, fields)]
        some._rows_of = torch.stack([frequencies[own].sum() for own in fields])
        some._sums = self._sums | {name: self._sums[name][tokens] for name in self.per_token if name in self._sums}
        return some

    def _mean_squares(self, squares: Tensor, frequencies: Tensor) -> Tensor:
        """Returns the means ``(F, D)`` over the tokens of each field that have rows, given numbers of those here.

        Tokens without rows, as a vocabulary of other data may have many of, are not trained: they say nothing of how
        large values become.
        """
        own = self._own(len(squares))
        sums = squares.new_zeros(len(own), squares.shape[1], dtype=torch.float64)
        for total, field in zip(sums, own, strict=True):
            for part in _parts(field):
                total += squares[part].sum(0, dtype=torch.float64)
        counts = torch.stack([(frequencies[field] > 0).sum() for field in own]).unsqueeze(1)
        return self.tokens.sum(sums) / self.tokens.sum(counts).clamp(min=1)

    def _own(self, num_tokens: int) -> list[slice]:
        """Returns where each field's tokens stand among those that are here."""
        ends = list(itertools.accumulate(self._fields(num_tokens)))
        return [slice(end - count, end) for end, count in zip(ends, self._fields(num_tokens), strict=True)]

    def _measured(self, basis: Tensor | None) -> RowInformation:
        """Returns what the rows of the window said, in the axes of a basis ``(D, D)`` or ``(F, D, D)``."""
        sums = self._sums
        products = sums["information"]
        if basis is not None:
            products = basis.double().mT @ products @ basis.double()
        if "product" not in sums:
            return RowInformation.of_sums(sums["rows"], products, bands=sums["bands"])
        linear = sums["product"] if basis is None else (sums["product"].unsqueeze(1) @ basis.double()).squeeze(1)
        return RowInformation.of_sums(sums["rows"], products, sums["linear_information"], linear, sums["bands"])

    def _axes(self, weight: Tensor, frequencies: Tensor) -> Tensor | None:
        """Returns the axes to score along: ``(D, D)``, ``(F, D, D)``, or None for those of the table.

        Those of all fields start as the eigenvectors of the energy of the rows, each field weighted by its information.
        """
        if self.axes == "original":
            return None
        if self.axes == "field":
            own = zip(self._own(len(weight)), self._sums["information"], strict=True)
            return torch.stack([self._axes_of_a_field(weight[part], frequencies[part], told) for part, told in own])
        per_row = self._sums["information"].diagonal(dim1=1, dim2=2).mean(1) / self._sums["rows"].clamp(min=1)
        tokens = torch.tensor(list(self._fields(len(weight))), device=weight.device)
        precision = frequencies.double() * per_row.repeat_interleave(tokens)
        principal = principal_axes(weight, precision, self.tokens)
        if self.axes == "principal" or not self.has_network:
            return principal
        return nested_axes(weight, precision, principal, self.tokens)

    def _axes_of_a_field(self, weight: Tensor, frequencies: Tensor, information: Tensor) -> Tensor:
        """Returns the axes ``(D, D)`` of a field's tokens, in falling order of what rows depend on them."""
        found = principal_axes(weight, frequencies.double(), self.tokens, information)
        axes, energy = found.double(), information.new_zeros(len(found))
        for part in _parts(slice(0, len(weight))):
            energy += frequencies[part].double() @ (weight[part].double() @ axes).square()
        worth = self.tokens.sum(energy) * ((information @ axes) * axes).sum(0)
        return found[:, worth.argsort(descending=True, stable=True)]

    def state(self) -> dict[str, Tensor]:
        return dict(self._sums)

    def load_state(self, state: dict[str, Tensor]) -> None:
        known = {"rows", "bands", "information", "linear_information", "product", *self.per_token}
        if unknown := set(state) - known:
            raise ValueError(f"ExpectedInformation has no accumulator {sorted(unknown)}")
        self._sums = dict(state)

    def _expect(
        self,
        expected: Tensor,
        own: slice,
        looked_at: Callable[[slice | Tensor, bool], tuple[Tensor, Tensor]],
        told: Callable[[Tensor], Tensor],
        frequencies: Tensor,
        epochs: Tensor,
        shared: bool | None = None,
    ) -> Spectrum:
        """Writes ``E[w²]`` of the values of a field's tokens, 0 where no row tells anything; some tokens at a time.

        Args:
            expected: ``(n, K)``: where to.
            own: where the field's tokens stand among those that are here.
            looked_at: returns for some of them where values are, or are in the mean of the window, ``(m, K)`` float64,
                and their gradients, summed over the rows of the window.
            told: returns ``h``, what one row tells about them, ``(m, K)``, given their frequencies ``(m,)``.
            frequencies: ``(V,)``: rows of each token in the training split.
            epochs: how often the window has seen the training split.
            shared: whether the field shares its noise with others; None: to be found out.

        Returns:
            What the targets say of the field.
        """
        # A window of several epochs sees a token's rows several times, and learns no more from them.
        repeats = epochs.clamp(min=1)

        def seen_of(counts: Tensor) -> Tensor:
            """What the window tells about tokens of these frequencies."""
            return counts.double().unsqueeze(1) * told(counts) * epochs.clamp(max=1)

        def targets(counts: Tensor, part: slice | Tensor, mean: bool = False) -> tuple[Tensor, Tensor]:
            values, gradients = looked_at(part, mean)
            seen = seen_of(counts)
            known = seen > 0
            return torch.where(known, values - gradients / repeats / torch.where(known, seen, 1.0), 0), seen

        def some(of_these: Tensor, enough: int) -> tuple[Tensor, Tensor]:
            places = (torch.searchsorted(counts, frequencies[part]) for part in _parts(own))
            among = [of_these[place].nonzero().squeeze(1) for place in places]
            found = torch.cat([each + part.start for each, part in zip(among, _parts(own), strict=True)])
            found = found[:: max(1, len(found) // enough)]
            return targets(frequencies[found], found)

        counts = self.tokens.union(frequencies[own])
        seen = seen_of(counts)
        sums = torch.zeros_like(seen)
        number = torch.zeros_like(counts)
        for part in _parts(own):
            place = torch.searchsorted(counts, frequencies[part])
            sums.index_add_(0, place, targets(frequencies[part], part)[0].square())
            number += torch.bincount(place, minlength=len(counts))
        asked = some if self.has_network else None
        found = Spectrum.of_targets(self.tokens.sum(sums), self.tokens.sum(number), seen, shared, asked, self.tokens)
        for part in _parts(own):
            squares = found.squares(*targets(frequencies[part], part, mean=True))
            expected[part.start - own.start : part.stop - own.start] = squares
        return found


def _own_among(tokens: Tensor, fields: list[slice]) -> list[slice]:
    """Returns where each field's tokens stand among some, ``(n,)`` rising, given where they stand among all."""
    ends = torch.searchsorted(tokens, torch.tensor([own.stop for own in fields], device=tokens.device)).tolist()
    return [slice(start, end) for start, end in itertools.pairwise([0, *ends])]


def _parts(own: slice) -> Iterator[slice]:
    """Yields a range of tokens in pieces."""
    return (slice(start, min(start + _CHUNK_ROWS, own.stop)) for start in range(own.start, own.stop, _CHUNK_ROWS))


def _one_by_one(saved: Tensor) -> Tensor:
    """Returns what each value ``(n, K)`` saves a row beside those before it, which together save no more than all."""
    together = -_MOST_OF_A_ROW * torch.expm1(saved.cumsum(1) / -_MOST_OF_A_ROW)
    # Where nothing is left to save, rounding makes some of it negative.
    return torch.cat([together[:, :1], together.diff(dim=1)], 1).clamp(min=0)


def _gain(signal: Tensor, usual: Tensor) -> Tensor:
    """Returns what values save once they are trained, less what their noise costs.

    A value of signal to noise ``s`` that training shrinks to the share ``r`` of where its rows would take it saves
    ``r ((2 - r) s - r)``: at most ``s² / (1 + s)``, by the ``s / (1 + s)`` that is right for it alone. Training does
    not know each value's own; what it shrinks by is taken to lie halfway between that and what is right for the usual
    value of its field and axis. So a frequent token's value that is next to nothing costs more than it saves.
    """
    middle = (signal * usual).sqrt()
    shrunk = middle / (1 + middle)
    return shrunk * ((2 - shrunk) * signal - shrunk)
