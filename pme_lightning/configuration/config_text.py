"""The whole configuration as YAML: what ``--print_config`` prints, and a run's ``config.yaml`` holds."""

from __future__ import annotations

import warnings
from enum import Enum
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from pme_lightning.configuration.parser_errors import one_line
from pme_lightning.errors import BadInput


def config_text(parser: LightningArgumentParser, config: Namespace, command: str) -> str:
    """Returns the whole configuration as YAML that ``--config`` takes, the command included.

    Raises:
        BadInput: A value in it cannot be written.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            text = parser.dump(_with_values_of_enums(config), format="yaml", skip_none=False)
    except (TypeError, ValueError, yaml.YAMLError) as error:
        raise BadInput(f"the configuration cannot be written: {one_line(str(error))}") from error
    # The folder is not part of what is repeated: the repetition writes one of its own.
    resolved = yaml.safe_load(text) | {"run_dir": None, "resume": None}
    return yaml.safe_dump({"command": command, **resolved}, sort_keys=False, width=100)


def _with_values_of_enums(node: Any) -> Any:
    """Returns a part of the configuration as it is written: some defaults of Lightning's are members of enums."""
    if isinstance(node, Namespace):
        return Namespace(**{key: _with_values_of_enums(value) for key, value in vars(node).items()})
    if isinstance(node, dict):
        return {key: _with_values_of_enums(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_with_values_of_enums(value) for value in node]
    return node.value if isinstance(node, str) and isinstance(node, Enum) else node
