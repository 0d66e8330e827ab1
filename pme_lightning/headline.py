"""What a summary comes to: its models, the lines of the closing table, the curve; the same wherever it is told."""

from __future__ import annotations

from typing import Any

from pme_lightning.measures import MEASURES


def columns(summary: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Returns the models of a run, by what they are called: the full-size one first, where there are two."""
    if summary.get("exported"):
        checkpoint = summary | {"embedding": {"bits": 32, **summary["embedding"]}}
        return [("checkpoint", checkpoint), ("exported", summary["exported"])]
    baseline = summary["baseline"]
    named = [("full-size", baseline)] if baseline else []
    return [*named, ("multi-size" if is_multi_size(summary) else "full-size", summary)]


def is_multi_size(summary: dict[str, Any]) -> bool:
    """Whether the run's own model has sizes."""
    if summary["search"] or summary["command"] == "finetune":
        # Sizes of all that a budget allows may sum to what the full-size table has, and are not its own.
        return True
    return summary["embedding"]["parameters"] != summary["embedding"]["full_parameters"]


def rows(models: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Returns the lines that any of the models has something to say to: a label, and a text for each model."""
    lines = [(label, [values(model) for model in models]) for label, values in _rows()]
    return [(label, [cell or "-" for cell in cells]) for label, cells in lines if any(cells)]


def _rows() -> list[tuple[str, Any]]:
    def metric(split: str, name: str) -> Any:
        return lambda model: "" if (model.get(split) or {}).get(name) is None else f"{model[split][name]:.4f}"

    def finetune(name: str, pattern: str) -> Any:
        return lambda model: format(model["finetune"][name], pattern) if (model["finetune"] or {}).get(name) else ""

    def embedding(name: str, pattern: str) -> Any:
        return lambda model: format(model["embedding"][name], pattern)

    return [
        ("test AUC", metric("test", "auc")),
        ("test logloss", metric("test", "logloss")),
        ("validation AUC", metric("valid", "auc")),
        ("validation logloss", metric("valid", "logloss")),
        ("embedding parameters", embedding("parameters", ",")),
        ("bits of a value", lambda model: str(model["embedding"].get("bits", ""))),
        ("embedding bytes", embedding("bytes", ",")),
        ("fraction of full size", embedding("fraction", ".1%")),
        ("search seconds", lambda model: f"{model['search']['seconds']:.1f}" if model.get("search") else ""),
        ("training seconds", finetune("seconds", ".1f")),
        ("training epochs", finetune("epochs", "d")),
        ("best epoch", finetune("best_epoch", "d")),
        ("training rows/s", finetune("rows_per_second", ",.0f")),
    ]


def curve_rows(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the points of the curve; what a point took in seconds is the search and its own training."""
    points = [(point["budget"], summary["search"]["seconds"], point) for point in summary["pareto"]]
    if summary["baseline"]:
        points.insert(0, ("full", 0.0, summary["baseline"]))
    return [
        {
            "budget": name,
            **{key: point["embedding"][key] for key in ("fraction", "parameters", "bytes")},
            **{key: point["test"][key] for key in ("auc", "logloss")},
            "best_epoch": point["finetune"]["best_epoch"],
            "seconds": searching + point["finetune"]["seconds"],
        }
        for name, searching, point in points
    ]


def verdict(summary: dict[str, Any]) -> str | None:
    """Returns what was saved and lost against the full-size model; ``None`` where that was not measured.

    Of an export: against the full-size table, and the checkpoint that it was made of.
    """
    if summary.get("exported"):
        return _verdict_of_export(summary)
    baseline = summary["baseline"]
    if not baseline or not is_multi_size(summary):
        return None
    changes = _changes(summary, baseline, "test")
    if changes is None:
        return None
    saved = 1 - summary["embedding"]["bytes"] / baseline["embedding"]["bytes"]
    return f"saved {saved:.1%} of the embedding's bytes; {changes} against full size"


def _verdict_of_export(summary: dict[str, Any]) -> str:
    exported = summary["exported"]
    size = f"the exported table has {exported['embedding']['fraction']:.1%} of the full-size table's bytes"
    changes = _changes(exported, summary, "valid")
    return size if changes is None else f"{size}; {changes} against the checkpoint"


def _changes(model: dict[str, Any], reference: dict[str, Any], split: str) -> str | None:
    """Returns by how much the measures of a model differ from another's; ``None`` where one was not measured."""
    if None in [each[split][measure.key] for each in (model, reference) for measure in MEASURES]:
        return None
    return ", ".join(
        f"{measure.label} {model[split][measure.key] - reference[split][measure.key]:+.4f}" for measure in MEASURES
    )
