"""Finds the folder of an earlier run, and its files. It imports nothing heavy: pages and the command line use it."""

from __future__ import annotations

from pathlib import Path

from pme_lightning.errors import BadInput


def check_resumable(path: str | Path) -> Path:
    """Returns the folder of a run that was interrupted.

    Raises:
        BadInput: It is no folder of a run, or the run is complete.
    """
    folder = Path(path).expanduser().absolute()
    if not folder.is_dir():
        raise BadInput(f"resume: there is no folder '{path}'; name the run_dir of the run to go on with")
    if not (folder / "config.yaml").is_file():
        raise BadInput(f"resume: '{path}' is no run folder: it has no config.yaml; name the run_dir of a run")
    if (folder / "summary.json").is_file():
        raise BadInput(f"resume: the run in '{path}' is complete: its result is in summary.json")
    return folder


def find_run_folder(file: str | Path) -> Path | None:
    """Returns the run folder that a checkpoint or a file of sizes lies in, or ``None``."""
    for folder in Path(file).expanduser().absolute().parents:
        if (folder / "config.yaml").is_file() and (folder / "vocabulary").is_dir():
            return folder
    return None


def sizes_files(folder: Path) -> list[Path]:
    """Returns the files of sizes in a run folder: one, or of a run with several budgets one a budget."""
    return [*folder.glob("sizes.safetensors"), *sorted(folder.glob("sizes/*.safetensors"))]
