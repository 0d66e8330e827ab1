"""Which inputs the ``forward`` of a backbone takes."""

from __future__ import annotations

import inspect

from torch import nn

from pme_lightning.errors import BadInput

_ANY_NUMBER = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def takes_linear(backbone: nn.Module) -> bool:
    """Whether a backbone takes first-order weights, by a parameter ``linear``.

    Raises:
        BadInput: It takes no embeddings, or needs more than embeddings and first-order weights.
    """
    parameters = list(inspect.signature(backbone.forward).parameters.values())
    if not parameters:
        raise BadInput(f"{type(backbone).__name__}.forward takes nothing; it is given the embeddings (B, F, D)")
    others = parameters[1:]
    needed = [each.name for each in others if each.default is each.empty and each.kind not in _ANY_NUMBER]
    if unknown := [name for name in needed if name != "linear"]:
        raise BadInput(
            f"{type(backbone).__name__}.forward asks for '{unknown[0]}'; it is given the embeddings (B, F, D) and, as "
            "'linear', the first-order weights (B, F)"
        )
    return any(each.name == "linear" for each in others)
