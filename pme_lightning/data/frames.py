"""Data frames of the user's program, as files that a data module reads."""

from __future__ import annotations

import hashlib
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pme_lightning.data.cache import cache_root
from pme_lightning.data.folders import writing
from pme_lightning.errors import BadInput


def is_frame(value: Any) -> bool:
    """Whether a value is a data frame that can be written: of polars, or of pandas."""
    return hasattr(value, "columns") and (hasattr(value, "write_parquet") or hasattr(value, "to_parquet"))


def frame_file(frame: Any, cache_dir: str | None = None) -> Path:
    """Writes a data frame to the cache, under a name made of its content, and returns the file.

    The same frame is the same file, so what was encoded of it is found again; and a configuration that names the file
    repeats the run without the program that made the frame.

    Args:
        frame: A data frame of polars or of pandas.
        cache_dir: The cache; ``$PME_CACHE_DIR`` or ``~/.cache/pme-lightning`` if not given.

    Raises:
        BadInput: The frame has no rows, a column that Parquet cannot hold, or the cache cannot be written.
    """
    if len(frame) == 0:
        raise BadInput("data: the data frame has no rows")
    cache = cache_root(cache_dir)
    folder = cache / "frames"
    partial = folder / f".{os.getpid()}.partial"
    with writing(cache), ExitStack() as stack:
        folder.mkdir(parents=True, exist_ok=True)
        stack.callback(partial.unlink, missing_ok=True)
        try:
            if hasattr(frame, "write_parquet"):
                frame.write_parquet(partial)
            else:
                frame.to_parquet(partial, index=False)
        except OSError:
            raise
        except Exception as error:
            # Whatever a column holds, its library's own error says which one.
            raise BadInput(f"data: the data frame cannot be written as Parquet: {error}") from error
        with partial.open("rb") as file:
            name = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        target = folder / f"{name}.parquet"
        if not target.exists():
            os.replace(partial, target)
        return target
