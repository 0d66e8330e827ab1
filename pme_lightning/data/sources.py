"""Where rows come from: finds files, folders and Hugging Face data sets, and which of them hold which split."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from pme_lightning.data import hub
from pme_lightning.data.file_names import SUFFIXES, format_of, split_name, suffix_of
from pme_lightning.data.parts import ALL, Part
from pme_lightning.errors import BadInput, did_you_mean

Format = Literal["auto", "parquet", "csv", "hf"]


def find_parts(path: str | Sequence[str], format: Format = "auto", cache_dir: Path | None = None) -> dict[str, Part]:
    """Finds the rows that a path means.

    Args:
        path: a Parquet, CSV or zip file; a folder that holds one file, shards or subfolder per split (train, valid,
            test, or other usual names for these), or files that are all rows together; a glob pattern or a list of
            files; a folder written by ``datasets``' ``save_to_disk``; or the id of a Hugging Face data set. What
            exists on disk wins over an id.
        format: ``parquet``, ``csv`` or ``hf``; ``auto`` goes by the suffix.
        cache_dir: where zip files are unpacked.

    Returns:
        Parts under ``train``, ``valid``, ``test`` as far as they are given, or one part under ``all``.

    Raises:
        BadInput: nothing is there, or its format is unknown or not the one named; says the nearest name.
    """
    if format not in get_args(Format):
        raise BadInput(f"data.format={format} is unknown: {did_you_mean(str(format), get_args(Format))}")
    if not path:
        raise BadInput("data.path is empty: name a file, a folder, a pattern or a list of files")
    if not isinstance(path, str):
        return {ALL: _files_part([Path(one).expanduser() for one in path], format)}
    local = Path(path).expanduser()
    if not local.exists():
        if any(character in path for character in "*?["):
            files = [Path(one) for one in sorted(glob.glob(str(local), recursive=True)) if Path(one).is_file()]
            if not files:
                raise BadInput(f"no file matches '{path}'")
            return {ALL: _files_part(files, format)}
        if format in ("parquet", "csv") or _looks_local(path):
            raise BadInput(f"'{path}' does not exist{_nearest(local)}")
        return _hub_parts(path, cache_dir)
    if local.is_dir():
        return _folder_parts(local, format, cache_dir)
    if local.suffix == ".zip":
        return _folder_parts(hub.unpack(local, cache_dir), format, cache_dir)
    return {ALL: _files_part([local], format)}


def find_part(path: str, format: Format = "auto", cache_dir: Path | None = None) -> Part:
    """The rows of a path as one part, for a split that is given by a path of its own.

    Raises:
        BadInput: as :func:`find_parts`, or the path is a folder that is split already.
    """
    parts = find_parts(path, format, cache_dir)
    if len(parts) > 1:
        raise BadInput(f"'{path}' holds several splits ({', '.join(parts)}): name one file or folder of one split")
    return next(iter(parts.values()))


def _hub_parts(path: str, cache_dir: Path | None) -> dict[str, Part]:
    found = hub.find(path, cache_dir)
    if isinstance(found, Path):
        return _folder_parts(found, "auto", cache_dir)
    return _dataset_parts(found)


def _dataset_parts(splits: Mapping[str, hub.HubSplit]) -> dict[str, Part]:
    parts: dict[str, Part] = {}
    for name, split in splits.items():
        meant = split_name(name) or ALL
        if meant in parts and meant != ALL:
            raise BadInput(f"a data set with the splits {', '.join(splits)}: more than one of them means {meant}")
        parts[meant] = Part("hf", split.files(), split)
    if ALL in parts and len(splits) > 1:
        unknown = ", ".join(name for name in splits if split_name(name) is None)
        raise BadInput(
            f"a data set with the splits {', '.join(splits)}: what is {unknown}? train, valid and test are known"
        )
    return parts


def _looks_local(path: str) -> bool:
    return (
        path.startswith((".", "/", "~"))
        or path.count("/") > 1
        or path.endswith((*SUFFIXES, ".zip", "/"))
        or ("/" in path and Path(path).parent.exists())
    )


def _nearest(missing: Path) -> str:
    folder = missing.parent
    while not folder.exists():
        folder = folder.parent
    names = [one.name for one in folder.iterdir() if not one.name.startswith(".")] if folder.is_dir() else []
    if not names:
        hidden = folder.is_dir() and any(folder.iterdir())
        return f": '{folder}' {'holds only hidden files' if hidden else 'is empty'}"
    wanted = missing.relative_to(folder).parts[0]
    hint = did_you_mean(wanted, names)
    # A long folder's whole content is no help.
    return f": in '{folder}', {hint}" if len(names) <= 12 or hint.startswith("did you mean") else ""


def _files_part(files: Sequence[Path], format: str) -> Part:
    for file in files:
        if not file.exists():
            raise BadInput(f"'{file}' does not exist{_nearest(file)}")
        if not file.is_file():
            kind = "a folder" if file.is_dir() else "a device or a pipe"
            raise BadInput(f"'{file}' is {kind}, not a file")
    if format == "hf":
        raise BadInput(
            f"'{files[0]}' is a file: data.format=hf takes the id of a Hugging Face data set or a folder of "
            "save_to_disk; files are read with data.format=auto"
        )
    formats = {format_of(file) if format == "auto" else format for file in files}
    if len(formats) > 1:
        raise BadInput(
            f"files of several formats together, such as '{files[0]}' and '{files[-1]}': say data.format=csv or parquet"
        )
    (found,) = formats
    if found not in ("parquet", "csv"):
        known = ", ".join(SUFFIXES)
        raise BadInput(f"the format of '{files[0]}' is unknown: it takes {known}, or say data.format=csv or parquet")
    return Part(found, tuple(files))  # type: ignore[arg-type]


def _folder_parts(folder: Path, format: str, cache_dir: Path | None) -> dict[str, Part]:
    if hub.is_saved(folder):
        if format not in ("auto", "hf"):
            raise BadInput(f"'{folder}' is a saved Hugging Face data set: data.format={format} cannot read it")
        return _dataset_parts(hub.saved_splits(folder))
    files: dict[str, list[Path]] = {}
    beside: list[Path] = []  # files in folders that are no splits
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith((".", "_")):
            continue
        split = split_name(re.split(r"[-_.]", entry.name, maxsplit=1)[0])
        if entry.is_file() and _takes(entry, format):
            files.setdefault(split or ALL, []).append(entry)
        elif entry.is_dir():
            inside = [file for file in sorted(entry.rglob("*")) if file.is_file() and _takes(file, format)]
            if split_name(entry.name):
                files.setdefault(split or ALL, []).extend(inside)
            else:
                beside += inside
    files = {split: found for split, found in files.items() if found}
    if beside and (ALL in files or (not files and len({file.relative_to(folder).parts[0] for file in beside}) > 1)):
        # Of all rows together none are left out without a word.
        all_of_them = folder / "**" / f"*{suffix_of(beside[0])}"
        raise BadInput(
            f"'{folder}' has files in folders of its own, such as '{beside[0].relative_to(folder)}'"
            f"{', beside others' if files else ''}: if these are all rows together, say data.path='{all_of_them}'; "
            "otherwise name files or folders one by one"
        )
    if not files:
        return _only_entry(folder, format, cache_dir)
    if "train" in files:
        files.pop(ALL, None)  # a file beside the splits is none of them
    elif ALL in files:
        # Without a train split the names are no split names after all.
        files = {ALL: sorted(file for found in files.values() for file in found)}
    given = "auto" if format == "hf" else format
    return {split: _files_part(found, given) for split, found in files.items()}


def _takes(file: Path, format: str) -> bool:
    return format_of(file) is not None and (format in ("auto", "hf") or format_of(file) == format)


def _only_entry(folder: Path, format: str, cache_dir: Path | None) -> dict[str, Part]:
    """Goes on in the one subfolder or zip file that a folder holds, as archives often do."""
    entries = [one for one in folder.iterdir() if one.is_dir() or one.suffix == ".zip"]
    entries = [one for one in entries if not one.name.startswith((".", "_"))]
    if len(entries) == 1:
        inner = entries[0] if entries[0].is_dir() else hub.unpack(entries[0], cache_dir)
        return _folder_parts(inner, format, cache_dir)
    kind = "Parquet or CSV" if format in ("auto", "hf") else format
    raise BadInput(f"'{folder}' holds no {kind} file: looked for train, valid and test ({', '.join(SUFFIXES)})")
