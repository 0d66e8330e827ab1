"""AUC and logloss over a whole set of rows: an average over batches would not be the AUC."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import BinaryAUROC
from torchmetrics.utilities.data import dim_zero_cat


class WholeAUC(BinaryAUROC):
    """AUC over all rows of all batches and processes; NaN where they all have the same label.

    torchmetrics returns 0 there, which is the AUC of a model that ranks every row the wrong way round.

    Examples:
        >>> auc = WholeAUC()
        >>> auc.update(torch.tensor([0.2, 0.9]), torch.tensor([1, 1]))
        >>> auc.compute()
        tensor(nan)
        >>> auc.update(torch.tensor([0.5]), torch.tensor([0]))
        >>> auc.compute()
        tensor(0.5000)
    """

    def __init__(self) -> None:
        super().__init__(validate_args=False)

    def compute(self) -> Tensor:  # type: ignore[override]
        """Returns the area."""
        low, high = torch.aminmax(dim_zero_cat(self.target))
        return super().compute() if bool(low < high) else torch.full((), torch.nan, device=self.device)


class ClickMetrics(nn.Module):
    """What predictions are measured by: AUC and logloss over all rows of all batches and processes."""

    def __init__(self) -> None:
        super().__init__()
        self.auc = WholeAUC()
        self.logloss = MeanMetric().set_dtype(torch.float64)

    def update(self, probabilities: Tensor, labels: Tensor, losses: Tensor) -> None:
        """Adds a batch.

        Args:
            probabilities: ``(B,)``, not logits: the AUC would guess batch by batch which of the two it was given.
            labels: ``(B,)`` of 0 and 1, of any type.
            losses: ``(B,)``, the log loss of each row.
        """
        self.auc.update(probabilities, labels.int())
        self.logloss.update(losses)

    def reset(self) -> None:
        """Forgets all batches."""
        self.auc.reset()
        self.logloss.reset()
