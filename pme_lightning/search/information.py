"""What a value will be worth after full training, estimated from a search that ends long before."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pme_lightning.embedding.distinct import DistinctTokens
from pme_lightning.embedding.fields import field_slices, for_each_token
from pme_lightning.embedding.row_chunks import FEW_ROWS, row_chunks
from pme_lightning.errors import BadInput
from pme_lightning.search.across import ALONE
from pme_lightning.search.axes import axes_by_worth, known_axes, principal_axes
from pme_lightning.search.criterion import Criterion, KnowsFields, Scores
from pme_lightning.search.gain import gain, said_once, signal_to_noise
from pme_lightning.search.nesting import nested_axes
from pme_lightning.search.row_information import RowInformation
from pme_lightning.search.row_sums import PER_TOKEN, RowSums
from pme_lightning.search.targets import Targets

# With fewer tokens, the criterion also keeps the mean values of their rows, which takes the memory of another table.
_KEEPS_STANDING = 1 << 18


@dataclass(frozen=True)
class _Expected:
    """Expected squares after full training of ``K`` values of each token: embedding values or first-order weights.

    Attributes:
        squares: ``(V, K)``: ``E[w²]``; of embedding values, taken in turn.
        variance: float64 ``(F, K)``: the mean square of each field's true values, ``σ²``.
    """

    squares: Tensor
    variance: Tensor


class ExpectedInformation(KnowsFields, Criterion):
    r"""What each value is expected to save in log loss after full training: empirical Bayes on a short search.

    A score of what a row holds now underrates tokens with few rows, because they have hardly been trained when they are
    scored. This criterion estimates what a row *will* hold, in five steps, for each field separately. In the formulas,
    ``w`` is a value, ``g`` the gradient of a row's loss with respect to it, and ``n`` the number of training rows of
    the token. Sums are over the rows of the scoring window.

    1. **Information.** The mean of ``g²`` is the Fisher information that one row gives about a value. Two values with
       correlated gradients share information: if both are kept, the second need not say what the first one says. So
       values are taken in turn, in the order in which a token keeps them
       (:class:`~pme_lightning.search.in_turn.InTurn`). ``h`` is what a row tells about a value beyond the values before
       it, and ``w`` stands for ``w_k`` plus what it would say in place of later values, if these were missing. What
       the first ``k`` values save is then a sum, and the errors of values are independent. In total, a token gets
       ``n h``. Popular and rare tokens of a field may differ: ``h`` is multiplied by the mean squared gradient of the
       token's popularity band (1 row, 2 to 3, 4 to 7, ...) over that of the field.
    2. **Target.** One Newton step, ``t = w - Σg / Σh``, estimates where a value is heading, with variance ``1 / Σh``.
       Each row counts once, however many epochs the window has.
    3. **Spectrum.** The variance ``σ²`` of the tokens' true values is estimated from the targets by the method of
       moments: the mean of ``t² - 1/Σh`` is ``σ²``. Fields that repeat one another (a book and its author) share what
       is to be fitted, and their targets have less noise: two fields that say the same have a quarter of it. The mean
       of ``t²`` is then ``σ² + λ/Σh``. As targets with more rows have less noise, ``λ`` can be estimated together with
       ``σ²``. If the mean of ``λ`` over a field's axes is below one half (in proportion, nearer to a quarter than to
       1), ``λ/Σh`` replaces ``1/Σh`` in that field.
    4. **Sizes.** Not all tokens have all values. A token has the first ``d`` of them, with a probability that
       expectation maximization estimates from the tokens whose values can be told from noise. Values that a token has
       are of variance ``σ₊²``, and those beyond are of a smaller variance, such that the mean square of all is ``σ²``
       (:class:`~pme_lightning.search.spectrum.Spectrum`). Given its targets, a token has a ``k``-th value with
       probability ``p``, and the expected square is ``E[w²] = p E₊ + (1 - p) E₋``. For either variance,
       ``E = (r t)² + σ² (1 - r)`` with ``r = σ² / (σ² + 1/Σh)``. A token with few rows says little about itself: it
       then gets what is usual in its field. In this step, targets start from the mean of the values that the row had
       at each of its lookups. If they started from its final values, as they do for the spectrum, its movement in the
       window would count twice. With 262,144 tokens or more, they start from the final values here, too.
    5. **Gain.** ``a = h E[w²]`` is twice what a value saves per row in the quadratic approximation, which has no upper
       limit. But no row can save more than ``ln 2``. So the first ``k`` values of a token together save
       ``A_k = c (1 - exp(-Σ a / c))`` per row, with ``c = 2 ln 2``. The signal-to-noise ratio of what full training can
       learn is ``s = n (A_k - A_{k-1})``, and the score is ``r ((2 - r) s - r)``. Here
       ``r = √(s s₀) / (1 + √(s s₀))`` is the factor by which training shrinks the value, with ``s₀ = n h σ²``, the
       usual signal of the field. The score is about ``s`` if there are enough rows to learn the value, and less
       otherwise. It is below 0 for a value of a frequent token that is close to zero: such a value costs more than it
       saves.

    A first-order weight and an embedding value often say the same thing, such as how high a user rates in general.
    The share of one that the other can say as well is ``ρ²``, the squared correlation of their gradients (for the
    value, of those taken in turn) over the rows of the field. Of a token's first-order weight and its best embedding
    value, the more informative one counts in full; the ``s`` of the other is multiplied by ``1 - ρ²``.

    **Repeated on the pruned model.** A value says little if its partners have been pruned: an item's tenth value is of
    no use to users that keep two. So ``h`` and ``ρ²`` are measured again on the pruned model, on a few batches, without
    training. New sizes are made with the geometric means, and so on, :attr:`rounds` times. A network still reads a
    value whose partners are gone, but gains nothing from it. So ``h`` is multiplied by the share that kept values
    actually save, to second order, of the ``Σ h w² / 2`` that they are expected to save (:class:`RowInformation`).
    Sizes converge to values whose partners are kept, too.

    Without a network behind the embedding (FM), values learn only as their partners do, and one that is still close to
    zero may grow later. There, all tokens are expected to have all values, and axes stay principal.

    **Axes** are by default those along which most tokens need few values (:func:`~pme_lightning.search.nested_axes`),
    rotated from the principal axes of ``Σ_f h_f Σ_v n_v w_v w_vᵀ``: a field counts by how much its rows depend on it.
    The first value of a row is the one that most tokens need.

    **Axes of each field.** If a backbone multiplies fields value by value (FM), fields have to share axes. A
    backbone with separate weights for each field (DCN, a deep network) works just as well with axes for each field:
    the eigenvectors of ``Σ_v n_v w_v w_vᵀ`` over its own tokens, ordered by how much its rows depend on them. The
    first few values then carry more of what a field says, at the cost of one ``(D, D)`` projection per field. With
    ``auto``, the search makes sizes both ways, and uses the axes of each field if they save a tenth or more of the
    log loss that pruning costs along shared axes, and if their projections leave seven eighths of the values that
    shared axes leave. Without rounds, ``auto`` means ``nested``.

    The sums take as much memory as the table, or twice as much with fewer than 262,144 tokens. They are sums over
    rows: neither the batch size nor the number of processes matters.

    Args:
        axes: which axes to score along: ``auto``, ``nested``, ``field``, ``principal`` or ``original``. ``nested`` axes
            are shared by all fields, and so are the ``principal`` axes that they start from; ``field`` means principal
            axes of each field, ``auto`` the better of ``nested`` and ``field``.
        rounds: how often ``h`` is measured again on the pruned model; 0: only on the full-size model.

    Raises:
        BadInput: unknown axes, or fewer than 0 rounds; or, when scoring, a table or gradients that are not finite.

    Attributes:
        tries: the axes to choose among; for ``auto``, ``nested`` and ``field``. Scores are along the first of them
            until ``self.axes`` is set to another.

    Sources: empirical Bayes and its shrinkage after Efron and Morris, *Stein's estimation rule and its competitors*,
    JASA 1973; the Fisher score that it starts from as in Theis et al. 2018, arXiv:1801.05787. The combination is ours.
    """

    needs_rows: ClassVar[bool] = True
    splits: ClassVar[bool] = True
    per_token: ClassVar[tuple[str, ...]] = PER_TOKEN

    def __init__(
        self, axes: Literal["auto", "nested", "principal", "field", "original"] = "auto", rounds: int = 4
    ) -> None:
        known_axes("ExpectedInformation", axes, ("auto", "nested", "principal", "field", "original"))
        self.tries = ("nested", "field") if axes == "auto" else (axes,)
        self.axes = self.tries[0]
        if rounds < 0:
            raise BadInput(f"ExpectedInformation: rounds is {rounds}; it must be 0 or more")
        self.rounds = rounds
        self._sums: RowSums | None = None
        # Of embedding values, and of first-order weights.
        self._expected: _Expected | None = None
        self._expected_first: _Expected | None = None
        # Training rows of each field, if the frequencies of the tokens held here do not add up to them.
        self._rows_of: Tensor | None = None
        # The distinct tokens of the last rows.
        self._distinct: DistinctTokens | None = None

    def start(self, weight: Tensor, linear: Tensor | None, frequencies: Tensor) -> None:
        self.basis = None
        keeps_standing = self.tokens.total(len(weight)) < _KEEPS_STANDING
        self._sums = RowSums.zeros(weight, linear, len(self._fields(len(weight))), keeps_standing)

    @torch.no_grad()
    def update_rows(
        self, ids: Tensor, frequencies: Tensor, row_grad: Tensor, linear_grad: Tensor | None = None
    ) -> None:
        sums = self._sums
        if sums is None:
            raise RuntimeError("ExpectedInformation.update_rows was called before start")
        if (linear_grad is None) != (sums.product is None):
            raise ValueError("first-order weights must be given to both start and update_rows, or to neither")
        distinct, dtype = DistinctTokens.of(ids.reshape(-1)), sums.gradient.dtype
        sums.add_moments(frequencies, row_grad, linear_grad)
        column = None if linear_grad is None else distinct.sum(linear_grad.to(dtype).reshape(-1, 1))[:, 0]
        row_sums = distinct.sum(row_grad.to(dtype).reshape(ids.numel(), -1))
        sums.add_tokens(distinct.tokens.long(), row_sums, column)
        self._distinct = distinct

    @torch.no_grad()
    def update_standing(
        self, weight: Tensor, linear: Tensor | None, tokens: Tensor | None = None, counts: Tensor | None = None
    ) -> None:
        if self._distinct is not None:
            tokens, counts = self._distinct.tokens.long(), self._distinct.counts
            self._distinct = None
        if self._sums is not None and tokens is not None and counts is not None:
            self._sums.add_standing(weight, linear, tokens, counts)

    @torch.no_grad()
    def update_moments(self, frequencies: Tensor, row_grad: Tensor, linear_grad: Tensor | None = None) -> None:
        assert self._sums is not None
        self._sums.add_moments(frequencies, row_grad, linear_grad)

    @torch.no_grad()
    def update_tokens(self, tokens: Tensor, row_grad: Tensor, linear_grad: Tensor | None = None) -> None:
        assert self._sums is not None
        self._sums.add_tokens(tokens, row_grad, linear_grad)

    @torch.no_grad()
    def scores(self, weight: Tensor, linear: Tensor | None, frequencies: Tensor) -> Scores:
        sums = self._sums
        if sums is None:
            raise RuntimeError("ExpectedInformation was asked for scores before start and update_rows")
        if sums.product is not None and linear is None:
            raise ValueError("the first-order weights given to start are missing")
        if not bool(sums.information.isfinite().all()):
            raise BadInput("the gradients of rows hold NaN or infinity: the search diverged; lower the learning rate")
        self._forget_expected()  # for axes that were tried before
        basis = self._axes(sums, weight, frequencies)
        self.information = sums.row_information(basis)
        self._expect(sums, weight, linear, frequencies, basis)
        spectrum = self._mean_squares(frequencies)
        self.basis = basis
        scores = self.scores_given(self.information, frequencies)
        if not self.rounds:
            self._forget_expected()
        return replace(scores, spectrum=spectrum)

    @torch.no_grad()
    def scores_given(self, information: RowInformation, frequencies: Tensor, tokens: Tensor | None = None) -> Scores:
        if self._expected is None:
            raise RuntimeError("ExpectedInformation was asked for scores given information before scores")
        found, of_first = self._expected, self._expected_first
        fields = self._own(len(found.squares))
        if tokens is not None:
            fields, frequencies = _own_among(tokens, fields), frequencies[tokens]
            found = replace(found, squares=found.squares[tokens])
            of_first = None if of_first is None else replace(of_first, squares=of_first.squares[tokens])
        # If tokens are split, in main memory, where the budget is then shared out.
        home = found.squares.device if self.tokens is ALONE else torch.device("cpu")
        table = torch.empty_like(found.squares, device=home)
        column = None if of_first is None else torch.empty_like(of_first.squares[:, 0], device=home)

        def signals(of: _Expected, field: int, part: slice, linear: bool) -> tuple[Tensor, Tensor]:
            """Returns the signal-to-noise ratio of values, and that of the usual value of their field and axis."""
            told = information.of_tokens(field, frequencies[part], linear)
            usual = frequencies[part].double().unsqueeze(1) * told * of.variance[field]
            return signal_to_noise(told, of.squares[part], frequencies[part]), usual

        for field, own in enumerate(fields):
            for part in _parts(own):
                signal, usual = signals(found, field, part, linear=False)
                if of_first is not None and column is not None:
                    assert information.shared is not None
                    first, usual_first = signals(of_first, field, part, linear=True)
                    signal, first = said_once(signal, first, information.shared[field])
                    column[part] = gain(first, usual_first)[:, 0].to(home)
                table[part] = gain(signal, usual).to(home)
        return Scores(table, column, self.basis)

    @torch.no_grad()
    def of_some(self, tokens: Tensor, frequencies: Tensor) -> ExpectedInformation:
        assert self._sums is not None
        some, fields = copy.copy(self), self._own(len(frequencies))
        some.field_tokens = [own.stop - own.start for own in _own_among(tokens, fields)]
        some._rows_of = torch.stack([frequencies[own].sum() for own in fields])
        some._sums = self._sums.of_some(tokens)
        return some

    def state(self) -> dict[str, Tensor]:
        return {} if self._sums is None else self._sums.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        if unknown := set(state) - set(RowSums.__dataclass_fields__):
            raise ValueError(f"ExpectedInformation has no accumulator {sorted(unknown)}")
        self._sums = RowSums(**state) if state else None

    def _forget_expected(self) -> None:
        self._expected = self._expected_first = None  # as large as the table

    def _own(self, num_tokens: int) -> list[slice]:
        """Returns the range of each field's tokens among those held here."""
        return field_slices(self._fields(num_tokens))

    def _axes(self, sums: RowSums, weight: Tensor, frequencies: Tensor) -> Tensor | None:
        """Returns the axes to score along: ``(D, D)``, ``(F, D, D)``, or None for those of the table.

        Shared axes start as the eigenvectors of the energy of the rows, each field weighted by its information.
        """
        if self.axes == "original":
            return None
        if self.axes == "field":
            fields = zip(self._own(len(weight)), sums.information, strict=True)
            found = [axes_by_worth(weight[own], frequencies[own], told, self.tokens) for own, told in fields]
            return torch.stack(found)
        per_row = sums.information.diagonal(dim1=1, dim2=2).mean(1) / sums.rows.clamp(min=1)
        precision = frequencies.double() * for_each_token(per_row, self._fields(len(weight)))
        principal = principal_axes(weight, precision, self.tokens)
        if self.axes == "principal" or not self.has_network:
            return principal
        return nested_axes(weight, precision, principal, self.tokens)

    def _expect(
        self, sums: RowSums, weight: Tensor, linear: Tensor | None, frequencies: Tensor, basis: Tensor | None
    ) -> None:
        """Estimates the squares of values after full training, field by field; arguments as in :meth:`scores`."""
        # If tokens are split, memory is short: expected squares overwrite the sums, unless these are needed again to
        # score along other axes.
        in_place = self.tokens is not ALONE and len(self.tries) == 1
        squares = sums.gradient if in_place else torch.empty_like(weight)
        first_squares = None if linear is None else weight.new_empty(len(weight), 1)
        variances, first_variances = [], []
        for field, own in enumerate(self._own(len(weight))):
            rows = self.tokens.sum(frequencies[own].sum()) if self._rows_of is None else self._rows_of[field]
            epochs = sums.rows.clamp(min=1) / rows.clamp(min=1)
            of_values = partial(self.information.of_tokens, field)
            values = self._embeddings(sums, weight, field, basis)
            targets = Targets(own, frequencies, epochs, of_values, values, self.tokens)
            spectrum = targets.spectrum(shared=None, all_values=not self.has_network)
            targets.write_squares(spectrum, squares)
            variances.append(spectrum.variance)
            if first_squares is not None and linear is not None:
                of_values = partial(self.information.of_tokens, field, linear=True)
                targets = replace(targets, information=of_values, values_and_gradients=_first_order(sums, linear))
                spectrum = targets.spectrum(spectrum.shared, all_values=not self.has_network)
                targets.write_squares(spectrum, first_squares)
                first_variances.append(spectrum.variance)
        self._expected = _Expected(squares, torch.stack(variances))
        if first_squares is not None:
            self._expected_first = _Expected(first_squares, torch.stack(first_variances))

    def _embeddings(
        self, sums: RowSums, weight: Tensor, field: int, basis: Tensor | None
    ) -> Callable[[slice | Tensor, bool], tuple[Tensor, Tensor]]:
        """Returns the function that gives :class:`Targets` a field's embedding values, in turn, and their gradients."""
        in_turn = self.information.in_turn
        assert in_turn is not None
        axes = None if basis is None else (basis if basis.ndim == 2 else basis[field]).double()

        def values_and_gradients(part: slice | Tensor, mean: bool) -> tuple[Tensor, Tensor]:
            values, gradients = weight[part], sums.gradient[part].double()
            values = (sums.mean_standing(values, part) if mean else values).double()
            if axes is not None:
                values, gradients = values @ axes, gradients @ axes
            return in_turn.values(field, values), in_turn.gradients(field, gradients)

        return values_and_gradients

    def _mean_squares(self, frequencies: Tensor) -> Tensor:
        """Returns the means ``(F, D)`` of expected squares over the tokens of each field that have rows.

        Tokens without rows, of which a vocabulary from other data may have many, are not trained: they say nothing
        about how large values become.
        """
        assert self._expected is not None
        squares = self._expected.squares
        own = self._own(len(squares))
        sums = squares.new_zeros(len(own), squares.shape[1], dtype=torch.float64)
        for total, field in zip(sums, own, strict=True):
            for part in _parts(field):
                total += squares[part].sum(0, dtype=torch.float64)
        counts = torch.stack([(frequencies[field] > 0).sum() for field in own]).unsqueeze(1)
        return self.tokens.sum(sums) / self.tokens.sum(counts).clamp(min=1)


def _first_order(sums: RowSums, linear: Tensor) -> Callable[[slice | Tensor, bool], tuple[Tensor, Tensor]]:
    """Returns the function that gives :class:`Targets` the first-order weights and their gradients."""

    def values_and_gradients(part: slice | Tensor, mean: bool) -> tuple[Tensor, Tensor]:
        assert sums.linear_gradient is not None
        values = linear[part, 0]
        values = sums.mean_standing(values, part, linear=True) if mean else values
        return values.double().unsqueeze(1), sums.linear_gradient[part].double().unsqueeze(1)

    return values_and_gradients


def _own_among(tokens: Tensor, fields: list[slice]) -> list[slice]:
    """Returns the range of each field's tokens among some, ``(n,)`` ascending, given their ranges among all."""
    ends = torch.searchsorted(tokens, torch.tensor([own.stop for own in fields], device=tokens.device)).tolist()
    return [slice(start, end) for start, end in itertools.pairwise([0, *ends])]


def _parts(own: slice) -> Iterator[slice]:
    return row_chunks(own.start, own.stop, FEW_ROWS)
