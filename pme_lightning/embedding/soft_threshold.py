"""A threshold that is learned together with the values that it is subtracted from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pme_lightning.embedding.fields import field_ends, fields_of
from pme_lightning.errors import BadInput, did_you_mean

Granularity = Literal["global", "dimension", "field", "token", "token_dimension"]


def soft_threshold(values: Tensor, threshold: Tensor) -> Tensor:
    """Returns ``sign(w) · max(|w| − t, 0)``: values move toward zero by the threshold, but not beyond it."""
    return values.sign() * F.relu(values.abs() - threshold)


class SoftThreshold(nn.Module):
    """Thresholds ``t = sigmoid(s)`` with learned ``s``, for a table of embeddings and its first-order weights.

    This is the reparametrization of PEP, ``sign(w) · max(|w| − sigmoid(s), 0)`` (Liu et al., ICLR 2021,
    arXiv:2101.07577; after Kusupati et al. 2020, arXiv:2002.03231), applied to the values of a batch after they are
    gathered, never to the whole table. First-order weights, which the paper does not threshold, have their own ``s``.

    Args:
        field_tokens: number of tokens of each field, whose ids are consecutive.
        embedding_dim: ``D``.
        granularity: which values share one ``s``: all values (``global``), those of a ``dimension``, of a ``field`` or
            of a ``token`` (the paper's "feature"), or none (``token_dimension``: one ``s`` per value). First-order
            weights share theirs ``global``ly if embeddings share by dimension, and by token if nothing is shared.
        init: initial value of every ``s``.
        first_order: whether there are first-order weights.

    Raises:
        BadInput: unknown granularity.
    """

    field_ends: Tensor

    def __init__(
        self,
        field_tokens: Sequence[int],
        embedding_dim: int,
        granularity: Granularity = "token_dimension",
        init: float = -15.0,
        first_order: bool = False,
    ) -> None:
        super().__init__()
        choices = get_args(Granularity)
        if granularity not in choices:
            raise BadInput(
                f"SoftThreshold: granularity {granularity!r} is unknown; {did_you_mean(str(granularity), choices)}"
            )
        shared_by = {"field": len(field_tokens), "token": sum(field_tokens), "token_dimension": sum(field_tokens)}
        rows = shared_by.get(granularity, 1)
        columns = embedding_dim if granularity in ("dimension", "token_dimension") else 1
        self.raw = nn.Parameter(torch.full((rows, columns), float(init)))
        self.raw_linear = nn.Parameter(torch.full((rows, 1), float(init))) if first_order else None
        self.register_buffer("field_ends", field_ends(field_tokens))

    @classmethod
    def like(cls, state: dict[str, Tensor]) -> SoftThreshold:
        """Returns thresholds that fit this state, which a checkpoint written during a search holds."""
        made = cls([1], 1)
        for name, tensor in state.items():
            if name == "field_ends":
                made.field_ends = torch.empty_like(tensor)
            else:
                setattr(made, name, nn.Parameter(torch.empty_like(tensor)))
        return made

    def forward(self, ids: Tensor, embeddings: Tensor) -> Tensor:
        """Returns the embeddings ``(..., D)`` of ids ``(...)`` after soft thresholding."""
        return soft_threshold(embeddings, torch.sigmoid(self._of(self.raw, ids)))

    def forward_linear(self, ids: Tensor, linear: Tensor) -> Tensor:
        """Returns the first-order weights ``(...)`` of ids ``(...)`` after soft thresholding."""
        assert self.raw_linear is not None
        return soft_threshold(linear, torch.sigmoid(self._of(self.raw_linear, ids)).squeeze(-1))

    @torch.no_grad()
    def margins(self, ids: Tensor, weight: Tensor, linear: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Returns by how much values exceed their thresholds, ``|w| − t``: above 0 for those that survive.

        Args:
            ids: ``(n,)``.
            weight: ``(n, D)``, the rows of these ids.
            linear: ``(n, 1)``, their first-order weights; None without them.
        """
        margin = weight.abs() - torch.sigmoid(self._of(self.raw, ids))
        if linear is None or self.raw_linear is None:
            return margin, None
        return margin, linear.abs() - torch.sigmoid(self._of(self.raw_linear, ids))

    def _of(self, raw: Tensor, ids: Tensor) -> Tensor:
        """Returns the ``s`` of each id, ``(..., D or 1)``, or in a shape that broadcasts to it."""
        if len(raw) == 1:
            return raw
        if len(raw) == len(self.field_ends):
            ids = fields_of(ids.long(), self.field_ends)
        return F.embedding(ids, raw)
