"""How far a fit has come, and a search in it."""

from __future__ import annotations

from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from pme_lightning.epoch_steps import epoch_of
from pme_lightning.module import CTRModule


def search_of(trainer: Trainer) -> Any | None:
    """Returns the callback that searches in this fit; ``None`` in a fit that is no search."""
    return next((each for each in trainer.callbacks if _is_search(each)), None)  # type: ignore[attr-defined]


def _is_search(callback: Callback) -> bool:
    return hasattr(callback, "num_steps") and hasattr(callback, "result")


def progress_of(trainer: Trainer, batches: int) -> tuple[int, float]:
    """Returns how much is done, and of how much: steps of a search, whose length is known, or batches of the epoch.

    Args:
        trainer: The phase's Trainer.
        batches: How many batches of the epoch are done.
    """
    search = search_of(trainer)
    if search is None:
        return batches, float(trainer.num_training_batches)
    return trainer.global_step, float(search.num_steps(epoch_of(trainer)))


def kept_fraction(trainer: Trainer, pl_module: LightningModule) -> float:
    """Returns which part of the full-size per-token values there is now: as far as a search has pruned, or after it."""
    search = search_of(trainer)
    if search is not None:
        return float(getattr(search, "kept_fraction", 1.0))
    module = cast(CTRModule, pl_module)
    return module.embedding.num_parameters / module.full_parameters


def found_by_search(trainer: Trainer) -> str | None:
    """Returns in words what the search of this fit found; ``None`` if there was none, or it is not done."""
    search = search_of(trainer)
    if search is None or search.result is None:
        return None
    result = search.result
    sizes = result.sizes.double()
    share = f" ({search.kept_fraction:.1%})" if hasattr(search, "kept_fraction") else ""
    shared = result.projection_parameters
    beside = f" beside {shared:,} of projections" if result.axes == "field" and shared else ""
    return (
        f"kept {result.parameters:,} values{share}{beside}: sizes {int(sizes.min())} to {int(sizes.max())}, "
        f"mean {sizes.mean():.2f}, {(sizes == 0).double().mean():.0%} are 0"
    )
