"""What rows tell about the values of their tokens in a pruned model, without training it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from pme_lightning.callbacks.rank_sums import spans_processes
from pme_lightning.callbacks.recent_batches import Batch
from pme_lightning.embedding import FullEmbedding
from pme_lightning.embedding.projection import projected
from pme_lightning.errors import BadInput
from pme_lightning.module import CTRModule
from pme_lightning.search import RowInformation
from pme_lightning.search.popularity_bands import band_sums
from pme_lightning.search.use import use_sums

# How many values of a parameter are compared to see whether it was trained.
_SAMPLED = 1 << 12


class _Pass(NamedTuple):
    """A batch, as the pruned model reads it.

    Attributes:
        frequencies: ``(B, F)``: training rows of each token.
        whole: ``(B, F, D)``: all values, pruned or not.
        kept: ``(B, F, D)`` bool: which of them are kept.
        values: ``(B, F, D)``: the values that are read, zero where they are pruned; the loss depends on them.
        linear: the first-order weights ``(B, F)`` in the same way; empty without them.
        loss: the log loss, summed over rows.
    """

    frequencies: Tensor
    whole: Tensor
    kept: Tensor
    values: Tensor
    linear: list[Tensor]
    loss: Tensor


class PrunedModel:
    """Measures a searched model as if it were pruned, without changing it.

    Args:
        module: The searched module.
        batches: The batches to measure on.
        frequencies: ``(V,)``: training rows of each token held here.
    """

    def __init__(self, module: CTRModule, batches: Iterable[Batch], frequencies: Tensor) -> None:
        self.module = module
        self.batches = batches
        self.frequencies = frequencies
        self._seen: tuple[tuple[int, ...] | None, tuple[float, ...] | None] = self._version()

    def information(self, kept: Tensor, kept_linear: Tensor | None, basis: Tensor | None = None) -> RowInformation:
        """Measures what a row tells about each value, kept or not, and the use of kept values, if only these are read.

        With several processes, all of them must call this together; all get the result over all rows.

        Args:
            kept: ``(V, D)`` bool, for the tokens held here.
            kept_linear: ``(V,)`` bool: which first-order weights are kept; None without them.
            basis: ``(D, D)`` or ``(F, D, D)``, the axes along which values are pruned; None for those of the table.

        Raises:
            BadInput: The module has been trained since, or rebuilt.
        """
        sums: dict[str, Any] = defaultdict(float)
        for seen in self._passes(kept, kept_linear, basis):
            gradients = torch.autograd.grad(seen.loss, [seen.values, *seen.linear], materialize_grads=True)
            at_values, *at_linear = (each.double() for each in gradients)
            by_field = at_values.transpose(0, 1)
            sums["rows"] += at_values.new_tensor([len(at_values)])
            sums["products"] += by_field.mT @ by_field
            for each in at_linear:
                sums["linear_squares"] += each.square().sum(0)
                sums["linear_products"] += (at_values * each.unsqueeze(-1)).sum(0)
            sums["bands"] += band_sums(seen.frequencies, at_values, *at_linear)
            sums["uses"] += use_sums(seen.whole, seen.kept, at_values)
        if spans_processes():
            for each in sums.values():
                dist.all_reduce(each)
        return RowInformation.of_sums(**sums)

    def loss(self, kept: Tensor | None = None, kept_linear: Tensor | None = None, basis: Tensor | None = None) -> float:
        """Returns the mean log loss of the rows if only the kept values are read; by default, of the whole model.

        With several processes, all of them must call this together; all get the mean over all rows.

        Args:
            kept: As in :meth:`information`.
            kept_linear: As in :meth:`information`.
            basis: As in :meth:`information`.

        Raises:
            BadInput: The module has been trained since, or rebuilt.
        """
        sums = torch.zeros(2, dtype=torch.float64, device=self.frequencies.device)
        for seen in self._passes(kept, kept_linear, basis):
            sums += torch.stack([seen.loss.detach().double(), seen.loss.new_tensor(len(seen.values)).double()])
        if spans_processes():
            dist.all_reduce(sums)
        return float(sums[0] / sums[1].clamp(min=1))

    def _passes(self, kept: Tensor | None, kept_linear: Tensor | None, basis: Tensor | None) -> Iterator[_Pass]:
        """Yields one pass for each batch; arguments as in :meth:`loss`."""
        self.check_as_it_was()
        with _evaluated(self.module):
            for ids, labels in self.batches:
                yield self._pass(ids, labels, kept, kept_linear, basis)

    def _pass(
        self, ids: Tensor, labels: Tensor, kept: Tensor | None, kept_linear: Tensor | None, basis: Tensor | None
    ) -> _Pass:
        embedding = cast(FullEmbedding, self.module.embedding)
        device = embedding.weight.device
        tokens = ids.to(device).reshape(-1).long()
        rows, linear = embedding.rows(tokens)
        masks = [part.to(device) for part in (kept, kept_linear) if part is not None]
        frequencies, *masked = embedding.gathered(tokens, self.frequencies, *masks)
        whole = rows.view(*ids.shape, -1)
        if basis is not None:
            whole = projected(whole, basis)
        read = torch.ones_like(whole, dtype=torch.bool) if kept is None else masked[0].view_as(whole)
        values = (whole if kept is None else whole * read).detach().requires_grad_()
        weights = {}
        if linear is not None:
            linear = linear if kept_linear is None else linear * masked[1]
            weights["linear"] = linear.view(ids.shape).detach().requires_grad_()
        with torch.enable_grad():
            # A backbone may write into its input, as in training.
            embeddings = values.clone() if basis is None else projected(values, basis.transpose(-1, -2))
            logits = self.module.backbone(embeddings, **weights)
            wanted = labels.to(device).float()
            loss = F.binary_cross_entropy_with_logits(logits.float(), wanted, reduction="sum")
        return _Pass(frequencies.view(ids.shape), whole, read, values, list(weights.values()), loss)

    @contextmanager
    def at_hand(self) -> Iterator[None]:
        """Moves the module to the device of the search for a while: after a fit, Lightning moves it to main memory.

        The sums of the criterion are on that device, and processes communicate through it.
        """
        home = next(self.module.parameters()).device
        if home != self.frequencies.device:
            self.module.to(self.frequencies.device)
        try:
            yield
        finally:
            if home != self.frequencies.device:
                self.module.to(home)

    def check_as_it_was(self) -> None:
        """Checks that the module is as the search left it.

        Raises:
            BadInput: The module has been trained since, or rebuilt.
        """
        if not self._is_as_it_was():
            raise BadInput(
                "sizes for another budget are measured on the model as the search left it, and it has been trained or "
                "rebuilt since: ask for the sizes of all budgets first"
            )

    def __getstate__(self) -> dict[str, Any]:
        """State for copies: to detect changes they keep only the values, as version counts start anew in a copy."""
        return vars(self) | {"_seen": (None, self._seen[1] if self._is_as_it_was() else None)}

    def _is_as_it_was(self) -> bool:
        (counts, values), (counts_seen, values_seen) = self._version(), self._seen
        return counts_seen in (None, counts) and values == values_seen

    def _version(self) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Returns numbers for each parameter that change when something is written to it.

        Torch counts writes, but not those of its fused optimizers: so the sum of some values is compared, too.
        """
        counts, sums = [], []
        for parameter in self.module.parameters():
            values = parameter.detach().reshape(-1)
            some = values[:: max(1, len(values) // _SAMPLED)].double()
            counts.append(parameter._version)
            # NaN does not equal itself.
            sums.append(float(some.nan_to_num(nan=0.5, posinf=1.5, neginf=2.5).sum()))
        return tuple(counts), tuple(sums)


@contextmanager
def _evaluated(module: nn.Module) -> Iterator[None]:
    """Puts a module in evaluation mode; afterwards, restores the training mode of each of its parts."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
