"""The files of a run as artifacts: from them, in one folder, the run is repeated or its model used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import wandb
from wandb.errors import Error

from pme_lightning.dashboards.open_run import shown_by
from pme_lightning.dashboards.run_logger import Kind
from pme_lightning.errors import first_line
from pme_lightning.export.loaded import IDS, MODEL
from pme_lightning.report import say
from pme_lightning.runs.files import find_run_folder, sizes_files


def log_artifacts(run: wandb.Run, folder: Path, kinds: Sequence[Kind], summary: dict[str, Any]) -> None:
    """Uploads the files of a complete run.

    Each kind is one artifact for all runs of a project, so that equal contents are kept once. The version of a run has
    the run's id among its aliases (``sizes:ID``).

    Args:
        run: The open run.
        folder: The run folder.
        kinds: What is uploaded of it.
        summary: What ``summary.json`` holds.
    """
    files = {kind: found for kind in kinds if (found := files_of(folder, kind))}
    first = {kind: str(found[0].relative_to(folder)) for kind, found in files.items()}
    for kind, found in files.items():
        artifact = wandb.Artifact(kind, kind, _description(run, first), _metadata(kind, summary))
        for file in found:
            # From where it is: neither a copy to upload from nor one in the cache.
            artifact.add_file(str(file), str(file.relative_to(folder)), skip_cache=True, policy="immutable")
        run.log_artifact(artifact, aliases=["latest", run.id])


def files_of(folder: Path, kind: Kind) -> list[Path]:
    """Returns the files of a kind in a run folder."""
    checkpoints = folder / "checkpoints"
    if kind == "config":
        return [folder / "config.yaml"]
    if kind == "vocabulary":
        return sorted(file for file in (folder / "vocabulary").rglob("*") if file.is_file())
    if kind == "sizes":
        return sizes_files(folder)
    if kind == "summary":
        return [file for name in ("summary.json", "pareto.csv", "report.html") if (file := folder / name).is_file()]
    if kind == "model" and (folder / MODEL).is_file():
        return [folder / name for name in (MODEL, IDS)]
    finetuned = sorted(checkpoints.glob("finetune*/best.ckpt"))
    full, searched = sorted(checkpoints.glob("full/best.ckpt")), sorted(checkpoints.glob("search/last.ckpt"))
    if kind == "full_model":
        # Without a multi-size model the full-size one is the model.
        return full if finetuned else []
    return finetuned or full or searched


def log_inputs(run: wandb.Run, used: dict[str, str | None]) -> None:
    """Notes in the run's configuration which artifacts it starts from, and links them where there is a server.

    Args:
        run: The open run.
        used: The file of each kind of artifact, such as ``{"sizes": "runs/a/sizes.safetensors"}``.
    """
    inputs = {kind: name for kind, file in used.items() if file and (name := _artifact_of(file, kind))}
    if not inputs:
        return
    run.config.update({"inputs": inputs}, allow_val_change=True)
    if run.offline or run.disabled:
        return
    for name in inputs.values():
        try:
            run.use_artifact(name)
        except (Error, ValueError) as error:
            say(f"wandb: {name} is not linked: {first_line(error)}")


def _artifact_of(file: str, kind: str) -> str | None:
    """Returns the artifact that a file of another run is in; ``None`` if no dashboard shows that run."""
    folder = find_run_folder(file)
    shown = shown_by(folder) if folder else {}
    if not shown:
        return None
    return "/".join(part for part in (shown["entity"], shown["project"], f"{kind}:{shown['id']}") if part)


def _description(run: wandb.Run, first: dict[Kind, str]) -> str:
    """Returns how to repeat the run from its artifacts; ``first``: the first file of each kind that it has."""
    model = first.get("model")
    place = f"{run.entity or 'ENTITY'}/{run.project}"
    lines = [
        f"All files of run {run.id}, into one folder:",
        "",
        f"    for kind in {' '.join(first)}; do wandb artifact get --root run {place}/${{kind}}:{run.id}; done",
        "",
        "To repeat the run, and to use its model:",
        "",
        "    pme-lightning --config run/config.yaml",
    ]
    if model == MODEL:
        reads = 'from pme_lightning import ExportedModel; print(ExportedModel.load("run").facts)'
        lines.append(f"    python -c '{reads}'")
    elif model is not None:
        lines.append(f"    pme-lightning test ckpt_path=run/{model}")
    if "sizes" in first:
        # The searched model, which fine-tunes start from otherwise, is not among the artifacts.
        lines.append(f"    pme-lightning finetune sizes=run/{first['sizes']} transfer.init=scratch")
    return "\n".join(lines) + "\n"


def _metadata(kind: Kind, summary: dict[str, Any]) -> dict[str, Any]:
    common = {"command": summary["command"], "seed": summary["seed"], "data": summary["data"]}
    if kind == "sizes":
        return common | {"search": summary["search"]}
    if kind == "model":
        names = ("exported",) if summary.get("exported") else ("embedding", "finetune", "test")
        return common | {key: summary.get(key) for key in names}
    if kind == "full_model":
        return common | {"baseline": summary["baseline"]}
    return common
