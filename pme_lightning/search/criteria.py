"""Criteria: what each embedding value is worth, judged from the weights and the gradients of the loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pme_lightning.errors import BadInput, did_you_mean
from pme_lightning.search.across import ALONE, Tokens
from pme_lightning.search.row_information import RowInformation

# Rows worked on at a time where a whole table of intermediate results would cost as much memory as the table.
_CHUNK_ROWS = 1 << 15
# Far below what a table holds along an axis that is used, far above what rounding leaves along one that is not.
_WHERE_EMPTY = 1e-6


@dataclass(frozen=True)
class Scores:
    """What every per-token value is worth; all in one unit, so that they can compete for one budget.

    Attributes:
        table: ``(V, D)``: the embedding values.
        linear: ``(V,)``: the first-order weights; None without them.
        basis: ``(D, D)`` orthogonal ``Q``, whose columns are the axes the table was rotated to before scoring
            (``table`` scores ``weight @ Q``), or ``(F, D, D)``, one for the tokens of each field; None for the axes as
            they are.
        spectrum: ``(F, D)``: mean squares that the values of each field's tokens, of those with rows, are expected to
            have once they are trained, along the axes, each as the last one that is kept; None where the criterion
            expects none.
    """

    table: Tensor
    linear: Tensor | None = None
    basis: Tensor | None = None
    spectrum: Tensor | None = None


def check_scores(criterion: str, scores: Scores, weight: Tensor, linear: Tensor | None) -> None:
    """Refuses scores that do not fit the table: criteria may be anybody's.

    Args:
        criterion: What it is called.
        scores: What it returned.
        weight: ``(V, D)`` the table.
        linear: ``(V, 1)`` the first-order weights, or None.

    Raises:
        BadInput: they are no :class:`Scores`, or of another shape.
    """
    name = f"{criterion}.scores"
    if not isinstance(scores, Scores):
        raise BadInput(f"{name} returned a {type(scores).__name__}; it must return pme_lightning.search.Scores")
    if scores.table.shape != weight.shape:
        raise BadInput(
            f"{name} gave values scores of shape {tuple(scores.table.shape)}; the table has {tuple(weight.shape)}"
        )
    shape = None if scores.linear is None else tuple(scores.linear.shape)
    wanted = None if linear is None else (len(linear),)
    if shape != wanted:
        needs = "has no first-order weights" if wanted is None else f"needs {wanted}"
        raise BadInput(f"{name} gave first-order weights scores of shape {shape or 'none'}; the table {needs}")


class Criterion(ABC):
    """Computes scores. The life of one scoring window: ``start``, an update after each batch, ``scores``.

    In a run of several processes a criterion that needs rows is given those of its own process: what it accumulates
    are sums, and the search adds them up over processes before it asks for scores. One that needs gradients is given
    those of the whole batch, the same in every process, as data parallel training averages them: nothing is added up.

    Attributes:
        needs_gradients: whether ``update`` has to be called, with the gradients of a batch's mean loss.
        needs_rows: whether ``update_rows`` has to be called, with the gradients of each row's own loss. Criteria that
            need neither may be asked for their scores without ``start``.
        basis: the axes that scores are along, ``(D, D)`` or ``(F, D, D)``, since ``start`` or ``scores``; None for the
            original ones.
        axes: the name of its choice of axes. A search that prunes step by step turns the table itself and sets it to
            ``original`` from then on; None: there is no choice, so that turned axes are for searches that prune once.
        splits: whether it can score tokens that are split over processes. ``V`` is then how many are here.
        per_token: names of the accumulators that have a row for each token.
        tokens: how processes agree on what is known of all tokens.
        rounds: how often, after the sizes have been made, they are made again with what rows tell of the pruned model
            (:meth:`scores_given`).
        information: what rows told when :meth:`scores` was asked last, in its axes; of a criterion with rounds.
        tries: of a criterion with rounds, the axes to choose among: the search sets its ``axes`` to one after the
            other, and to those whose sizes cost less. A large table is tried on some of its tokens (:meth:`of_some`).
        turned_from: the axes that it was asked for, where a search has turned the table to them itself.
        has_network: whether there is a network behind the embedding; the search says so where there is none.
    """

    splits: ClassVar[bool] = False
    per_token: ClassVar[tuple[str, ...]] = ()
    tokens: Tokens = ALONE
    needs_gradients: ClassVar[bool] = False
    needs_rows: ClassVar[bool] = False
    basis: Tensor | None = None
    axes: str | None = None
    rounds: int = 0
    information: RowInformation
    tries: tuple[str, ...] = ()
    turned_from: str | None = None
    has_network: bool = True

    def start(self, weight: Tensor, linear: Tensor | None, frequencies: Tensor) -> None:
        """Begins a scoring window: fixes the axes and forgets all gradients seen.

        Args:
            weight: ``(V, D)`` the table.
            linear: ``(V, 1)`` the first-order weights, or None.
            frequencies: ``(V,)`` how often each token occurs in the training split.
        """
        self.basis = None

    def update(self, weight_grad: Tensor, linear_grad: Tensor | None = None) -> None:
        """Takes in the gradients of one batch.

        Args:
            weight_grad: ``(V, D)`` gradient of the batch's mean loss, dense or sparse COO.
            linear_grad: ``(V, 1)`` the same for the first-order weights, or None without them.

        Raises:
            RuntimeError: this criterion needs no gradients, or has not been started.
        """
        raise RuntimeError(f"{type(self).__name__} takes no gradients")

    def update_rows(
        self, ids: Tensor, frequencies: Tensor, row_grad: Tensor, linear_grad: Tensor | None = None
    ) -> None:
        """Takes in the gradients of the rows of one batch.

        Args:
            ids: ``(B, F)`` token ids.
            frequencies: ``(B, F)`` how often each of these tokens occurs in the training split.
            row_grad: ``(B, F, D)`` gradient of each row's own loss at the embeddings it looked up.
            linear_grad: ``(B, F)`` the same at its first-order weights, or None without them.

        Raises:
            RuntimeError: this criterion looks at no rows, or has not been started.
        """
        raise RuntimeError(f"{type(self).__name__} takes no gradients of rows")

    def update_standing(  # noqa: B027
        self, weight: Tensor, linear: Tensor | None, tokens: Tensor | None = None, counts: Tensor | None = None
    ) -> None:
        """May take note of where the rows stand that :meth:`update_rows` has just been given the gradients of.

        Args:
            weight: ``(V, D)`` the table as it is stored, of 16 bits where it has so many.
            linear: ``(V, 1)`` the first-order weights, or None.
            tokens: ``(U,)`` those of the rows that :meth:`update_tokens` was given, where they are split over
                processes.
            counts: ``(U,)`` how often each of these was looked up, in all processes.
        """

    def update_moments(self, frequencies: Tensor, row_grad: Tensor, linear_grad: Tensor | None = None) -> None:
        """Takes in of :meth:`update_rows` what belongs to no token, where tokens are split over processes."""
        raise RuntimeError(f"{type(self).__name__} takes no gradients of rows")

    def update_tokens(self, tokens: Tensor, row_grad: Tensor, linear_grad: Tensor | None = None) -> None:
        """Takes in of :meth:`update_rows` what belongs to tokens, where they are split over processes.

        Args:
            tokens: ``(U,)`` distinct tokens, by their place among those here.
            row_grad: ``(U, D)`` the gradients of all rows with the token, of all processes, added up.
            linear_grad: ``(U,)`` the same of first-order weights, or None.
        """
        raise RuntimeError(f"{type(self).__name__} takes no gradients of rows")

    @abstractmethod
    def scores(self, weight: Tensor, linear: Tensor | None, frequencies: Tensor) -> Scores:
        """Returns the scores; arguments as in :meth:`start`."""

    def scores_given(self, information: RowInformation, frequencies: Tensor, tokens: Tensor | None = None) -> Scores:
        """Returns the scores, in the axes of the last :meth:`scores`, of a model in which rows tell something else.

        Args:
            information: what they tell.
            frequencies: as in :meth:`start`.
            tokens: ``(n,)`` rising: of which of the tokens that are here; None: of all.

        Raises:
            RuntimeError: this criterion looks at no rows, or has not been asked for :meth:`scores`.
        """
        raise RuntimeError(f"{type(self).__name__} does not depend on what rows tell")

    def of_some(self, tokens: Tensor, frequencies: Tensor) -> Criterion:
        """Returns a criterion that scores some of the tokens, with what this one has gathered.

        Args:
            tokens: ``(n,)`` rising: which.
            frequencies: ``(V,)``: of all tokens, as in :meth:`start`.

        Raises:
            RuntimeError: this criterion has no axes to choose among.
        """
        raise RuntimeError(f"{type(self).__name__} has no axes to choose among")

    def state(self) -> dict[str, Tensor]:
        """The accumulators themselves (no copies); those of a criterion that needs rows are sums over rows."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Replaces the accumulators by what :meth:`state` gave."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no accumulators, got {sorted(state)}")


class _GradientCriterion(Criterion):
    """A criterion with one accumulator per value: a sum over batches of ``g`` or ``g²``."""

    needs_gradients: ClassVar[bool] = True
    splits: ClassVar[bool] = True
    per_token: ClassVar[tuple[str, ...]] = ("table", "linear")
    squared = True

    def __init__(self) -> None:
        self._table: Tensor | None = None
        self._linear: Tensor | None = None

    def start(self, weight: Tensor, linear: Tensor | None, frequencies: Tensor) -> None:
        self._table = torch.zeros_like(weight, requires_grad=False)
        self._linear = None if linear is None else torch.zeros_like(linear, requires_grad=False)

    @torch.no_grad()
    def update(self, weight_grad: Tensor, linear_grad: Tensor | None = None) -> None:
        if self._table is None:
            raise RuntimeError(f"{type(self).__name__}.update was called before start")
        if (linear_grad is None) != (self._linear is None):
            raise ValueError("first-order weights must be given to both start and update, or to neither")
        self._add(self._table, weight_grad, self.basis)
        if self._linear is not None and linear_grad is not None:
            self._add(self._linear, linear_grad, None)

    def state(self) -> dict[str, Tensor]:
        named = {"table": self._table, "linear": self._linear}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def load_state(self, state: dict[str, Tensor]) -> None:
        if unknown := set(state) - {"table", "linear"}:
            raise ValueError(f"{type(self).__name__} has no accumulator {sorted(unknown)}")
        self._table, self._linear = state.get("table"), state.get("linear")

    def _add(self, total: Tensor, grad: Tensor, basis: Tensor | None) -> None:
        if grad.is_sparse:
            grad = grad.coalesce()
            rows, values = grad.indices()[0], grad.values()
        elif basis is None:
            total.addcmul_(grad, grad) if self.squared else total.add_(grad)
            return
        else:
            # Most rows of a batch's gradient are zero, and rotating costs D operations a value.
            rows, values = grad.any(dim=1).nonzero().squeeze(1), None
        for index, chunk in enumerate(rows.split(_CHUNK_ROWS)):
            part = grad[chunk] if values is None else values[index * _CHUNK_ROWS :][: len(chunk)]
            part = part.to(total.dtype) if basis is None else part.to(total.dtype) @ basis
            total.index_add_(0, chunk, part.square() if self.squared else part)

    def _sums(self) -> tuple[Tensor, Tensor | None]:
        if self._table is None:
            raise RuntimeError(f"{type(self).__name__} was asked for scores before start and update")
        return self._table, self._linear


class Saliency(_GradientCriterion):
    """Saliency of each value, as taken for pruning at initialization.

    Power 1 is SNIP, ``|w · Σ g|`` (Lee, Ajanthan, Torr 2019, arXiv:1810.02340): the change of the loss, to
    first order, when the value is removed. Power 2 is ``w² · Σ g²``, where batches do not cancel.

    Args:
        power: 1 or 2.

    Raises:
        BadInput: another power.
    """

    def __init__(self, power: Literal[1, 2] = 1) -> None:
        super().__init__()
        if power not in (1, 2):
            raise BadInput(f"Saliency: power is {power!r}; it must be 1 or 2")
        self.power = power
        self.squared = power == 2

    @torch.no_grad()
    def scores(self, weight: Tensor, linear: Tensor | None, frequencies: Tensor) -> Scores:
        table, column = self._sums()
        return Scores(self._score(weight, table), None if column is None else self._score(linear, column)[:, 0])

    def _score(self, weight: Tensor | None, total: Tensor) -> Tensor:
        if weight is None:
            raise ValueError("the first-order weights given to start are missing")
        return weight.square().mul_(total) if self.squared else (weight * total).abs_()


class Fisher(_GradientCriterion):
    """Second-order estimate of what removing a value costs: ``w² · Σ g²`` over batches.

    This is Taylor's second-order term with the empirical Fisher information in place of the Hessian (Theis et
    al. 2018, arXiv:1801.05787; Molchanov et al. 2019, arXiv:1906.10771). In principal axes, table and gradients
    are first rotated to the eigenvectors of ``Σ_v freq_v w_v w_vᵀ``, where the leading values of a row hold most
    of it. First-order weights are one value a token and are never rotated.

    Args:
        axes: ``original`` or ``principal``.

    Raises:
        BadInput: other axes; or, on start, a table that is not finite.

    Examples:
        >>> weight, frequencies = torch.tensor([[1.0, 2.0], [0.0, 3.0]]), torch.tensor([5, 1])
        >>> fisher = Fisher(axes="original")
        >>> fisher.start(weight, None, frequencies)
        >>> fisher.update(torch.tensor([[1.0, 0.5], [2.0, 0.0]]))  # the gradient of a batch
        >>> fisher.scores(weight, None, frequencies).table
        tensor([[1., 1.],
                [0., 0.]])
    """

    def __init__(self, axes: Literal["original", "principal"] = "principal") -> None:
        super().__init__()
        self.axes = known_axes("Fisher", axes)

    def start(self, weight: Tensor, linear: Tensor | None, frequencies: Tensor) -> None:
        super().start(weight, linear, frequencies)
        self.basis = principal_axes(weight, frequencies, self.tokens) if self.axes == "principal" else None

    @torch.no_grad()
    def scores(self, weight: Tensor, linear: Tensor | None, frequencies: Tensor) -> Scores:
        table, column = self._sums()
        if column is not None and linear is None:
            raise ValueError("the first-order weights given to start are missing")
        return Scores(
            table=_squares(weight, self.basis).mul_(table),
            linear=None if column is None or linear is None else linear.square().mul_(column)[:, 0],
            basis=self.basis,
        )


class Magnitude(Criterion):
    """The square of each value: no gradients, no loss.

    Args:
        axes: ``original``, or ``principal`` as for :class:`Fisher`, of the table that is scored.

    Raises:
        BadInput: other axes; or, when scoring, a table that is not finite.
    """

    splits: ClassVar[bool] = True

    def __init__(self, axes: Literal["original", "principal"] = "original") -> None:
        self.axes = known_axes("Magnitude", axes)

    @torch.no_grad()
    def scores(self, weight: Tensor, linear: Tensor | None, frequencies: Tensor) -> Scores:
        self.basis = principal_axes(weight, frequencies, self.tokens) if self.axes == "principal" else None
        return Scores(
            table=_squares(weight, self.basis),
            linear=None if linear is None else linear.square()[:, 0],
            basis=self.basis,
        )


@torch.no_grad()
def principal_axes(
    weight: Tensor, frequencies: Tensor, tokens: Tokens = ALONE, where_empty: Tensor | None = None
) -> Tensor:
    """Eigenvectors of ``Σ_v freq_v w_v w_vᵀ`` by falling eigenvalue.

    Args:
        weight: ``(V, D)``.
        frequencies: ``(V,)``, at least 0.
        tokens: how processes agree, where tokens are split over them.
        where_empty: ``(D, D)`` symmetric, not negative: its energy is what counts along axes where the table has none,
            as that of fewer than ``D`` tokens; without it those are arbitrary.

    Returns:
        ``(D, D)`` orthogonal, one axis a column, the largest entry of each positive; the identity where the
        weighted table is all zeros.

    Raises:
        BadInput: the table holds NaN or infinity.
    """
    energy = torch.zeros(weight.shape[1], weight.shape[1], dtype=torch.float64, device=weight.device)
    for rows, counts in zip(weight.split(_CHUNK_ROWS), frequencies.split(_CHUNK_ROWS), strict=True):
        rows = rows.double()
        energy += rows.T @ (rows * counts.to(rows).unsqueeze(1))
    energy = tokens.sum(energy)
    if not bool(energy.isfinite().all()):
        raise BadInput("the embedding table holds NaN or infinity: the search diverged; lower the learning rate")
    if where_empty is not None and bool(where_empty.any()):
        energy += where_empty * (_WHERE_EMPTY * energy.trace() / where_empty.trace())
    if not bool(energy.any()):
        return torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
    return tokens.same(facing_up(torch.linalg.eigh(energy).eigenvectors.flip(1)).to(weight.dtype))


def facing_up(axes: Tensor) -> Tensor:
    """Returns axes ``(D, D)``, one a column, each with a sign that makes its largest entry positive.

    Eigenvectors come column by column. They are put row by row, as a file gives them back: products round by it.
    """
    return (axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()).contiguous()


def _squares(weight: Tensor, basis: Tensor | None) -> Tensor:
    return weight.square() if basis is None else (weight @ basis).square_()


def known_axes(owner: str, axes: str, known: Sequence[str] = ("original", "principal")) -> str:
    """Returns ``axes``; raises BadInput, naming their owner, where there are no such axes."""
    if axes not in known:
        raise BadInput(f"{owner}: axes {axes!r} are unknown; {did_you_mean(str(axes), known)}")
    return axes
