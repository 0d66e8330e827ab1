"""The report of one run: one HTML file that holds everything, made from what the run folder keeps."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from pme_lightning import headline
from pme_lightning.pages.elements import details, document, metric, section, table, tiles
from pme_lightning.pages.markup import Markup, tag
from pme_lightning.pages.pareto_chart import Curve, Point, pareto_charts
from pme_lightning.pages.saved_run import SavedRun, read_run
from pme_lightning.pages.scales import percent
from pme_lightning.pages.search_section import search_of_run
from pme_lightning.pages.size_section import sizes_of_run
from pme_lightning.pages.training_section import training_of_run
from pme_lightning.pages.written import write_page

FILE = "report.html"
Summary = dict[str, Any]


def write_run_page(folder: str | Path, out: Path | None = None) -> Path:
    """Writes the report of a finished run, into its folder unless another place is named.

    Raises:
        BadInput: The folder is none of a finished run, or the place is taken by somebody else's file.
    """
    run = read_run(folder)
    return write_page(run_page(run), out or run.path / FILE)


def run_page(run: SavedRun) -> str:
    """Returns the report of a run."""
    summary, found = run.summary, run.findings
    search, sizes = summary["search"], found.get("sizes") or {}
    return document(
        f"{summary['command']}: {summary['data']['name']} ({run.name})",
        _header(run),
        _result(summary),
        sizes_of_run(sizes) if sizes else None,
        search_of_run(search, found.get("schedule") or [], found.get("scores"), sizes) if search else None,
        training_of_run(found.get("curves") or {}),
        None if sizes or not found else _fields(found["fields"]),
        _repeat(run),
    )


def class_name(config: dict[str, Any], key: str) -> str | None:
    """Returns the class that a part of a configuration names, without its module."""
    node = config.get(key)
    path = node.get("class_path") if isinstance(node, dict) else None
    return path.rpartition(".")[2] if isinstance(path, str) else None


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


def _header(run: SavedRun) -> Markup:
    data = run.summary["data"]
    rows = " / ".join(f"{count:,}" for count in data["rows"].values())
    facts = [f"run {run.name}", f"backbone {class_name(run.config, 'backbone') or '?'}"]
    facts += [f"{rows} rows ({' / '.join(data['rows'])})", f"{data['fields']} fields, {data['tokens']:,} tokens"]
    return tag("header", tag("h1", f"{run.summary['command']} on {data['name']}"), tag("p", " · ".join(facts)))


def _result(summary: Summary) -> Markup:
    verdict = headline.verdict(summary)
    said = None if verdict is None else tag("p", f"{verdict[0].upper()}{verdict[1:]}.", class_="verdict")
    best = summary["data"].get("best_auc")
    planted = None
    if best is not None:
        planted = tag(
            "p",
            f"The data are planted: the best reachable is AUC {best:.4f}, "
            f"logloss {summary['data']['best_logloss']:.4f}.",
        )
    parts: list[Markup | None] = [said, tiles(_tiles(summary))]
    if summary.get("pareto"):
        parts += (
            [pareto_charts([Curve("multi-size", points(summary), 0)], full_size(summary))] if points(summary) else []
        )
        parts.append(_budgets(summary))
    else:
        models = headline.columns(summary)
        lines = headline.rows([model for _, model in models])
        parts.append(
            table(
                ["", *(name for name, _ in models)],
                [[label, *cells] for label, cells in lines],
                "The models",
                text_columns=(0,),
            )
        )
    return section("Result", *parts, planted)


def _tiles(summary: Summary) -> list[tuple[str, str, str]]:
    embedding, baseline, search = summary["embedding"], summary["baseline"], summary["search"]
    entries = []
    if headline.is_multi_size(summary):
        entries.append(
            (
                "embedding kept",
                f"{embedding['fraction']:.1%}",
                f"{embedding['parameters']:,} of {embedding['full_parameters']:,} parameters",
            )
        )
    else:
        entries.append(("embedding", f"{embedding['parameters']:,}", "parameters, full size"))
    for split, word in (("test", "test"), ("valid", "validation")):
        for name, shown in (("auc", "AUC"), ("logloss", "logloss")):
            value = (summary.get(split) or {}).get(name)
            if value is not None:
                full = (baseline or {}).get(split, {}).get(name) if baseline else None
                note = "" if full is None else f"{metric(value - full, signed=True)} against full size"
                entries.append((f"{word} {shown}", metric(value), note))
    if search:
        training = baseline["finetune"]["seconds"] if baseline else 0
        note = f"{search['seconds'] / training:.0%} of full training" if training else f"{search['epochs']:.3g} epochs"
        entries.append(("search", f"{search['seconds']:.1f} s", note))
    if summary.get("pareto"):
        entries[0] = ("budgets", str(len(summary["pareto"])), "from one search")
        entries[1:] = [
            (name, value, f"at {percent(embedding['fraction'])} kept{'; ' + note if note else ''}")
            if name.startswith("test")
            else (name, value, note)
            for name, value, note in entries[1:]
        ]
    return entries


def _budgets(summary: Summary) -> Markup:
    models = [("full", summary["baseline"])] if summary["baseline"] else []
    models += [(point["budget"], point) for point in summary["pareto"]]
    rows = [
        [
            name,
            f"{model['embedding']['fraction']:.1%}",
            f"{model['embedding']['parameters']:,}",
            f"{model['embedding']['bytes']:,}",
            metric(model["test"]["auc"]),
            metric(model["test"]["logloss"]),
            str(model["finetune"]["best_epoch"]),
            f"{model['finetune']['seconds']:.1f}",
        ]
        for name, model in models
    ]
    header = ["budget", "kept", "parameters", "bytes", "test AUC", "logloss", "best epoch", "training seconds"]
    return table(header, rows, "The full-size model, and one for each budget", text_columns=(0,))


def _fields(fields: list[dict[str, Any]]) -> Markup:
    rows = [[field["name"], f"{field['tokens']:,}"] for field in fields]
    return section("Fields", table(["field", "tokens"], rows, "Fields and their tokens", text_columns=(0,)))


def _repeat(run: SavedRun) -> Markup:
    # What lies in the customary place is named as one would type it from the project's folder.
    folder = f"runs/{run.name}" if run.path.parent.name == "runs" else str(run.path)
    lines = ["# the same run again", f"python train.py --config={shlex.quote(folder + '/config.yaml')}"]
    checkpoints = sorted(run.path.glob("checkpoints/*/best.ckpt"), key=lambda path: path.parent.name)
    for path in checkpoints:
        named = f"{folder}/{path.relative_to(run.path).as_posix()}"
        lines += [
            "",
            f"# measure the model of {path.parent.name} again",
            f"python train.py test ckpt_path={shlex.quote(named)}",
        ]
    sizes = [
        path.relative_to(run.path).as_posix()
        for path in [*run.path.glob("sizes.safetensors"), *sorted(run.path.glob("sizes/*.safetensors"))]
    ]
    if sizes:
        lines += ["", "# train with the same sizes, another way"]
        lines.append(f"python train.py finetune sizes={shlex.quote(folder + '/' + sizes[0])} transfer.init=scratch")
    software = ", ".join(f"{name} {version}" for name, version in (run.findings.get("software") or {}).items())
    made = tag("p", f"Seed {run.summary['seed']}" + (f"; made with {software}." if software else "."))
    config = details("the whole configuration", tag("pre", tag("code", run.config_text), tabindex="0"))
    return section("Repeat it", made, tag("pre", tag("code", "\n".join(lines)), tabindex="0"), config)
