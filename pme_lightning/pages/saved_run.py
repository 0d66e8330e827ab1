"""Reads what the folder of a finished run says about it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pme_lightning.configuration.yaml_files import read_yaml
from pme_lightning.errors import BadInput
from pme_lightning.json_shape import Optional, misfit

_FINETUNE = {"seconds": float, "epochs": int, "best_epoch": int, "rows_per_second": Optional(float)}
_METRICS = {"auc": Optional(float), "logloss": Optional(float)}
_MODEL = {
    "embedding": {"full_parameters": int, "parameters": int, "fraction": float, "bytes": int, "index_bytes": int},
    "finetune": Optional(_FINETUNE),
    "test": Optional(_METRICS),
    "valid": Optional(_METRICS),
}
_TRAINED = _MODEL | {"finetune": _FINETUNE, "test": _METRICS}
_SUMMARY = {
    "version": int,
    "command": str,
    "seed": int,
    "data": {
        "name": str,
        "rows": {str: int},
        "fields": int,
        "tokens": int,
        "best_auc": Optional(float),
        "best_logloss": Optional(float),
        "test_clicks": Optional(int),
    },
    "search": Optional({"seconds": float, "epochs": float, "criterion": str, "budget": str, "kept": int}),
    **_MODEL,
    "baseline": Optional(_TRAINED),
    "exported": Optional(_MODEL),
    "pareto": Optional([_TRAINED | {"budget": str, "sizes": str}]),
}
_FIELD: dict[str, Any] = {
    "name": str,
    "tokens": int,
    "mean_size": float,
    "first_order": Optional(int),
    "full_parameters": int,
    "parameters": int,
    "kept": float,
    "histogram": [int],
}
_BAND = {"fewest": int, "most": int, "tokens": int, "mean_size": Optional(float), "histogram": [int]}
_SIZES: dict[str, Any] = {
    "embedding_dim": int,
    "tokens": int,
    "full_parameters": int,
    "parameters": int,
    "kept": float,
    "histogram": [int],
    "fields": [_FIELD],
    "bands": [_BAND],
}
_SCORES = {"axes": [float], "first_order": Optional(float), "values": int, "curve": [(float, float, float)]}
_FINDINGS = {
    "version": int,
    "software": {str: str},
    "fields": [{"name": str, "tokens": int}],
    "curves": {str: {"loss": [(float, float)], "valid": [(float, float, float)]}},
    "sizes": {str: _SIZES},
    "schedule": Optional([(int, float)]),
    "scores": Optional(_SCORES),
}


@dataclass(frozen=True)
class SavedRun:
    """A finished run.

    Attributes:
        path: Its folder.
        summary: What ``summary.json`` holds.
        findings: What ``findings.json`` holds; empty where there is none.
        config: The whole configuration.
        config_text: The same as it is written.
    """

    path: Path
    summary: dict[str, Any]
    findings: dict[str, Any]
    config: dict[str, Any]
    config_text: str

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.path.name


def read_run(folder: str | Path) -> SavedRun:
    """Reads the folder of a finished run.

    Raises:
        BadInput: It is no such folder, the run is not complete, or a file in it is damaged.
    """
    path = Path(folder).expanduser().absolute()
    if not path.exists():
        raise BadInput(f"report: there is no folder '{folder}'; name the folder of a run, such as runs/RUN")
    if not path.is_dir():
        raise BadInput(f"report: '{folder}' is a file; name the folder of the run, '{Path(folder).parent}'")
    if not (path / "config.yaml").is_file():
        runs = sorted(each.parent.name for each in path.glob("*/config.yaml"))
        hint = f"it holds {len(runs)} of them, such as '{Path(folder) / runs[-1]}'" if runs else "it has no config.yaml"
        raise BadInput(f"report: '{folder}' is no run folder: {hint}")
    if not (path / "summary.json").is_file():
        raise BadInput(
            f"report: the run in '{folder}' is not complete: it has no summary.json; resume={folder} goes on with it"
        )
    summary = _read_json(path / "summary.json", _SUMMARY)
    findings = _read_json(path / "findings.json", _FINDINGS) if (path / "findings.json").is_file() else {}
    config = read_yaml(path / "config.yaml")
    return SavedRun(path, summary, findings, config, (path / "config.yaml").read_text(encoding="utf-8"))


def _read_json(path: Path, shape: dict[str, Any]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except (ValueError, UnicodeDecodeError) as error:
        raise BadInput(f"report: '{path}' is damaged: {error}") from error
    if isinstance(content, dict) and content.get("version") not in (None, 1):
        raise BadInput(f"report: '{path}' has version {content['version']!r}, this program reads version 1")
    wrong = misfit(content, shape)
    if wrong:
        raise BadInput(f"report: '{path}' is damaged: {wrong}")
    return content


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")
