"""Which of Lightning's precisions a model can be trained in."""

from __future__ import annotations

from pme_lightning.errors import BadInput


def check_precision(precision: str | None, split: bool = False, trains: bool = True) -> None:
    """Refuses precisions that a table cannot be trained in, or its rows not be read in.

    Args:
        precision: A Trainer's.
        split: Whether the table is split over processes.
        trains: Whether it is to be trained; otherwise it is only read.

    Raises:
        BadInput: It turns all parameters into others than 32 bits, the table's among them, whose optimizer would lose
            most of its steps; or it is 16-mixed and the table is split: a process would leave a step out if *its*
            gradients overflow. Without training: it has 16 bits, where rows are read in 32.
    """
    precision = precision or "32-true"
    if not trains:
        if precision in ("bf16-true", "16-true"):
            raise BadInput(
                f"trainer.precision: rows are read in 32 bits, and {precision} has the network in 16: use bf16-mixed"
            )
        return
    if precision.endswith("-true") and precision != "32-true":
        narrow = ", model.embedding_bits=16 for a table of half the bytes" if "16" in precision else ""
        raise BadInput(
            f"trainer.precision: {precision} would turn the embedding table into other numbers; use bf16-mixed or "
            f"32-true{narrow}"
        )
    if split and precision == "16-mixed":
        raise BadInput("trainer.precision: 16-mixed does not go with trainer=sharded; use bf16-mixed or 32-true")
