"""PME Lightning: click-through-rate models whose every token has an embedding size of its own.

The names below are loaded when they are first used, so that ``import pme_lightning`` costs nothing by itself.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pme_lightning.errors import BadInput
from pme_lightning.version import __version__

if TYPE_CHECKING:
    from pme_lightning.data import ClickDataModule, SyntheticDataModule
    from pme_lightning.embedding import FullEmbedding, MultiSizeEmbedding
    from pme_lightning.export import ExportedModel, export_model
    from pme_lightning.module import CTRModule
    from pme_lightning.runs.python_run import Outcome, search_and_finetune
    from pme_lightning.search import SearchResult

__all__ = [
    "BadInput",
    "CTRModule",
    "ClickDataModule",
    "ExportedModel",
    "FullEmbedding",
    "MultiSizeEmbedding",
    "Outcome",
    "SearchResult",
    "SyntheticDataModule",
    "__version__",
    "export_model",
    "search_and_finetune",
]

_HOMES = {
    "CTRModule": "pme_lightning.module",
    "ClickDataModule": "pme_lightning.data",
    "ExportedModel": "pme_lightning.export",
    "FullEmbedding": "pme_lightning.embedding",
    "MultiSizeEmbedding": "pme_lightning.embedding",
    "Outcome": "pme_lightning.runs.python_run",
    "SearchResult": "pme_lightning.search",
    "SyntheticDataModule": "pme_lightning.data",
    "export_model": "pme_lightning.export",
    "search_and_finetune": "pme_lightning.runs.python_run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pme_lightning' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
