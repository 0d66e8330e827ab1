"""The machine-readable result: ``summary.json``, and the blocks that it is made of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pme_lightning.measures import MEASURES
from pme_lightning.module import CTRModule

if TYPE_CHECKING:
    from pme_lightning.data import EncodedDataModule

BYTES_PER_PARAMETER = 4


def embedding_facts(
    full_parameters: int, parameters: int, parameter_bytes: int, index_bytes: int = 0, bits: int = 32
) -> dict[str, Any]:
    """Returns the ``embedding`` block: everything in the embedding layer counts, the index too.

    ``fraction`` is what its bytes are of those of a full-size table of 32 bits.

    Args:
        full_parameters: Parameters of the full-size table.
        parameters: Those of this one: per-token values, first-order weights, the projection or projections.
        parameter_bytes: Their bytes.
        index_bytes: Bytes of the index from token to row.
        bits: Bits of a token's value.
    """
    size = parameter_bytes + index_bytes
    return {
        "full_parameters": full_parameters,
        "parameters": parameters,
        "fraction": size / (full_parameters * BYTES_PER_PARAMETER),
        "bytes": size,
        "index_bytes": index_bytes,
        **({} if bits == 32 else {"bits": bits}),
    }


def module_facts(module: CTRModule) -> dict[str, Any]:
    """Returns the ``embedding`` block of a model."""
    embedding = module.embedding
    return embedding_facts(
        module.full_parameters,
        embedding.num_parameters,
        embedding.num_bytes,
        embedding.index_bytes,
        8 * embedding.dtype.itemsize,
    )


def block(
    module: CTRModule, facts: dict[str, Any] | None, metrics: Mapping[str, float] | None, split: str = "test"
) -> dict[str, Any]:
    """Returns the blocks of ``summary.json`` on one model.

    Args:
        module: The model.
        facts: Its ``finetune`` block; ``None`` where it was not trained.
        metrics: What Lightning measured, by its names; ``None`` where nothing was.
        split: Over which split.
    """
    measured = None
    if metrics is not None:
        measured = {each.key: _finite(metrics[f"{split}_{each.key}"]) for each in MEASURES}
    return {"embedding": module_facts(module), "finetune": facts, split: measured}


def exported_block(
    embedding: Mapping[str, Any], facts: Mapping[str, Any], metrics: Mapping[str, float]
) -> dict[str, Any]:
    """Returns the ``exported`` block of ``summary.json``.

    Args:
        embedding: The ``embedding`` block of the model that was exported.
        facts: What is known of the exported one.
        metrics: Its ``auc`` and ``logloss`` over the validation split.
    """
    size = facts["embedding_bytes"]
    smaller = {
        "bits": facts["bits"],
        "bytes": size,
        "index_bytes": 0,
        "fraction": size / (embedding["full_parameters"] * BYTES_PER_PARAMETER),
    }
    return {
        "embedding": {**embedding, **smaller},
        "finetune": None,
        "valid": {name: _finite(value) for name, value in metrics.items()},
    }


def _finite(value: float) -> float | None:
    # JSON has no NaN.
    return float(value) if math.isfinite(value) else None


def summary(
    command: str,
    seed: int,
    data: EncodedDataModule,
    search: dict[str, Any] | None,
    model: dict[str, Any],
    baseline: dict[str, Any] | None,
) -> dict[str, Any]:
    """Returns the whole of ``summary.json``."""
    return {
        "version": 1,
        "command": command,
        "seed": seed,
        "data": _data_facts(data),
        "search": search,
        **{"embedding": None, "finetune": None, "test": None} | model,
        "baseline": baseline,
    }


def _data_facts(data: EncodedDataModule) -> dict[str, Any]:
    facts = {"name": data.name, "rows": data.rows, "fields": len(data.fields), "tokens": data.num_tokens}
    if "test" in data.clicks:
        facts["test_clicks"] = data.clicks["test"]
    # Planted data know the best that can be reached; it is NaN where the test rows have one label only.
    for name in ("best_auc", "best_logloss"):
        best = getattr(data, name, math.nan)
        if math.isfinite(best):
            facts[name] = float(best)
    return facts
