"""What names say: of splits, of data sets, and of the formats of files."""

from __future__ import annotations

from pathlib import Path

_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
    "testing": "test",
}
SUFFIXES = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".tsv": "csv",
    ".tsv.gz": "csv",
    ".txt": "csv",
    ".txt.gz": "csv",
}


def split_name(name: str) -> str | None:
    """The split (train, valid, test) that a common name for it means, or None."""
    return _SPLIT_NAMES.get(name.lower())


def name_of(path: str) -> str:
    """The name of the data set that a path means: data/ads/train.parquet is "ads", and so is data/ads/*.parquet."""
    place = Path(path)
    stem = place.name.split(".")[0]
    if (split_name(stem) or "*" in stem or not stem) and place.resolve().parent.name:
        return place.resolve().parent.name
    return stem


def suffix_of(file: Path) -> str | None:
    """The known suffix of a file's name, as ``.csv.gz``; None if it has none of them."""
    name = file.name.lower()
    return next((suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if name.endswith(suffix)), None)


def format_of(file: Path) -> str | None:
    """The format, parquet or csv, that the suffix of a file means; None if it means none."""
    suffix = suffix_of(file)
    return None if suffix is None else SUFFIXES[suffix]
