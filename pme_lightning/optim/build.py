"""Builds the optimizer of a model from what names it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from pme_lightning.class_path import import_class, instantiate
from pme_lightning.errors import BadInput
from pme_lightning.optim.joined import JoinedOptimizer
from pme_lightning.optim.row_blocks import RowBlock


def build_optimizer(
    parameters: Iterable[Tensor],
    table: Sequence[Tensor],
    optimizer: str | type,
    optimizer_args: dict[str, Any] | None = None,
    embedding_optimizer: str | type | None = None,
    embedding_optimizer_args: dict[str, Any] | None = None,
    blocks: Mapping[Tensor, Sequence[RowBlock]] | None = None,
    facts: Mapping[str, int | None] | None = None,
) -> Optimizer:
    """Returns one optimizer for all parameters, within which the table may have one of its own.

    Args:
        parameters: All parameters of the model.
        table: Those among them that belong to tokens.
        optimizer: A class or its import path.
        optimizer_args: Its arguments beside the parameters.
        embedding_optimizer: The optimizer of the table; ``None`` for the same as everything else.
        embedding_optimizer_args: Its arguments beside the parameters.
        blocks: How rows lie in parameters of the table, and are to be scaled; for optimizers that have
            ``set_blocks``, as :class:`~pme_lightning.optim.LazyAdagrad`.
        facts: What is known of model and training by name, ``None`` where it is not known yet: ``sums_over_pairs``,
            whether the model adds up products over all pairs of fields; ``fields``, how many tokens a row has;
            ``training_rows``, how many there are; ``epoch_steps``, how many steps they make. Optimizers of the table
            that have ``set_NAME``, as :class:`~pme_lightning.optim.LazyAdagrad`, are told, in this order.

    Raises:
        BadInput: A class cannot be imported, does not take its arguments, or cannot be joined with another.
    """
    parameters = list(parameters)
    if embedding_optimizer is None:
        alone = _informed(_built(optimizer, parameters, optimizer_args), blocks, facts)
        # A fused one would unscale gradients in its step: too late for those that are to be clipped.
        return JoinedOptimizer([alone]) if getattr(alone, "_step_supports_amp_scaling", False) else alone
    network = [parameter for parameter in parameters if all(parameter is not own for own in table)]
    optimizers = [_built(optimizer, network, optimizer_args)] if network else []
    try:
        of_table = _built(embedding_optimizer, list(table), embedding_optimizer_args)
        optimizers.append(_informed(of_table, blocks, facts))
        return JoinedOptimizer(optimizers) if network else optimizers[0]
    except ValueError as error:
        raise BadInput(f"embedding_optimizer: {error}") from error


def _built(optimizer: str | type, parameters: list[Tensor], arguments: dict[str, Any] | None) -> Optimizer:
    arguments = dict(arguments or {})
    cls = import_class(optimizer) if isinstance(optimizer, str) else optimizer
    if arguments.get("fused") and issubclass(cls, torch.optim.Adagrad) and any(each.is_cuda for each in parameters):
        # Older releases of torch (2.11) have it fused for processors alone, and say so in the first step.
        arguments["fused"] = None
    try:
        return instantiate(cls, parameters, **arguments)
    except RuntimeError as error:
        # So torch says that settings do not go together, such as fused and foreach.
        raise BadInput(f"{cls.__name__}: {error}") from error


def _informed(
    optimizer: Optimizer,
    blocks: Mapping[Tensor, Sequence[RowBlock]] | None,
    facts: Mapping[str, int | None] | None,
) -> Optimizer:
    """Tells an optimizer that takes it how rows lie, and what is known of the training; returns the optimizer."""
    for name, fact in (facts or {}).items():
        if fact is not None and hasattr(optimizer, f"set_{name}"):
            getattr(optimizer, f"set_{name}")(fact)
    if hasattr(optimizer, "set_blocks"):
        for parameter, own in (blocks or {}).items():
            optimizer.set_blocks(parameter, own)
    return optimizer
