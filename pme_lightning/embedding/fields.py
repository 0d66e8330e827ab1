"""Which field a token belongs to: the ids of each field's tokens are consecutive, field after field."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor


def field_ends(field_tokens: Sequence[int], device: torch.device | None = None) -> Tensor:
    """Returns the id after the last token of each field, int64 ``(F,)``, given how many tokens each field has."""
    return torch.tensor(field_tokens, device=device).cumsum(0)


def fields_of(tokens: Tensor, ends: Tensor) -> Tensor:
    """Returns the field of each token, int64, in the shape of ``tokens``.

    Args:
        tokens: Ids, integers.
        ends: The result of :func:`field_ends`.
    """
    return torch.bucketize(tokens.contiguous(), ends, right=True)


def for_each_token(by_field: Tensor, field_tokens: Sequence[int]) -> Tensor:
    """Repeats the rows of ``by_field`` ``(F, ...)``: returns ``(V, ...)``, for each token that of its field."""
    return by_field.repeat_interleave(torch.tensor(field_tokens, device=by_field.device), dim=0)


def field_slices(field_tokens: Sequence[int]) -> list[slice]:
    """Returns the range of each field's ids."""
    return [slice(end - count, end) for end, count in zip(accumulate(field_tokens), field_tokens, strict=True)]
