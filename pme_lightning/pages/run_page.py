"""The report of one run: one HTML file that holds everything, made from what the run folder keeps."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from pme_lightning.pages.elements import details, document, section, table
from pme_lightning.pages.markup import Markup, tag
from pme_lightning.pages.result_section import result_of_run
from pme_lightning.pages.saved_run import SavedRun, read_run
from pme_lightning.pages.search_section import search_of_run
from pme_lightning.pages.size_section import sizes_of_run
from pme_lightning.pages.training_section import training_of_run
from pme_lightning.pages.written import write_page
from pme_lightning.runs.files import sizes_files

FILE = "report.html"


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
        result_of_run(summary),
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


def _header(run: SavedRun) -> Markup:
    data = run.summary["data"]
    rows = " / ".join(f"{count:,}" for count in data["rows"].values())
    facts = [f"run {run.name}", f"backbone {class_name(run.config, 'backbone') or '?'}"]
    facts += [f"{rows} rows ({' / '.join(data['rows'])})", f"{data['fields']} fields, {data['tokens']:,} tokens"]
    return tag("header", tag("h1", f"{run.summary['command']} on {data['name']}"), tag("p", " · ".join(facts)))


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
    if checkpoints:
        first = f"{folder}/{checkpoints[0].relative_to(run.path).as_posix()}"
        lines += ["", f"# write the model of {checkpoints[0].parent.name} as a program to serve"]
        lines.append(f"python train.py export ckpt_path={shlex.quote(first)}")
    sizes = [path.relative_to(run.path).as_posix() for path in sizes_files(run.path)]
    if sizes:
        lines += ["", "# train with the same sizes, another way"]
        lines.append(f"python train.py finetune sizes={shlex.quote(folder + '/' + sizes[0])} transfer.init=scratch")
    software = ", ".join(f"{name} {version}" for name, version in (run.findings.get("software") or {}).items())
    made = tag("p", f"Seed {run.summary['seed']}" + (f"; made with {software}." if software else "."))
    config = details("the whole configuration", tag("pre", tag("code", run.config_text), tabindex="0"))
    return section("Repeat it", made, tag("pre", tag("code", "\n".join(lines)), tabindex="0"), config)
