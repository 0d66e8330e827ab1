"""What a checkpoint keeps of a criterion: its accumulators and its axes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pme_lightning.callbacks.rank_sums import keep_on_main
from pme_lightning.embedding import RowLayout
from pme_lightning.search import Criterion, SplitTokens
from pme_lightning.split_checkpoints import SplitTensor


def criterion_state(criterion: Criterion) -> dict[str, Any]:
    """Returns what a criterion goes on from, no copies.

    Accumulators that have a row for each token are marked where tokens are split: a checkpoint holds all tokens.
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
    """Takes up what :func:`criterion_state` gave, as a checkpoint holds it: of all tokens, summed over processes."""
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
    """Brings what a checkpoint held to where the table is."""
    criterion.load_state({name: tensor.to(device) for name, tensor in criterion.state().items()})
    if criterion.basis is not None:
        criterion.basis = criterion.basis.to(device)
