"""Several runs side by side: their results, their sizes over accuracy, and what was set differently."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pme_lightning.headline import columns, is_multi_size
from pme_lightning.measures import MEASURES
from pme_lightning.nested import leaves
from pme_lightning.pages.elements import document, metric, section, table
from pme_lightning.pages.markup import Child, Markup, join, tag
from pme_lightning.pages.pareto_chart import Curve, Point, pareto_charts
from pme_lightning.pages.result_section import full_size, points
from pme_lightning.pages.run_page import FILE, class_name
from pme_lightning.pages.saved_run import SavedRun

FULL_SIZE = "full size"
# Keys that differ between any two runs and say nothing about them.
_OF_THE_RUN = ("run_dir", "resume")


def comparison_page(runs: Sequence[SavedRun], place: Path) -> str:
    """Returns the page.

    Args:
        runs: At least two, in the order to show them.
        place: Where the page will be, for links to the runs' own reports.
    """
    groups = _same_rows(runs)
    names = dict(zip((run.path for run in runs), run_names(runs), strict=True))
    return document(
        f"{len(runs)} runs compared",
        tag("header", tag("h1", f"{len(runs)} runs compared"), _told(groups)),
        *_curves(groups, names),
        _results(groups, names, place),
        _differences(runs, list(names.values())),
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
    # The arguments of a class are named as on the command line.
    flat = [{key.replace(".init_args.", "."): value for key, value in leaves(config)} for config in configs]
    keys = dict.fromkeys(key for one in flat for key in one)
    shown = {key: [_shown(one[key]) if key in one else "-" for one in flat] for key in keys}
    return {
        key: values for key, values in shown.items() if len(set(values)) > 1 and key.split(".")[0] not in _OF_THE_RUN
    }


def _told(groups: Sequence[Sequence[SavedRun]]) -> Markup:
    data = "; ".join(_data_of(group[0]) for group in groups)
    if sum("test" in group[0].summary["data"]["rows"] for group in groups) <= 1:
        return tag("p", f"data: {data}")
    warning = "The runs were not all tested on the same rows: AUC and logloss compare within a data set only."
    return join([tag("p", f"data: {data}"), tag("p", tag("strong", warning), role="note")])


def _data_of(run: SavedRun) -> str:
    data = run.summary["data"]
    tested = data["rows"].get("test")
    if tested is None:
        return data["name"]
    clicks = f" with {data['test_clicks']:,} clicks" if "test_clicks" in data else ""
    return f"{data['name']}, {tested:,} test rows{clicks}"


def _same_rows(runs: Sequence[SavedRun]) -> list[list[SavedRun]]:
    """Returns the runs whose test rows are the same, as far as can be told, together."""
    groups: dict[tuple[Any, ...], list[SavedRun]] = {}
    for run in runs:
        data = run.summary["data"]
        groups.setdefault((data["name"], data["rows"].get("test"), data.get("best_auc")), []).append(run)
    return [apart for group in groups.values() for apart in _by_clicks(group)]


def _by_clicks(group: list[SavedRun]) -> list[list[SavedRun]]:
    """Returns the runs whose test rows have as many clicks together; all of them where an earlier version ran one."""
    apart: dict[int | None, list[SavedRun]] = {}
    for run in group:
        apart.setdefault(run.summary["data"].get("test_clicks"), []).append(run)
    return [group] if None in apart else list(apart.values())


def _curves(groups: Sequence[Sequence[SavedRun]], names: dict[Path, str]) -> list[Markup]:
    sections = []
    for g, group in enumerate(groups):
        curves = []
        fulls: dict[Point, None] = {}
        for i, run in enumerate(group):
            if full := full_size(run.summary):
                fulls[full] = None
            if found := points(run.summary):
                curves.append(Curve(names[run.path], found, i))
        # One level to compare with, where all runs agree on it; otherwise each is a point of its own.
        level = next(iter(fulls)) if len(fulls) == 1 else None
        if len(fulls) > 1:
            beside = [Point("", point.kept, point.auc, point.logloss) for point in fulls]
            curves.append(Curve("full size, beside a run", beside, len(group), joined=False))
        if curves:
            heading = "Accuracy over size" if len(groups) == 1 else f"Accuracy over size: {_data_of(group[0])}"
            sections.append(section(heading, pareto_charts(f"pareto{g}", curves, level, front=True)))
    return sections


def _results(groups: Sequence[Sequence[SavedRun]], names: dict[Path, str], place: Path) -> Markup:
    header = ["run", "command", "backbone", "criterion", "budget", "kept", "bytes", "test AUC", "logloss"]
    header += ["search s", "training s"]
    rows: list[list[Child]] = []
    best: list[tuple[int, int]] = []
    for group in groups:
        first = len(rows)
        tests: list[dict[str, float | None]] = []
        for run in group:
            for label, model in _models(run.summary):
                tests.append(model.get("test") or {})
                rows.append([_link(run, names[run.path], place), *_cells(run, label, model)])
        for measure, column in zip(MEASURES, (7, 8), strict=True):
            values = [value for test in tests if (value := test.get(measure.key)) is not None]
            if values:
                top = measure.best(values)
                best += [(first + r, column) for r, test in enumerate(tests) if test.get(measure.key) == top]
    return section("Results", table(header, rows, "Every model of every run; the best is set in bold", (0,), best))


def _cells(run: SavedRun, label: str, model: dict[str, Any]) -> list[Child]:
    test, search = model.get("test") or {}, run.summary["search"] if label != FULL_SIZE else None
    return [
        run.summary["command"],
        class_name(run.config, "backbone") or "-",
        search["criterion"] if search else "-",
        label,
        f"{model['embedding']['fraction']:.1%}",
        f"{model['embedding']['bytes']:,}",
        metric(test.get("auc")),
        metric(test.get("logloss")),
        f"{search['seconds']:.1f}" if search else "-",
        f"{model['finetune']['seconds']:.1f}" if model.get("finetune") else "-",
    ]


def _models(summary: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    if summary.get("exported"):
        return columns(summary)
    budget = (summary["search"] or {}).get("budget")
    own = [(point["budget"], point) for point in summary.get("pareto") or []]
    own = own or [((budget or "-") if is_multi_size(summary) else FULL_SIZE, summary)]
    return [*own, *([(FULL_SIZE, summary["baseline"])] if summary["baseline"] else [])]


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


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
