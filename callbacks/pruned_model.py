"""What rows tell about their tokens' values once a model is pruned, without training it."""

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

# Values of a parameter that are looked at to tell whether it was trained.
_SAMPLED = 1 << 12


class _Pass(NamedTuple):
    """A batch, as the pruned model reads it.

    Attributes:
        frequencies: ``(B, F)``: rows of the training split of each token.
        whole: ``(B, F, D)``: all values, pruned or not.
        kept: ``(B, F, D)`` bool: which of them are kept.
        values: ``(B, F, D)``: the values that are read, zero where they are pruned; the loss depends on them.
        linear: first-order weights ``(B, F)``, alike; none without them.
        loss: the log loss, summed over rows.
    """

    frequencies: Tensor
    whole: Tensor
    kept: Tensor
    values: Tensor
    linear: list[Tensor]
    loss: Tensor


class PrunedModel:
    """A searched model, to be looked at as it would be if it were pruned; it stays as it is.

    Args:
        module: The searched module.
        batches: What is looked at.
        frequencies: ``(V,)``: rows of the training split of each of the tokens that are here.
    """

    def __init__(self, module: CTRModule, batches: Iterable[Batch], frequencies: Tensor) -> None:
        self.module = module
        self.batches = batches
        self.frequencies = frequencies
        self._seen: tuple[tuple[int, ...] | None, tuple[float, ...] | None] = self._version()

    def information(self, kept: Tensor, kept_linear: Tensor | None, basis: Tensor | None = None) -> RowInformation:
        """Measures what a row tells about each value, kept or not, where only the kept ones are read, and their use.

        Where there are several processes, all of them call this together, and get what all of their rows tell.

        Args:
            kept: ``(V, D)`` bool, of the tokens that are here.
            kept_linear: ``(V,)`` bool: which first-order weights are kept; None without them.
            basis: ``(D, D)`` or ``(F, D, D)``, the axes that values are pruned in; None for those of the table.

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
        """Returns the mean log loss of the rows where only the kept values are read; of the whole model by default.

        Where there are several processes, all of them call this together, and get the mean over all of their rows.

        Args:
            kept: As in :meth:`information`, and so are the others.
            kept_linear: See there.
            basis: See there.

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
        """Yields what is looked at of each batch; arguments as in :meth:`loss`."""
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
            # A backbone may write into what it is given, as it may while it trains.
            embeddings = values.clone() if basis is None else projected(values, basis.transpose(-1, -2))
            logits = self.module.backbone(embeddings, **weights)
            wanted = labels.to(device).float()
            loss = F.binary_cross_entropy_with_logits(logits.float(), wanted, reduction="sum")
        return _Pass(frequencies.view(ids.shape), whole, read, values, list(weights.values()), loss)

    @contextmanager
    def at_hand(self) -> Iterator[None]:
        """Brings the module to the device of the search meanwhile: after a fit Lightning takes it to main memory.

        There is what the criterion has summed up, and there processes speak to one another.
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
        """What copies take along: of what tells that it is as it was the values alone, as counts begin anew in them."""
        return vars(self) | {"_seen": (None, self._seen[1] if self._is_as_it_was() else None)}

    def _is_as_it_was(self) -> bool:
        (counts, values), (counts_seen, values_seen) = self._version(), self._seen
        return counts_seen in (None, counts) and values == values_seen

    def _version(self) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Returns numbers for each parameter that are others once something was written to it.

        Torch counts what is written, but not what its fused optimizers write: so the sum of some values counts, too.
        """
        counts, sums = [], []
        for parameter in self.module.parameters():
            values = parameter.detach().reshape(-1)
            some = values[:: max(1, len(values) // _SAMPLED)].double()
            counts.append(parameter._version)
            # NaN is not the same as itself.
            sums.append(float(some.nan_to_num(nan=0.5, posinf=1.5, neginf=2.5).sum()))
        return tuple(counts), tuple(sums)


@contextmanager
def _evaluated(module: nn.Module) -> Iterator[None]:
    """Has a module work as it does when it is evaluated; afterwards each part of it trains that did before."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
