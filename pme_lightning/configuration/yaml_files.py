"""Reads configuration files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from pme_lightning.errors import BadInput, did_you_mean


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Reads one configuration file.

    Raises:
        BadInput: The file is missing, is not YAML, or is not a mapping.
    """
    path = Path(path).expanduser()
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*.yaml")]) if path.parent.is_dir() else ""
        raise BadInput(f"config file '{path}' does not exist{'; ' + near if near else ''}") from None
    except IsADirectoryError:
        raise BadInput(f"config file '{path}' is a folder") from None
    except UnicodeDecodeError:
        raise BadInput(f"config file '{path}' is not text") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise BadInput(f"config file '{path}' is not valid YAML{where}: {getattr(error, 'problem', error)}") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise BadInput(f"config file '{path}' must hold keys and values, not a {type(loaded).__name__}")
    return loaded


class _Loader(yaml.SafeLoader):
    """YAML that reads ``1e-3`` as the number it is."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)$|[-+]?(\d+\.\d*|\.\d+)$|[-+]?\.(inf|Inf)$|\.(nan|NaN)$"),
    list("-+0123456789."),
)
