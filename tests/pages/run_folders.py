"""Folders of runs that never ran: results and findings as a run writes them, over sizes drawn at random."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
import yaml

from pme_lightning.score_spectrum import score_spectrum
from pme_lightning.search import Scores, SearchResult
from pme_lightning.size_facts import size_facts


def model(auc: float | None, fraction: float, full: int = 10_000) -> dict[str, Any]:
    """The blocks of one model."""
    parameters = round(full * fraction)
    return {
        "embedding": {
            "full_parameters": full,
            "parameters": parameters,
            "fraction": fraction,
            "bytes": 4 * parameters,
            "index_bytes": 0,
        },
        "finetune": {"seconds": 12.5, "epochs": 3, "best_epoch": 2, "rows_per_second": 50_000.0},
        "test": {"auc": auc, "logloss": None if auc is None else 1 - auc},
    }


def write_run(
    folder: Path,
    fields: list[str],
    tokens: int = 50,
    D: int = 8,
    auc: float | None = 0.75,
    baseline: float | None = 0.76,
    budgets: tuple[str, ...] = (),
    command: str = "pme",
    findings: bool = True,
    rows: int = 1000,
    steepness: float = 4.0,
    config: dict[str, Any] | None = None,
) -> Path:
    """Writes the folder of a finished run, without what only training needs."""
    folder.mkdir(parents=True)
    torch.manual_seed(len(fields))
    V = tokens * len(fields)
    result = SearchResult(torch.randint(0, D + 1, (V,)), torch.rand(V) < 0.5, D, None, "20%", "Fisher")
    facts = dataclasses.asdict(size_facts(result, fields, [tokens] * len(fields), (torch.rand(V) ** -1.5).long() - 1))
    scores = score_spectrum(Scores(torch.rand(V, D) ** steepness, torch.rand(V) ** steepness))
    summary = {
        "version": 1,
        "command": command,
        "seed": 7,
        "data": {"name": "clicks", "rows": {"train": 8 * rows, "valid": rows, "test": rows}}
        | {"fields": len(fields), "tokens": V},
        "search": {"seconds": 5.0, "epochs": 1.0, "criterion": "Fisher", "budget": "20%", "kept": 2000},
        **model(auc, 0.2),
        "baseline": None if baseline is None else model(baseline, 1.0),
    }
    if budgets:
        summary["pareto"] = [
            {"budget": name, "sizes": f"sizes/{name}.safetensors", **model((auc or 0.7) + i / 1000, float(name))}
            for i, name in enumerate(budgets)
        ]
    phases = [*(f"finetune-{name}" for name in budgets)] or ["finetune"]
    curve = {"loss": [[0.5, 0.7], [1.0, 0.6], [2.0, 0.55]], "valid": [[1.0, 0.7, 0.6], [2.0, 0.72, 0.58]]}
    found = {
        "version": 1,
        "software": {"torch": "2.0"},
        "fields": [{"name": name, "tokens": tokens} for name in fields],
        "curves": {"search": curve | {"valid": []}, **dict.fromkeys([*phases, "full"], curve)},
        "sizes": dict.fromkeys(budgets or ("20%",), facts),
        "schedule": [[50, 0.6], [100, 0.2]],
        "scores": dataclasses.asdict(scores),
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    if findings:
        (folder / "findings.json").write_text(json.dumps(found))
    settings = {"command": command, "seed": 7, "backbone": {"class_path": "pme_lightning.backbones.FM"}} | (
        config or {}
    )
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder
