"""Export: a trained model as one program that serves, its values in few bits.

The names below are loaded when they are first used: to predict with an exported model takes no Lightning.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pme_lightning.export.loaded import ExportedModel
    from pme_lightning.export.saved import export_model
    from pme_lightning.export.served import ServedEmbedding, ServedModel

__all__ = ["ExportedModel", "ServedEmbedding", "ServedModel", "export_model"]

_HOMES = {"ExportedModel": "loaded", "ServedEmbedding": "served", "ServedModel": "served", "export_model": "saved"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pme_lightning.export' has no attribute '{name}'")
    return getattr(importlib.import_module(f"pme_lightning.export.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
