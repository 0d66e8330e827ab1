"""Lightning's averages of weights: what they need of a run, and where they stay out of it."""

from __future__ import annotations

from collections.abc import Iterable

from jsonargparse import Namespace
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging, WeightAveraging

from pme_lightning.class_path import import_class
from pme_lightning.embedding import FullEmbedding, MultiSizeEmbedding
from pme_lightning.errors import BadInput
from pme_lightning.processes.connection import shard_of

# So many times what it spans a training should last.
_SPANS = 3


def without_averages(callbacks: Iterable[Callback]) -> list[Callback]:
    """Returns the callbacks that average no weights.

    A search goes without the others: it scores the weights as they are trained, and ends with those. So does a test by
    the Trainer that trained: they would put the weights of the last step in the place of a checkpoint's averages.
    """
    return [each for each in callbacks if not isinstance(each, WeightAveraging)]


def too_slow_for(averaging: Namespace, steps: int) -> str | None:
    """Says so where moving averages would still be mostly of where a training began when it ends.

    An average that moves by ``1 - decay`` every ``k`` steps spans ``k / (1 - decay)`` of them; after three times as
    many a twentieth of where it began is left.

    Args:
        averaging: That part of the configuration; of classes without a decay nothing is known.
        steps: The most that the training may take.
    """
    arguments = averaging.get("init_args") or Namespace()
    decay, every = arguments.get("decay"), arguments.get("update_every_n_steps")
    if decay is None or every is None or not issubclass(import_class(averaging.class_path), EMAWeightAveraging):
        return None
    span = every / (1 - decay) if decay < 1 else float("inf")
    if steps >= _SPANS * span:
        return None
    return (
        f"averages span some {span:.0f} steps and this training has {steps} at most: much of them is how it began; "
        "lower averaging.decay, or averaging=none"
    )


def check_buffers(callback: WeightAveraging, name: str) -> None:
    """Refuses averages of what is no weight.

    Args:
        callback: That averages.
        name: What it is called where it was given.
    """
    if callback._use_buffers:
        raise BadInput(
            f"{name} averages whole numbers too, such as where a table begins: give it use_buffers: false, and it "
            "copies them"
        )


def check_averaged_table(name: str, bits: int, splits: bool) -> None:
    """Refuses averages of a table that cannot have any.

    Of values of few bits what an average moves by in a step is less than half a last place; of a table that is split a
    checkpoint would have the averages of one process's rows.

    Args:
        name: What averages, as it was given.
        bits: Of a value of the table.
        splits: Whether the table is split over processes.
    """
    if bits < 32:
        raise BadInput(f"{name} would lose most of its small steps in values of 16 bits: model.embedding_bits=32")
    if splits:
        raise BadInput(f"{name} keeps a copy of the whole model, and trainer=sharded splits it: use trainer=ddp")


def check_averaged_model(callbacks: Iterable[Callback], table: FullEmbedding | MultiSizeEmbedding, split: bool) -> None:
    """Refuses callbacks that average weights where the model's table cannot have averages.

    Args:
        callbacks: Those of a fit.
        table: The table of the model.
        split: Whether it is split over processes.
    """
    for callback in callbacks:
        name = type(callback).__name__
        if isinstance(callback, (WeightAveraging, StochasticWeightAveraging)):
            check_averaged_table(name, 8 * table.dtype.itemsize, split)
        if isinstance(callback, WeightAveraging) and isinstance(table, MultiSizeEmbedding):
            check_buffers(callback, name)


def check_averages(config: Namespace, trainer: Trainer) -> None:
    """Refuses averages that would not be those of the model."""
    averages = [each for each in trainer.callbacks if isinstance(each, WeightAveraging)]  # type: ignore[attr-defined]
    if len(averages) > 1:
        names = " and ".join(type(each).__name__ for each in averages)
        raise BadInput(f"averaging, trainer.callbacks: {names} would both put their averages in: leave one of them out")
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, StochasticWeightAveraging):
            raise BadInput(
                "trainer.callbacks: StochasticWeightAveraging puts its averages in after the last validation, by which "
                "the model is chosen, and they would be lost: use EMAWeightAveraging with use_buffers: false"
            )
        if not isinstance(callback, WeightAveraging):
            continue
        name = f"{'trainer.callbacks' if config.averaging is None else 'averaging'}: {type(callback).__name__}"
        check_averaged_table(name, config.model.embedding_bits, shard_of(trainer) is not None)
        check_buffers(callback, name)
        if config.checkpoint.save_weights_only:
            raise BadInput(
                f"{name} puts averages into whole checkpoints alone: leave checkpoint.save_weights_only false"
            )
