"""The interface of criteria, which score how much each embedding value is worth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pme_lightning.errors import BadInput
from pme_lightning.search.across import ALONE, Tokens
from pme_lightning.search.row_information import RowInformation


@dataclass(frozen=True)
class Scores:
    """The scores of all per-token values, in one unit, so that they can compete for one budget.

    Attributes:
        table: ``(V, D)``: the scores of the embedding values.
        linear: ``(V,)``: the scores of the first-order weights; None without them.
        basis: ``(D, D)`` orthogonal ``Q``, whose columns are the axes the table was rotated to before scoring
            (``table`` scores ``weight @ Q``), or ``(F, D, D)``, one for the tokens of each field; None for the original
            axes.
        spectrum: ``(F, D)``: expected mean squares, after training, of the values of each field's tokens with rows,
            along the axes, each value taken as the last one that is kept; None if the criterion expects none.
    """

    table: Tensor
    linear: Tensor | None = None
    basis: Tensor | None = None
    spectrum: Tensor | None = None


def check_scores(criterion: str, scores: Scores, weight: Tensor, linear: Tensor | None) -> None:
    """Checks that the scores of a criterion, possibly a user's, fit the table.

    Args:
        criterion: name of the criterion.
        scores: what it returned.
        weight: ``(V, D)`` the table.
        linear: ``(V, 1)`` the first-order weights, or None.

    Raises:
        BadInput: they are not :class:`Scores`, or have a wrong shape.
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
    """Computes scores. In each scoring window, ``start`` comes first, then an update for each batch, then ``scores``.

    With several processes, a criterion that needs rows receives the rows of its own process. Its accumulators are sums,
    which the search adds up over processes before it calls ``scores``. A criterion that needs gradients receives those
    of the whole batch, the same in every process, as data parallel training averages them: nothing is added up.

    Attributes:
        needs_gradients: whether ``update`` must be called, with the gradients of a batch's mean loss.
        needs_rows: whether ``update_rows`` must be called, with the gradients of each row's own loss. For criteria that
            need neither, ``scores`` may be called without ``start``.
        basis: the axes of the scores, ``(D, D)`` or ``(F, D, D)``, set by ``start`` or ``scores``; None for the
            original ones.
        axes: the name of the chosen axes. A search that prunes step by step rotates the table itself and then sets this
            to ``original``; None: there is no choice, and only searches that prune once can use rotated axes.
        splits: whether it can score tokens that are split over processes. ``V`` is then the number of tokens held here.
        per_token: names of the accumulators that have a row for each token.
        tokens: how processes agree on facts about all tokens.
        rounds: how often sizes are made again with the information that rows give about the pruned model
            (:meth:`scores_given`).
        information: the information from rows at the last call of :meth:`scores`, in its axes; for criteria with
            rounds.
        tries: for criteria with rounds, the axes to choose among. The search sets ``axes`` to each of them in turn, and
            then to those whose sizes cost less. Large tables are tried on some of their tokens (:meth:`of_some`).
        turned_from: the axes that were requested, if a search has rotated the table to them.
        has_network: whether there is a network behind the embedding; the search sets it to False if there is none.
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
        """Begins a scoring window: fixes the axes and discards all gradients seen before.

        Args:
            weight: ``(V, D)`` the table.
            linear: ``(V, 1)`` the first-order weights, or None.
            frequencies: ``(V,)`` how often each token occurs in the training split.
        """
        self.basis = None

    def update(self, weight_grad: Tensor, linear_grad: Tensor | None = None) -> None:
        """Accumulates the gradients of one batch.

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
        """Accumulates the gradients of the rows of one batch.

        Args:
            ids: ``(B, F)`` token ids.
            frequencies: ``(B, F)`` how often each of these tokens occurs in the training split.
            row_grad: ``(B, F, D)`` gradient of each row's own loss at the embeddings it looked up.
            linear_grad: ``(B, F)`` the same at its first-order weights, or None without them.

        Raises:
            RuntimeError: this criterion does not use rows, or has not been started.
        """
        raise RuntimeError(f"{type(self).__name__} takes no gradients of rows")

    def update_standing(  # noqa: B027
        self, weight: Tensor, linear: Tensor | None, tokens: Tensor | None = None, counts: Tensor | None = None
    ) -> None:
        """May record the current values of the rows whose gradients :meth:`update_rows` has just received.

        Args:
            weight: ``(V, D)`` the table as it is stored, possibly in 16 bits.
            linear: ``(V, 1)`` the first-order weights, or None.
            tokens: ``(U,)`` the tokens that :meth:`update_tokens` received, if they are split over processes.
            counts: ``(U,)`` how often each of these was looked up, in all processes.
        """

    def update_moments(self, frequencies: Tensor, row_grad: Tensor, linear_grad: Tensor | None = None) -> None:
        """The part of :meth:`update_rows` that belongs to no token, if tokens are split over processes."""
        raise RuntimeError(f"{type(self).__name__} takes no gradients of rows")

    def update_tokens(self, tokens: Tensor, row_grad: Tensor, linear_grad: Tensor | None = None) -> None:
        """The part of :meth:`update_rows` that belongs to single tokens, if these are split over processes.

        Args:
            tokens: ``(U,)`` distinct tokens, by their position among those held here.
            row_grad: ``(U, D)`` the sums of the gradients over all rows with the token, in all processes.
            linear_grad: ``(U,)`` the same for first-order weights, or None.
        """
        raise RuntimeError(f"{type(self).__name__} takes no gradients of rows")

    @abstractmethod
    def scores(self, weight: Tensor, linear: Tensor | None, frequencies: Tensor) -> Scores:
        """Returns the scores; arguments as in :meth:`start`."""

    def scores_given(self, information: RowInformation, frequencies: Tensor, tokens: Tensor | None = None) -> Scores:
        """Returns the scores given other information from rows, in the axes of the last call of :meth:`scores`.

        Args:
            information: the information.
            frequencies: as in :meth:`start`.
            tokens: ``(n,)`` ascending: which of the tokens held here; None for all.

        Raises:
            RuntimeError: this criterion does not use rows, or :meth:`scores` has not been called.
        """
        raise RuntimeError(f"{type(self).__name__} does not depend on what rows tell")

    def of_some(self, tokens: Tensor, frequencies: Tensor) -> Criterion:
        """Returns a criterion that scores some of the tokens, from what this one has gathered.

        Args:
            tokens: ``(n,)`` ascending: which tokens.
            frequencies: ``(V,)``: for all tokens, as in :meth:`start`.

        Raises:
            RuntimeError: this criterion has no axes to choose among.
        """
        raise RuntimeError(f"{type(self).__name__} has no axes to choose among")

    def state(self) -> dict[str, Tensor]:
        """Returns the accumulators themselves (no copies); if the criterion needs rows, they are sums over rows."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Replaces the accumulators by those that :meth:`state` returned."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no accumulators, got {sorted(state)}")


class TableCriterion(Criterion):
    """A criterion that accumulates one number for each value of the table, and each first-order weight."""

    def __init__(self) -> None:
        self._table: Tensor | None = None
        self._linear: Tensor | None = None

    def state(self) -> dict[str, Tensor]:
        named = {"table": self._table, "linear": self._linear}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def load_state(self, state: dict[str, Tensor]) -> None:
        if unknown := set(state) - {"table", "linear"}:
            raise ValueError(f"{type(self).__name__} has no accumulator {sorted(unknown)}")
        self._table, self._linear = state.get("table"), state.get("linear")


class KnowsFields:
    """A criterion that uses the fields; the search sets them before anything else.

    Attributes:
        field_tokens: the number of tokens of each field, whose ids are consecutive.
    """

    field_tokens: Sequence[int] = ()

    def _fields(self, num_tokens: int) -> Sequence[int]:
        if sum(self.field_tokens) != num_tokens:
            raise RuntimeError(
                f"{type(self).__name__}: field_tokens add up to {sum(self.field_tokens)}, there are {num_tokens} "
                "tokens; set them before start and scores"
            )
        return self.field_tokens
