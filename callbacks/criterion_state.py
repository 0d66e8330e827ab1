"""The state of a criterion in a checkpoint: its accumulators and its axes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pme_lightning.callbacks.rank_sums import keep_on_main
from pme_lightning.embedding import RowLayout
from pme_lightning.search import Criterion, SplitTokens
from pme_lightning.split_checkpoints import SplitTensor


def criterion_state(criterion: Criterion) -> dict[str, Any]:
    """Returns the state from which a criterion continues, without copies.

    If tokens are split, accumulators with a row for each token are marked, because a checkpoint holds all tokens.
    """
    tokens = criterion.tokens

    def marked(name: str, tensor: Tensor) -> Tensor | SplitTensor:
        if not isinstance(tokens, SplitTokens) or name not in criterion.per_token:
            return tensor
        return SplitTensor(tensor, RowLayout.of_rows(tokens.num_tokens, *tensor.shape[1:]), tokens.shard)

    return {
        "criterion": {name: marked(name, tensor) for name, tensor in criterion.state().items()},
        "basis": criterion.basis,
        "axes": criterion.axes,
        "turned_from": criterion.turned_from,
    }


def restore_criterion(criterion: Criterion, state: dict[str, Any]) -> None:
    """Restores what :func:`criterion_state` returned, as in a checkpoint: for all tokens, summed over processes."""
    tokens = criterion.tokens

    def held(name: str, whole: Tensor) -> Tensor:
        if not isinstance(tokens, SplitTokens):
            return whole
        return tokens.cut(whole) if name in criterion.per_token else whole.clone()

    criterion.load_state({name: held(name, whole) for name, whole in state["criterion"].items()})
    criterion.basis, criterion.turned_from = state["basis"], state["turned_from"]
    if state["axes"] is not None:
        criterion.axes = state["axes"]
    keep_on_main(criterion)


def move_criterion(criterion: Criterion, device: torch.device) -> None:
    """Moves the restored state of a criterion to the device of the table."""
    criterion.load_state({name: tensor.to(device) for name, tensor in criterion.state().items()})
    if criterion.basis is not None:
        criterion.basis = criterion.basis.to(device)
