"""The area under the ROC curve of a whole set of rows."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.classification import BinaryAUROC
from torchmetrics.utilities.data import dim_zero_cat


class WholeAUC(BinaryAUROC):
    """AUC over all rows of all batches and processes; not a number where they have one label only.

    torchmetrics says 0 then, which is what a model has that ranks every row the wrong way round.

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
