"""What a data module knows once its rows are encoded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pme_lightning.data.options import SPLITS
from pme_lightning.errors import BadInput, did_you_mean


@dataclass
class EncodedData:
    """What a data module knows once its rows are encoded.

    Attributes:
        name: of the data set, for tables and run folders.
        fields: the ``F`` field names, in the order of the id columns.
        field_tokens: tokens per field (with the out-of-vocabulary one); their sum is ``V``. Global ids are the
            field's offset (the running sum) plus the index in the field.
        frequencies: int64 ``(V,)``, how often each token occurs in the training rows.
        splits: ``{"train" | "valid" | "test": (ids int32 (n, F), labels (n,) of 0/1 in any numeric type)}``; all
            three as a rule, fewer where test rows stand alone.
    """

    name: str
    fields: list[str]
    field_tokens: list[int]
    frequencies: Tensor
    splits: dict[str, tuple[np.ndarray, np.ndarray]] = field(repr=False)

    def __post_init__(self) -> None:
        """Raises BadInput where the parts do not fit together or a split is empty."""
        self.field_tokens = [int(count) for count in self.field_tokens]
        if len(self.fields) != len(self.field_tokens):
            raise BadInput(f"{len(self.fields)} fields but {len(self.field_tokens)} counts of tokens")
        counts = self.frequencies
        if not isinstance(counts, Tensor) or counts.is_floating_point() or counts.dtype == torch.bool:
            raise BadInput("the frequencies must be a tensor of whole numbers, the training rows of each token")
        if len(self.frequencies) and int(self.frequencies.min()) < 0:
            raise BadInput(f"the frequency of a token is {int(self.frequencies.min())}; it must be 0 or more")
        if self.frequencies.shape != (sum(self.field_tokens),):
            raise BadInput(f"{sum(self.field_tokens)} tokens need as many frequencies, not {len(self.frequencies)}")
        for split, (ids, labels) in self.splits.items():
            self._check_split(split, ids, labels)

    def _check_split(self, split: str, ids: Any, labels: Any) -> None:
        if split not in SPLITS:
            raise BadInput(f"data '{self.name}' has a split '{split}', {did_you_mean(split, SPLITS)}")
        if not isinstance(ids, np.ndarray) or not isinstance(labels, np.ndarray) or ids.ndim != 2:
            raise BadInput(
                f"the {split} split of data '{self.name}' must be arrays of numpy, ids (n, {len(self.fields)}) and "
                f"labels (n,); they are {_kind(ids)} and {_kind(labels)}"
            )
        if len(ids) == 0:
            raise BadInput(f"the {split} split of data '{self.name}' is empty")
        if ids.shape[1] != len(self.fields):
            raise BadInput(f"the {split} split has {ids.shape[1]} id columns for {len(self.fields)} fields")

    def check_fields(self, ids: np.ndarray, split: str) -> None:
        """Refuses ids of another field than their column's, which a table of all fields would look up all the same.

        Args:
            ids: ``(n, F)``, rows of a split.
            split: its name, for the message.

        Raises:
            BadInput: there is one.
        """
        first = 0
        for column, name, tokens in zip(ids.T, self.fields, self.field_tokens, strict=True):
            wrong = (column < first) | (column >= first + tokens)
            if wrong.any():
                row = int(wrong.argmax())
                raise BadInput(
                    f"id {column[row]} in row {row} of the {split} split is none of field '{name}', whose ids go from "
                    f"{first} to {first + tokens - 1}: each field's count on from those of the field before"
                )
            first += tokens


def _kind(values: Any) -> str:
    shape = getattr(values, "shape", None)
    return f"{type(values).__name__}{'' if shape is None else ' ' + str(tuple(shape))}"
