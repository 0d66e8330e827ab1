"""AUC and logloss of an exported model, measured with the program that is served."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from pme_lightning.metrics import ClickMetrics


@torch.inference_mode()
def measured(program: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Returns ``auc`` and ``logloss`` over all rows of the batches.

    Args:
        program: Gives the probabilities ``(B,)`` of ids ``(B, F)`` int64, numbered as those of the batches.
        batches: Ids ``(B, F)``, and labels ``(B,)``.
    """
    metrics = ClickMetrics()
    for ids, labels in batches:
        probabilities = program(ids.long())
        metrics.update(probabilities, labels, F.binary_cross_entropy(probabilities, labels, reduction="none"))
    return {"auc": float(metrics.auc.compute()), "logloss": float(metrics.logloss.compute())}
