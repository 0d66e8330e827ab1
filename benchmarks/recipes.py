"""The training recipe of each data set and backbone: the words that one would type behind ``train.py``."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from pme_lightning.configuration.command_line import parse_words
from pme_lightning.configuration.composition import Composition, compose
from pme_lightning.configuration.group_files import GroupFiles
from pme_lightning.configuration.parser import parse_config
from pme_lightning.errors import BadInput

ROWS_PER_TOKEN = 20
# Where the data lie says nothing about what they are.
_PLACES = ("data.path", "data.cache_dir")
# What the grid itself sets: no word may be one of these keys, or of those below the second ones.
_OURS = ("data", "backbone", "seed", "baseline", "run_dir", "sizes", "ckpt_path", "config")
_OURS_WHOLLY = ("search", "experiment", "logger", "checkpoint")


@dataclass(frozen=True)
class Recipe:
    """How every method trains on one data set with one backbone.

    Attributes:
        words: Group choices and overrides, as on the command line.
        composition: What they amount to.
    """

    words: tuple[str, ...]
    composition: Composition

    def config(self) -> Namespace:
        """Returns the whole configuration, checked, with every default filled in."""
        return parse_config(self.composition)[1]

    @property
    def options(self) -> str:
        """The words, without the places of files."""
        return " ".join(word for word in self.words if word.partition("=")[0] not in _PLACES)

    @property
    def fingerprint(self) -> str:
        """Changes with anything that training depends on, but not with the search or the place of files."""
        config = self.composition.config
        parts = {key: config[key] for key in ("data", "model", "backbone", "optimizer", "trainer", "early_stopping")}
        # Without these, nothing is trained in another way than before there were such.
        if config.get("embedding_optimizer") is not None:
            arguments = config["embedding_optimizer"].get("init_args") or {}
            # What goes by the number of fields came later; no data set that is trained so has as many.
            later = {"warmup_steps": 200, "scale_by_fields": True}
            own = {key: value for key, value in arguments.items() if (key, value) not in later.items()}
            parts["embedding_optimizer"] = config["embedding_optimizer"] | ({"init_args": own} if own else {})
        if config.get("averaging") is not None:
            parts["averaging"] = config["averaging"]
        parts["model"] = {key: value for key, value in parts["model"].items() if (key, value) != ("embedding_bits", 32)}
        overrides = [(k, v) for k, v in self.composition.overrides if k not in _PLACES and not _of_the_search(k)]
        return fingerprint([parts, overrides])

    def search_fingerprint(self, search: dict[str, Any] | None) -> str:
        """Changes with anything that a method's sizes, or what is made of them, depend on; empty without a search."""
        if search is None:
            return ""
        arguments = {key: value for key, value in search["init_args"].items() if key != "budget"}
        overrides = [pair for pair in self.composition.overrides if _of_the_search(pair[0])]
        return fingerprint([search["class_path"], arguments, self.composition.config["transfer"], overrides])


def _of_the_search(key: str) -> bool:
    return key.split(".")[0] == "transfer"


def fingerprint(value: Any) -> str:
    """Returns eight letters that tell a configuration from others."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def recipe(dataset: str, backbone: str, data_folder: str | Path | None, extra: Sequence[str] = ()) -> Recipe:
    """Returns the recipe for a data set and a backbone: the shipped experiment for them, where there is one.

    A data set is ``synthetic_N`` (a planted log of N tokens, 20 rows a token), a preset of the ``data`` group, or any
    other folder of Parquet files in ``data_folder``. With an experiment ``DATASET_BACKBONE``, or else
    ``DATASET_deepfm``, training goes by it; otherwise by the defaults.

    Args:
        dataset: Name of the data set.
        backbone: A choice of the ``backbone`` group.
        data_folder: Where data sets are looked for by name; those not found come from the hub.
        extra: Further ``key=value`` words, for every method alike.

    Raises:
        BadInput: There is no such data set or backbone, or a word sets what the grid sets.
    """
    files = GroupFiles()
    words: list[str] = []
    stem, synthetic = dataset, re.fullmatch(r"synthetic_(\d+(?:e\d+)?)", dataset)
    if synthetic:
        stem, tokens = "synthetic", int(float(synthetic.group(1)))
        words = [f"data.tokens={tokens}", f"data.rows={ROWS_PER_TOKEN * tokens}"]
    place = None if data_folder is None or synthetic else Path(data_folder).expanduser() / dataset
    if place is not None and place.exists():
        words = [f"data.path={place}"]

    experiments = files.choices("experiment")
    if f"{stem}_{backbone}" in experiments:
        words = [f"experiment={stem}_{backbone}", *words]
    elif f"{stem}_deepfm" in experiments:
        words = [f"experiment={stem}_deepfm", f"backbone={backbone}", *words]
    else:
        presets = files.choices("data").keys() - {"csv", "hf", "parquet"}
        if stem not in presets and not words:
            where = f"'{place}' is not there" if place else "--data-folder is not given"
            raise BadInput(
                f"--data: '{dataset}' is neither synthetic_N nor one of {', '.join(sorted(presets))}, and {where}"
            )
        words = [f"data={stem if stem in presets else 'parquet'}", f"backbone={backbone}", *words]
    for word in extra:
        key = word.partition("=")[0].lstrip("-")
        if key in _OURS or key.split(".")[0] in _OURS_WHOLLY:
            raise BadInput(f"'{word}': the grid sets that itself; see --data, --backbones, --methods and --seeds")
    words += extra
    return Recipe(tuple(words), compose(parse_words(words)))
