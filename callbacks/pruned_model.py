"""What rows tell about their tokens' values once a model is pruned, without training it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from pme_lightning.callbacks.rank_sums import spans_processes
from pme_lightning.callbacks.recent_batches import Batch
from pme_lightning.embedding import FullEmbedding
from pme_lightning.embedding.projection import projected
from pme_lightning.errors import BadInput
from pme_lightning.module import CTRModule
from pme_lightning.search import RowInformation
from pme_lightning.search.row_information import band_sums, use_sums

# Values of a parameter that are looked at to tell whether it was trained.
_SAMPLED = 1 << 12


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
        names = ("rows", "products", "firsts", "linear_products", "bands", "uses")
        sums: dict[str, Tensor | float] = dict.fromkeys(names, 0.0)
        for frequencies, (whole, read), values, linear, loss in self._passes(kept, kept_linear, basis):
            gradients = [each.double() for each in torch.autograd.grad(loss, [values, *linear], materialize_grads=True)]
            sums["rows"] += values.new_tensor([len(values)], dtype=torch.float64)
            by_field = gradients[0].transpose(0, 1)
            sums["products"] += by_field.mT @ by_field
            sums["bands"] += band_sums(frequencies, *gradients)
            sums["uses"] += use_sums(whole, read, gradients[0])
            if linear:
                sums["firsts"] += gradients[1].square().sum(0)
                sums["linear_products"] += (gradients[0] * gradients[1].unsqueeze(-1)).sum(0)
        found = {name: each for name, each in sums.items() if isinstance(each, Tensor)}
        if spans_processes():
            for each in found.values():
                dist.all_reduce(each)
        return RowInformation.of_sums(
            found["rows"],
            found["products"],
            found.get("firsts"),
            found.get("linear_products"),
            found["bands"],
            found["uses"],
        )

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
        for _, _, values, _, loss in self._passes(kept, kept_linear, basis):
            sums += torch.stack([loss.detach().double(), loss.new_tensor(len(values)).double()])
        if spans_processes():
            dist.all_reduce(sums)
        return float(sums[0] / sums[1].clamp(min=1))

    def _passes(
        self, kept: Tensor | None, kept_linear: Tensor | None, basis: Tensor | None
    ) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor], Tensor, list[Tensor], Tensor]]:
        """Yields for each batch what is looked at.

        That is the frequencies ``(B, F)``, all values and which are kept, those that are read ``(B, F, D)``, the
        first-order weights ``(B, F)``, and the summed loss.
        """
        self.check_as_it_was()
        embedding = cast(FullEmbedding, self.module.embedding)
        device = embedding.weight.device
        masks = [part.to(device) for part in (kept, kept_linear) if part is not None]
        training = [part for part in self.module.modules() if part.training]
        self.module.eval()
        try:
            for ids, labels in self.batches:
                tokens = ids.to(device).reshape(-1).long()
                rows, linear = embedding.rows(tokens)
                frequencies, *masked = embedding.gathered(tokens, self.frequencies, *masks)
                values = rows.view(*ids.shape, -1)
                if basis is not None:
                    values = projected(values, basis)
                whole, read = values, torch.ones_like(values, dtype=torch.bool)
                if kept is not None:
                    read = masked[0].view_as(values)
                    values = values * read
                values = values.detach().requires_grad_()
                weights = []
                if linear is not None:
                    linear = linear if kept_linear is None else linear * masked[1]
                    weights.append(linear.view(ids.shape).detach().requires_grad_())
                with torch.enable_grad():
                    # A backbone may write into what it is given, as it may while it trains.
                    embeddings = values.clone() if basis is None else projected(values, basis.transpose(-1, -2))
                    logits = self.module.backbone(embeddings, **({"linear": weights[0]} if weights else {}))
                    wanted = labels.to(device).float()
                    loss = F.binary_cross_entropy_with_logits(logits.float(), wanted, reduction="sum")
                    yield frequencies.view(ids.shape), (whole, read), values, weights, loss
        finally:
            for part in training:
                part.training = True

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
