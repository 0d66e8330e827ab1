"""An exported model, read from its folder to predict with; Lightning is not needed for that."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import polars as pl
import torch
from torch import Tensor

from pme_lightning.data.tokens import Matches
from pme_lightning.data.vocabulary import Vocabulary
from pme_lightning.errors import BadInput, did_you_mean, first_line

# What an exported model's folder holds.
MODEL, IDS, VOCABULARY = "model.pt2", "ids.npy", "vocabulary"
# What is known of the model, within its file.
FACTS = "pme_lightning.json"
VERSION = 1

_BATCH_ROWS = 16384


@dataclass(frozen=True)
class ExportedModel:
    """An exported model, to predict with.

    Attributes:
        folder: Where it is.
        facts: What is known of it: ``fields``, ``tokens``, ``bits`` of each value, ``embedding_bytes``.
        program: The model by itself: probabilities ``(B,)`` of its own ids, int64 ``(B, F)``.
        ids: int32 ``(V,)``: the model's id of each of the vocabulary's.

    Examples:
        >>> from pme_lightning import CTRModule, SyntheticDataModule, export_model
        >>> data = SyntheticDataModule(rows=1_000, tokens=200, num_fields=3)
        >>> data.setup()
        >>> exported = export_model(CTRModule(data.field_tokens), data, "served", bits=8)
        >>> exported.predict_ids(data.data.splits["test"][0]).shape
        (100,)
    """

    folder: Path
    facts: dict[str, Any]
    program: Callable[[Tensor], Tensor]
    ids: np.ndarray

    @classmethod
    def load(cls, folder: str | Path) -> ExportedModel:
        """Reads what :func:`export_model` or the ``export`` command wrote.

        Raises:
            BadInput: There is no such folder, or a file is missing or damaged.
        """
        folder = Path(folder).expanduser()
        for name in (MODEL, IDS):
            if not (folder / name).is_file():
                raise BadInput(f"no exported model in '{folder}': there is no {name}; name the run_dir of an export")
        texts = {FACTS: ""}
        try:
            # torch does not look whether what it reads is what was written.
            with ZipFile(folder / MODEL) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise BadZipFile(f"{damaged} is not what was written")
            program = torch.export.load(folder / MODEL, extra_files=texts).module()
            facts = json.loads(texts[FACTS])
            ids = np.load(folder / IDS, mmap_mode="r")
        except (BadZipFile, OSError, EOFError, RuntimeError, ValueError) as error:
            reason = first_line(error)
            raise BadInput(f"the exported model in '{folder}' cannot be read: {reason}") from error
        if facts.get("version") != VERSION:
            raise BadInput(
                f"the exported model in '{folder}' has version {facts.get('version')}, this program reads {VERSION}"
            )
        if ids.shape != (facts["tokens"],):
            raise BadInput(f"'{folder / IDS}' has shape {ids.shape}; the model has {facts['tokens']} tokens")
        return cls(folder, facts, program, ids)

    def predict(self, frame: Any) -> np.ndarray:
        """Returns the probability of a click for each row of a data frame, float32 ``(n,)``.

        Args:
            frame: Of polars or of pandas, with the columns that the model was trained on; others are not looked at.
                What the training rows did not have is out-of-vocabulary.

        Raises:
            BadInput: It is no frame, a column is missing or holds values of several kinds, or of another than the
                training data's.
        """
        rows = _columns_of(frame, self.vocabulary.schema.columns())
        matches = Matches()
        parts = [self.vocabulary.encode_fields(part, matches) for part in rows.iter_slices(_BATCH_ROWS)]
        matches.check()
        return self.predict_ids(np.concatenate([np.empty((0, len(self.facts["fields"])), np.int32), *parts]))

    def predict_ids(self, ids: np.ndarray) -> np.ndarray:
        """Returns the probability of a click for each row of the vocabulary's ids ``(n, F)``, float32 ``(n,)``.

        Raises:
            BadInput: There are other columns, or ids that the vocabulary does not have, or has for another field.
        """
        ids = np.asarray(ids)
        if not np.issubdtype(ids.dtype, np.integer):
            raise BadInput(f"ids are whole numbers, not of type {ids.dtype}")
        fields, tokens = len(self.facts["fields"]), self.facts["tokens"]
        if ids.ndim != 2 or ids.shape[1] != fields:
            raise BadInput(f"ids have shape {ids.shape}; the model needs a column for each of its {fields} fields")
        if ids.size and not 0 <= ids.min() <= ids.max() < tokens:
            raise BadInput(f"ids reach from {ids.min()} to {ids.max()}; the model's reach from 0 to {tokens - 1}")
        self._check_fields(ids)
        found = [np.empty(0, np.float32)]
        with torch.inference_mode():
            for start in range(0, len(ids), _BATCH_ROWS):
                own = torch.from_numpy(self.ids[ids[start : start + _BATCH_ROWS]]).long()
                found.append(self.program(own).numpy())
        return np.concatenate(found)

    def _check_fields(self, ids: np.ndarray) -> None:
        first = 0
        # An export of an earlier version does not say how many tokens a field has.
        for column, name, tokens in zip(ids.T, self.facts["fields"], self.facts.get("field_tokens", ()), strict=False):
            if len(column) and not first <= column.min() <= column.max() < first + tokens:
                raise BadInput(
                    f"ids of the column of field '{name}' reach from {column.min()} to {column.max()}; its tokens' "
                    f"from {first} to {first + tokens - 1}: columns stand in the order of the fields"
                )
            first += tokens

    def __reduce__(self) -> tuple[Any, ...]:
        """How processes get it of one another: each reads the files."""
        return type(self).load, (self.folder,)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """What gives values their ids.

        Raises:
            BadInput: There is none: the data were ids from the beginning.
        """
        if not (self.folder / VOCABULARY / "vocabulary.json").is_file():
            raise BadInput(f"'{self.folder}' has no vocabulary: its data were ids, not values; use predict_ids")
        return Vocabulary.load(self.folder / VOCABULARY)


def _columns_of(frame: Any, names: list[str]) -> pl.DataFrame:
    """The named columns of a frame; nothing else of it need be of a type that Polars has."""
    of_pandas = hasattr(frame, "to_parquet") and hasattr(frame, "columns")
    if not of_pandas and not isinstance(frame, pl.DataFrame):
        raise BadInput(f"predict takes a data frame of polars or pandas, not a {type(frame).__name__}")
    found = {str(name): name for name in frame.columns}
    for name in names:
        if name not in found:
            raise BadInput(f"column '{name}' is missing in the data: {did_you_mean(name, found)}")
    own = frame[[found[name] for name in names]]
    if not of_pandas:
        return own
    try:
        return pl.from_pandas(own)
    except (TypeError, ValueError) as error:
        reason = first_line(error)
        raise BadInput(f"the data frame cannot be read: {reason}") from error
