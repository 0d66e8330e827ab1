"""What a criterion is: it says what each embedding value is worth, in scores."""

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
    """A criterion that looks at fields; the search tells it of them before anything else.

    Attributes:
        field_tokens: the number of tokens of each field, whose ids lie side by side.
    """

    field_tokens: Sequence[int] = ()

    def _fields(self, num_tokens: int) -> Sequence[int]:
        if sum(self.field_tokens) != num_tokens:
            raise RuntimeError(
                f"{type(self).__name__}: field_tokens add up to {sum(self.field_tokens)}, there are {num_tokens} "
                "tokens; set them before start and scores"
            )
        return self.field_tokens
