"""Several runs side by side: their results, their sizes over accuracy, and what was set differently."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pme_lightning.pages.elements import document, metric, section, table
from pme_lightning.pages.markup import Child, Markup, tag
from pme_lightning.pages.pareto_chart import Curve, Point, pareto_charts
from pme_lightning.pages.run_page import FILE, class_name, full_size, points
from pme_lightning.pages.saved_run import SavedRun

# Keys that differ between any two runs and say nothing about them.
_OF_THE_RUN = ("run_dir", "resume")


def comparison_page(runs: Sequence[SavedRun], place: Path) -> str:
    """Returns the page.

    Args:
        runs: At least two, in the order to show them.
        place: Where the page will be, for links to the runs' own reports.
    """
    names = run_names(runs)
    return document(
        f"{len(runs)} runs compared",
        tag("header", tag("h1", f"{len(runs)} runs compared"), tag("p", _told(runs))),
        _other_data(runs, names),
        _curves(runs, names),
        _results(runs, names, place),
        _differences(runs, names),
    )


def run_names(runs: Sequence[SavedRun]) -> list[str]:
    """Returns a name for each run: that of its folder, with as much of what is above it as tells them apart."""
    parts = [run.path.parts for run in runs]
    depth = 1
    while len({part[-depth:] for part in parts}) < len(set(parts)) and depth < max(map(len, parts)):
        depth += 1
    return ["/".join(part[-depth:]) for part in parts]


def config_differences(configs: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """Returns the dotted keys that are not set the same everywhere, with what each configuration says.

    >>> config_differences([{"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3, "d": None}}])
    {'b.c': ['2', '3'], 'b.d': ['-', 'null']}
    """
    flat = [dict(_flat(config)) for config in configs]
    keys = dict.fromkeys(key for one in flat for key in one)
    shown = {key: [_shown(one[key]) if key in one else "-" for one in flat] for key in keys}
    return {
        key: values for key, values in shown.items() if len(set(values)) > 1 and key.split(".")[0] not in _OF_THE_RUN
    }


def _told(runs: Sequence[SavedRun]) -> str:
    sets = dict.fromkeys(run.summary["data"]["name"] for run in runs)
    return f"data: {', '.join(sets)}"


def _other_data(runs: Sequence[SavedRun], names: list[str]) -> Markup | None:
    """Warns where test rows are not the same, so that nobody compares their AUC."""

    def rows(run: SavedRun) -> tuple[Any, ...]:
        data = run.summary["data"]
        return data["name"], data["rows"].get("test"), data.get("best_auc")

    other = [name for name, run in zip(names, runs, strict=True) if rows(run) != rows(runs[0])]
    if not other:
        return None
    said = f"Not the test rows of {names[0]}: {', '.join(other)}. Their AUC and logloss do not compare with its."
    return tag("p", tag("strong", said), role="note")


def _curves(runs: Sequence[SavedRun], names: list[str]) -> Markup | None:
    curves = []
    fulls: dict[Point, None] = {}
    for i, (run, name) in enumerate(zip(runs, names, strict=True)):
        found = points(run.summary)
        full = full_size(run.summary)
        if full:
            fulls[full] = None
        if found:
            curves.append(Curve(name, found, i))
    if not curves:
        return None
    # One level to compare with, where all runs agree on it; otherwise each is a point of its own.
    level = next(iter(fulls)) if len(fulls) == 1 else None
    if len(fulls) > 1:
        curves.append(Curve("full size beside a run", [Point("", p.kept, p.auc, p.logloss) for p in fulls], len(runs)))
    return section("Accuracy over size", pareto_charts(curves, level, front=True))


def _results(runs: Sequence[SavedRun], names: list[str], place: Path) -> Markup:
    header = ["run", "command", "backbone", "criterion", "budget", "kept", "bytes", "test AUC", "logloss"]
    header += ["search s", "training s"]
    rows: list[list[Child]] = []
    values: list[tuple[float | None, float | None]] = []
    for run, name in zip(runs, names, strict=True):
        for label, model in _models(run.summary):
            test = model["test"] or {}
            values.append((test.get("auc"), test.get("logloss")))
            search = run.summary["search"] if label != "full size" else None
            rows.append(
                [
                    _link(run, name, place),
                    run.summary["command"],
                    class_name(run.config, "backbone") or "-",
                    search["criterion"] if search else "-",
                    label,
                    f"{model['embedding']['fraction']:.1%}",
                    f"{model['embedding']['bytes']:,}",
                    metric(test.get("auc")),
                    metric(test.get("logloss")),
                    f"{search['seconds']:.1f}" if search else "-",
                    f"{model['finetune']['seconds']:.1f}" if model["finetune"] else "-",
                ]
            )
    best = []
    for column, (index, choose) in ((7, (0, max)), (8, (1, min))):
        measured = [value[index] for value in values if value[index] is not None]
        if measured:
            best += [(r, column) for r, value in enumerate(values) if value[index] == choose(measured)]
    return section("Results", table(header, rows, "Every model of every run; the best is set in bold", (0,), best))


def _models(summary: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    budget = (summary["search"] or {}).get("budget")
    whole = summary["embedding"]["parameters"] == summary["embedding"]["full_parameters"]
    own = [(point["budget"], point) for point in summary.get("pareto") or []]
    own = own or [("full size" if whole else budget or "-", summary)]
    return [*own, *([("full size", summary["baseline"])] if summary["baseline"] else [])]


def _link(run: SavedRun, name: str, place: Path) -> Markup:
    report = run.path / FILE
    if not report.is_file():
        return tag("span", name)
    return tag("a", name, href=quote(Path(os.path.relpath(report, place.parent)).as_posix()))


def _differences(runs: Sequence[SavedRun], names: list[str]) -> Markup:
    found = config_differences([run.config for run in runs])
    if not found:
        return section("Configuration", tag("p", "All runs have the same configuration."))
    rows = [[key, *values] for key, values in found.items()]
    columns = tuple(range(len(names) + 1))
    return section("Configuration", table(["key", *names], rows, "What is not set the same everywhere", columns))


def _flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict) and value:
            # The arguments of a class are named as on the command line.
            yield from _flat(value, prefix if key == "init_args" else f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(value: Any) -> str:
    return (
        {None: "null", True: "true", False: "false"}.get(value, str(value))
        if not isinstance(value, (list, dict))
        else str(value)
    )
