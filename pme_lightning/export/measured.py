"""What an exported model is worth, measured with the program that is served."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanMetric

from pme_lightning.whole_auc import WholeAUC


@torch.inference_mode()
def measured(program: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Returns ``auc`` and ``logloss`` over all rows of some batches.

    Args:
        program: Gives the probabilities ``(B,)`` of ids ``(B, F)`` int64, numbered as those of the batches.
        batches: Ids ``(B, F)``, and labels ``(B,)``.
    """
    auc, logloss = WholeAUC(), MeanMetric().set_dtype(torch.float64)
    for ids, labels in batches:
        probabilities = program(ids.long())
        auc.update(probabilities, labels.int())
        logloss.update(F.binary_cross_entropy(probabilities, labels, reduction="none"))
    return {"auc": float(auc.compute()), "logloss": float(logloss.compute())}
