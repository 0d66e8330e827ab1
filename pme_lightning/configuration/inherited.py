"""The configuration of an earlier run that a command line starts from: to go on with it, or to use a file of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pme_lightning.configuration.command_line import CommandLine
from pme_lightning.configuration.commands import USES_CHECKPOINT
from pme_lightning.configuration.yaml_files import read_yaml
from pme_lightning.errors import BadInput
from pme_lightning.processes.ranks import is_main


def inherited_config(line: CommandLine) -> dict[str, Any] | None:
    """Returns what a command line takes over from the run of ``resume``, ``ckpt_path`` or ``sizes``.

    Raises:
        BadInput: There is no such run to go on with, or no such file.
    """
    overrides = dict(line.overrides)
    # Run folders need torch, which takes seconds to import.
    if overrides.get("resume"):
        from pme_lightning.runs.files import check_resumable

        return read_yaml(check_resumable(overrides["resume"]) / "config.yaml")
    if line.command == "finetune":
        key = "sizes"
    elif line.command in USES_CHECKPOINT:
        key = "ckpt_path"
    else:
        return None
    file = overrides.get(key)
    if not file:
        return None
    _check_file(key, file)
    from pme_lightning.runs.files import find_run_folder

    folder = find_run_folder(file)
    if folder is None:
        return None
    config = read_yaml(folder / "config.yaml")
    # The trainer and the logger are of this command, the rest is what the file was made with.
    parts = ["data", "model", "backbone", "optimizer", "embedding_optimizer", "transfer", "seed"]
    if line.command == "finetune":
        parts += ["trainer", "averaging", "early_stopping", "checkpoint"]
    if is_main() and "--print_config" not in line.flags:
        print(f"configuration: that of {folder.name}, and what the command line says")
    return {key: config[key] for key in parts if key in config}


def _check_file(key: str, file: str) -> None:
    path = Path(file).expanduser()
    if path.is_file():
        return
    inside = sorted(path.rglob("*.safetensors" if key == "sizes" else "*.ckpt")) if path.is_dir() else []
    hint = f": it is a folder, with {', '.join(str(each.relative_to(path)) for each in inside)}" if inside else ""
    raise BadInput(f"{key}: there is no file '{file}'{hint}")
