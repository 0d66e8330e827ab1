"""``findings.json``: what a run found out beside its result, for the pictures of its report.

It is written phase by phase, so that a run that goes on after a kill loses nothing of it. All of it is small, whatever
the size of the vocabulary: see :mod:`pme_lightning.size_facts` and :mod:`pme_lightning.score_spectrum`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import platform
from typing import Any

import lightning
import torch

from pme_lightning.data import EncodedDataModule
from pme_lightning.progress.training_curve import TrainingCurve
from pme_lightning.runs.folder import RunFolder
from pme_lightning.score_spectrum import ScoreSpectrum, score_spectrum
from pme_lightning.search import SearchResult
from pme_lightning.size_facts import size_facts
from pme_lightning.version import __version__

FILE = "findings.json"


class Findings:
    """Gathers and writes the findings of a run.

    The file holds ``version``, ``software`` (versions by name), ``fields`` (``name`` and ``tokens`` of each),
    ``curves`` (for each phase ``loss`` and ``valid``, as in :class:`TrainingCurve`), and of a run with sizes
    ``sizes``: for each budget, by its name, a :class:`~pme_lightning.size_facts.SizeFacts`. A search adds ``schedule``,
    points ``(steps, fraction of the per-token values kept)``, and ``scores``, a
    :class:`~pme_lightning.score_spectrum.ScoreSpectrum`.

    Args:
        folder: The folder of the run; what it holds of a run that goes on is kept.
        data: The data of the run.
    """

    def __init__(self, folder: RunFolder, data: EncodedDataModule) -> None:
        self._folder, self._data = folder, data
        self._found: dict[str, Any] = {"version": 1, "curves": {}, "sizes": {}}
        path = folder.path / FILE
        if folder.reopened and path.is_file():
            self._found = json.loads(path.read_text(encoding="utf-8"))
        self._found["software"] = {
            "pme_lightning": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "lightning": lightning.__version__,
        }
        pairs = zip(data.fields, data.field_tokens, strict=True)
        self._found["fields"] = [{"name": name, "tokens": tokens} for name, tokens in pairs]
        self._write()

    def add_curve(self, phase: str, curve: TrainingCurve) -> None:
        """Keeps the curve of a phase; points that are no numbers, as AUC with one label alone, are left out."""
        points: dict[str, list[Any]] = {"loss": curve.loss, "valid": curve.valid}
        self._found["curves"][phase] = {
            name: [point for point in of_kind if all(map(math.isfinite, point))] for name, of_kind in points.items()
        }
        self._write()

    def add_search(self, search: Any) -> ScoreSpectrum | None:
        """Keeps how far a search pruned when, and its scores, as far as the callback of the search tells of them.

        Returns:
            What is kept of the scores. Where tokens are split over processes nobody has all of them: None.
        """
        spectrum = None
        kept = getattr(search, "kept", None)
        if kept:
            self._found["schedule"] = [list(point) for point in kept]
        scores = getattr(search, "scores", None)
        if scores is not None and len(scores.table) == self._data.num_tokens and self._folder.writes:
            spectrum = score_spectrum(scores)
            self._found["scores"] = dataclasses.asdict(spectrum)
        self._write()
        return spectrum

    def add_sizes(self, result: SearchResult, budget: str | None = None) -> None:
        """Keeps what sizes say; ``budget``: the name of one of several budgets."""
        if self._folder.writes:
            facts = size_facts(result, self._data.fields, self._data.field_tokens, self._data.frequencies)
            self._found["sizes"][budget or result.budget] = dataclasses.asdict(facts)
        self._write()

    def _write(self) -> None:
        self._folder.write_text(FILE, json.dumps(self._found, separators=(",", ":"), allow_nan=False) + "\n")
