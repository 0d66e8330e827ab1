"""What a run won and lost: the full-size model beside the multi-size one, and the curve over budgets."""

from __future__ import annotations

from typing import Any

import wandb
from wandb.plot import bar, line

from pme_lightning.headline import columns, curve_rows

CURVE_AXIS = "pareto/fraction"
_BARS = {
    "test_auc": "Test AUC",
    "test_logloss": "Test logloss",
    "embedding_parameters": "Embedding parameters",
    "embedding_bytes": "Embedding bytes",
}


def log_result(run: wandb.Run, summary: dict[str, Any]) -> None:
    """Shows the result of a run.

    Args:
        run: The open run.
        summary: What ``summary.json`` holds.
    """
    if summary["embedding"] is not None:
        run.log(model_charts(summary))
    if "pareto" in summary:
        _log_curve(run, curve_rows(summary))


def model_charts(summary: dict[str, Any]) -> dict[str, Any]:
    """Returns the table of the models, and a chart of each figure that all of them have."""
    models = models_of(summary)
    head: list[str | int] = ["model", *models[0][1]]
    rows = [[name, *figures.values()] for name, figures in models]
    charts: dict[str, Any] = {"result/models": wandb.Table(head, data=rows, allow_mixed_types=True)}
    for key, title in _BARS.items():
        if all(figures[key] is not None for _, figures in models):
            values = wandb.Table(["model", key], data=[[name, figures[key]] for name, figures in models])
            charts[f"result/{key}"] = bar(values, "model", key, title=title)
    return charts


def models_of(summary: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Returns the models of a run by name, the full-size one first; a figure that was not measured is ``None``."""
    return [(name, _figures(model)) for name, model in columns(summary)]


def _figures(block: dict[str, Any]) -> dict[str, Any]:
    measured, training = block.get("test") or block.get("valid") or {}, block.get("finetune") or {}
    split = "test" if block.get("test") or not block.get("valid") else "valid"
    figures: dict[str, Any] = dict.fromkeys(_BARS)
    figures |= {f"{split}_{name}": measured.get(name) for name in ("auc", "logloss")}
    figures |= {f"embedding_{key}": block["embedding"][key] for key in ("parameters", "bytes", "fraction")}
    return figures | {f"training_{key}": training.get(key) for key in ("seconds", "epochs", "rows_per_second")}


def _log_curve(run: wandb.Run, rows: list[dict[str, Any]]) -> None:
    run.define_metric(CURVE_AXIS, hidden=True)
    run.define_metric("pareto/*", step_metric=CURVE_AXIS)
    head: list[str | int] = [*rows[0]]
    table = wandb.Table(head, data=[list(row.values()) for row in rows], allow_mixed_types=True)
    charts: dict[str, Any] = {"curve/points": table}
    for key, title in (("auc", "Test AUC"), ("logloss", "Test logloss")):
        told = [[row["fraction"], row[key]] for row in rows if row[key] is not None]
        points = wandb.Table(["kept fraction", key], data=told)
        charts[f"curve/{key}"] = line(points, "kept fraction", key, title=f"{title} over kept fraction")
    run.log(charts)
    # As figures of the run too: curves of several runs are drawn into one panel.
    for row in sorted(rows, key=lambda row: row["fraction"]):
        figures = {f"pareto/{key}": row[key] for key in ("bytes", "auc", "logloss") if row[key] is not None}
        run.log({**figures, CURVE_AXIS: row["fraction"]})
