"""What rows tell about their tokens' values once a model is pruned, without training it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from pme_lightning.callbacks.rank_sums import spans_processes
from pme_lightning.embedding import FullEmbedding
from pme_lightning.errors import BadInput
from pme_lightning.module import CTRModule
from pme_lightning.search import RowInformation
from pme_lightning.search.row_information import band_sums

# Means over so many rows, of all processes together, are known to a few hundredths.
_ROWS = 1 << 14

Batch = tuple[Tensor, Tensor]


class RecentBatches:
    """The last batches of a fit, about 16,000 rows of all processes: each process has its own, equally many."""

    def __init__(self) -> None:
        self._length: int | None = None
        self._batches: deque[Batch] = deque()
        self._everyones: list[list[Batch]] = []

    def add(self, batch: Batch, processes: int) -> None:
        """Keeps a batch, and lets go the one that is the longest ago if there are enough.

        Args:
            batch: ids ``(B, F)`` and labels ``(B,)``; the first batch of the fit says how many are enough.
            processes: Of the run.
        """
        if self._length is None:
            self._length = math.ceil(_ROWS / max(1, len(batch[0]) * processes))
        rows = math.ceil(_ROWS / processes)
        self._batches.append((batch[0][:rows], batch[1][:rows]))
        while len(self._batches) > self._length:
            self._batches.popleft()

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)

    def gather(self) -> None:
        """Puts what every process has into what :meth:`state` returned; called by all of them together."""
        if spans_processes():
            everyones: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(everyones, [(ids.cpu(), labels.cpu()) for ids, labels in self._batches])
            # In place: Lightning asks for states first, and lets callbacks add to them after.
            self._everyones[:] = everyones

    def state(self) -> dict[str, Any]:
        """Returns the batches of all processes; where there are several, :meth:`gather` puts them in."""
        self._everyones = [list(self._batches)]
        return {"length": self._length, "batches": self._everyones}

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes this process's batches out of what :meth:`state` gave."""
        rank = dist.get_rank() if spans_processes() else 0
        self._length = state["length"]
        self._batches = deque(state["batches"][rank])


class PrunedModel:
    """A searched model, to be looked at as it would be if it were pruned; it stays as it is.

    Args:
        module: The searched module.
        batches: What is looked at.
        basis: ``(D, D)``, the axes that values are pruned in; None for those of the table.
        frequencies: ``(V,)``: rows of the training split of each of the tokens that are here.
    """

    def __init__(self, module: CTRModule, batches: Iterable[Batch], basis: Tensor | None, frequencies: Tensor) -> None:
        self.module = module
        self.batches = batches
        self.basis = basis
        self.frequencies = frequencies
        self._seen = self._version()

    def information(self, kept: Tensor, kept_linear: Tensor | None) -> RowInformation:
        """Measures what a row tells about each value, kept or not, where only the kept ones are read.

        Where there are several processes, all of them call this together, and get what all of their rows tell.

        Args:
            kept: ``(V, D)`` bool, of the tokens that are here.
            kept_linear: ``(V,)`` bool: which first-order weights are kept; None without them.

        Raises:
            BadInput: The module has been trained since, or rebuilt.
        """
        if self._version() != self._seen:
            raise BadInput(
                "sizes for another budget are measured on the model as the search left it, and it has been trained or "
                "rebuilt since: ask for the sizes of all budgets first"
            )
        training = [part for part in self.module.modules() if part.training]
        self.module.eval()
        try:
            return self._measured(kept, kept_linear)
        finally:
            for part in training:
                part.training = True

    def _measured(self, kept: Tensor, kept_linear: Tensor | None) -> RowInformation:
        embedding = cast(FullEmbedding, self.module.embedding)
        masked = [part.to(embedding.weight.device) for part in (kept, kept_linear) if part is not None]
        sums: dict[str, Tensor | float] = dict.fromkeys(("rows", "squares", "firsts", "products", "bands"), 0.0)
        for ids, labels in self.batches:
            tokens = ids.to(embedding.weight.device).reshape(-1).long()
            labels = labels.to(embedding.weight.device)
            rows, linear = embedding.rows(tokens)
            frequencies, *masks = embedding.gathered(tokens, self.frequencies, *masked)
            values = (rows if self.basis is None else rows @ self.basis) * masks[0]
            values = values.view(*ids.shape, -1).requires_grad_()
            inputs = [values]
            if linear is not None:
                inputs.append((linear * masks[1]).view(ids.shape).requires_grad_())
            with torch.enable_grad():
                embeddings = values if self.basis is None else values @ self.basis.T
                logits = self.module.backbone(embeddings, *inputs[1:])
                loss = F.binary_cross_entropy_with_logits(logits.float(), labels.float(), reduction="sum")
                gradients = [each.double() for each in torch.autograd.grad(loss, inputs)]
            sums["rows"] += values.new_tensor([len(ids)], dtype=torch.float64)
            sums["squares"] += gradients[0].square().sum(0)
            sums["bands"] += band_sums(frequencies.view(ids.shape), *gradients)
            if linear is not None:
                sums["firsts"] += gradients[1].square().sum(0)
                sums["products"] += (gradients[0] * gradients[1].unsqueeze(-1)).sum(0)
        found = {name: each for name, each in sums.items() if isinstance(each, Tensor)}
        if spans_processes():
            for each in found.values():
                dist.all_reduce(each)
        return RowInformation.of_sums(
            found["rows"], found["squares"], found.get("firsts"), found.get("products"), found["bands"]
        )

    def _version(self) -> tuple[int, ...]:
        """Returns a number for each parameter that rises whenever something is written to it."""
        return tuple(parameter._version for parameter in self.module.parameters())
