"""What a run reached: the full-size model beside the multi-size one, or the curve of several budgets."""

from __future__ import annotations

from typing import Any

from pme_lightning import headline
from pme_lightning.measures import MEASURES
from pme_lightning.pages.elements import metric, section, table, tiles
from pme_lightning.pages.markup import Markup, tag
from pme_lightning.pages.pareto_chart import Curve, Point, pareto_charts
from pme_lightning.pages.scales import percent
from pme_lightning.pages.training_section import epochs

Summary = dict[str, Any]


def result_of_run(summary: Summary) -> Markup:
    """Returns the section; ``summary``: what ``summary.json`` holds."""
    verdict = headline.verdict(summary)
    conclusion = None if verdict is None else tag("p", f"{verdict[0].upper()}{verdict[1:]}.", class_="verdict")
    best = summary["data"].get("best_auc")
    planted = None
    if best is not None:
        planted = tag(
            "p",
            f"The data are planted: the best reachable is AUC {best:.4f}, "
            f"logloss {summary['data']['best_logloss']:.4f}.",
        )
    if summary.get("pareto"):
        found = points(summary)
        curve = pareto_charts("pareto", [Curve("multi-size", found, 0)], full_size(summary)) if found else None
        return section("Result", tiles(_curve_tiles(summary)), curve, _budgets(summary), planted)
    return section("Result", conclusion, tiles(_tiles(summary)), _models(summary), planted)


def _models(summary: Summary) -> Markup:
    models = headline.columns(summary)
    lines = headline.rows([model for _, model in models])
    header = ["", *(name for name, _ in models)]
    return table(header, [[label, *cells] for label, cells in lines], "The models", text_columns=(0,))


def _tiles(summary: Summary) -> list[tuple[str, str, str]]:
    embedding, baseline = summary["embedding"], summary["baseline"] or {}
    kept, full = embedding["parameters"], embedding["full_parameters"]
    entries = [("embedding", f"{kept:,}", "parameters, full size")]
    if headline.is_multi_size(summary):
        entries = [("embedding kept", f"{embedding['fraction']:.1%}", f"{kept:,} of {full:,} parameters")]
    for split, word in (("test", "test"), ("valid", "validation")):
        for measure in MEASURES:
            value = (summary.get(split) or {}).get(measure.key)
            if value is not None:
                beside = (baseline.get(split) or {}).get(measure.key)
                note = "" if beside is None else f"{metric(value - beside, signed=True)} against full size"
                entries.append((f"{word} {measure.label}", metric(value), note))
    return [*entries, *_search_tile(summary)]


def _curve_tiles(summary: Summary) -> list[tuple[str, str, str]]:
    """Of several budgets: the best, whichever that is."""
    full, found = full_size(summary), points(summary)
    entries = [("budgets", str(len(summary["pareto"])), "from one search")]
    for measure in MEASURES if found else ():
        best = measure.best(found, key=lambda point: point.value(measure))
        note = f"with {percent(best.kept)} kept"
        note += f"; {metric(best.value(measure) - full.value(measure), signed=True)} against full size" if full else ""
        entries.append((f"best test {measure.label}", metric(best.value(measure)), note))
    return [*entries, *_search_tile(summary)]


def _search_tile(summary: Summary) -> list[tuple[str, str, str]]:
    search, baseline = summary["search"], summary["baseline"]
    if not search:
        return []
    training = baseline["finetune"]["seconds"] if baseline else 0
    note = f"{search['seconds'] / training:.0%} of full training" if training else epochs(search["epochs"])
    return [("search", f"{search['seconds']:.1f} s", note)]


def _budgets(summary: Summary) -> Markup:
    models = [("full", summary["baseline"])] if summary["baseline"] else []
    models += [(point["budget"], point) for point in summary["pareto"]]
    rows = [
        [
            name,
            f"{model['embedding']['fraction']:.1%}",
            metric(model["test"]["auc"]),
            metric(model["test"]["logloss"]),
            f"{model['embedding']['parameters']:,}",
            f"{model['embedding']['bytes']:,}",
            str(model["finetune"]["best_epoch"]),
            f"{model['finetune']['seconds']:.1f}",
        ]
        for name, model in models
    ]
    header = ["budget", "kept", "test AUC", "logloss", "parameters", "bytes", "best epoch", "training seconds"]
    return table(header, rows, "The full-size model, and one for each budget", text_columns=(0,))


def points(summary: Summary) -> list[Point]:
    """Returns the models of a run that were tested, except the full-size one beside them."""
    models = [(point["budget"], point) for point in summary.get("pareto") or []] or [("", summary)]
    return [point for name, model in models if (point := _point(name, model))]


def full_size(summary: Summary) -> Point | None:
    """Returns the full-size model beside a run's own, if it was tested."""
    return _point("full size", summary["baseline"]) if summary["baseline"] else None


def _point(label: str, model: Summary) -> Point | None:
    test = model["test"] or {}
    if test.get("auc") is None or test.get("logloss") is None or model["embedding"]["fraction"] <= 0:
        return None
    return Point(label, model["embedding"]["fraction"], test["auc"], test["logloss"])
