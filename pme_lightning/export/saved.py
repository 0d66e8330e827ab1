"""Writes a trained model as a folder to serve from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from pme_lightning.errors import BadInput, first_line
from pme_lightning.export.loaded import FACTS, IDS, MODEL, VERSION, VOCABULARY, ExportedModel
from pme_lightning.export.served import ServedModel
from pme_lightning.module import CTRModule
from pme_lightning.search import SearchResult
from pme_lightning.written_whole import written_whole

if TYPE_CHECKING:
    from pme_lightning.data import EncodedDataModule


def export_model(
    module: CTRModule,
    data: EncodedDataModule,
    folder: str | Path,
    sizes: SearchResult | str | Path | None = None,
    bits: int = 8,
) -> ExportedModel:
    """Writes a trained model in the form in which it is served, and reads it back.

    The folder gets ``model.pt2``, a program of torch.export that runs without this package; ``ids.npy``, the model's id
    of each of the vocabulary's; and ``vocabulary/``, which gives values their ids. Files of these names are replaced.

    Args:
        module: The model.
        data: The data module that it was trained with.
        folder: Where to.
        sizes: Those that the model was built with, or their file, where it numbers tokens by size.
        bits: Of each embedding value and first-order weight: 32, 16, 8 or 4. With 4, a tenth of the values have 8,
            those of the tokens whose rounding would cost the most. The backbone keeps its 32.

    Raises:
        BadInput: Other bits, data or sizes that are not those of the model, or torch.export cannot take the backbone.

    Examples:
        >>> from pme_lightning import CTRModule, SyntheticDataModule
        >>> data = SyntheticDataModule(rows=1_000, tokens=200, num_fields=3)
        >>> data.setup()
        >>> exported = export_model(CTRModule(data.field_tokens, embedding_dim=4), data, "served", bits=8)
        >>> exported.facts["embedding_bytes"]  # 200 tokens x 5 values of a byte, and 3 fields x 5 scales of four
        1060
        >>> again = ExportedModel.load("served")  # also where only these files are
    """
    folder = Path(folder).expanduser()
    sizes = SearchResult.load(sizes) if isinstance(sizes, (str, Path)) else sizes
    write_exported(module, data, folder, sizes, bits)
    data.save_vocabulary(folder / VOCABULARY)
    return ExportedModel.load(folder)


def write_exported(
    module: CTRModule, data: EncodedDataModule, folder: Path, sizes: SearchResult | None = None, bits: int = 8
) -> None:
    """Writes what :func:`export_model` does, which has its arguments explained, but for the vocabulary."""
    if list(data.field_tokens) != list(module.field_tokens):
        raise BadInput(
            f"the model has {len(module.field_tokens)} fields and {sum(module.field_tokens)} tokens, the data "
            f"{len(data.field_tokens)} and {data.num_tokens}: give the data module that it was trained with"
        )
    served = ServedModel.of(module, sizes, bits, data.frequencies)
    folder.mkdir(parents=True, exist_ok=True)
    _write_program(served, data.fields, list(data.field_tokens), bits, folder / MODEL)
    with written_whole(folder / IDS) as partial, partial.open("wb") as file:
        np.save(file, served.numbering.numpy())


def _write_program(served: ServedModel, fields: list[str], field_tokens: list[int], bits: int, path: Path) -> None:
    facts = {
        "version": VERSION,
        "fields": fields,
        "tokens": len(served.numbering),
        "field_tokens": field_tokens,
        "bits": bits,
        "embedding_bytes": served.embedding.num_bytes,
    }
    ids = torch.zeros(2, len(fields), dtype=torch.int64)
    try:
        program = torch.export.export(served, (ids,), dynamic_shapes=({0: torch.export.Dim("rows")},), strict=False)
    except Exception as error:
        # The backbone may be the user's own: whatever torch.export objects to is for them to mend.
        reason = first_line(error)
        raise BadInput(f"torch.export cannot take the backbone {type(served.backbone).__name__}: {reason}") from error
    one = tuple(served(ids[:1]).shape)
    if one != (1,):
        raise BadInput(
            f"the backbone {type(served.backbone).__name__} returns {one} for one row; it must return one logit a row, "
            "(1,): does it squeeze the rows away?"
        )
    with written_whole(path) as partial, partial.open("wb") as file:
        torch.export.save(program, file, extra_files={FACTS: json.dumps(facts, ensure_ascii=False)})
