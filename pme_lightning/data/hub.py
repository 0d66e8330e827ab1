"""Hugging Face data sets: saved to disk, or by id from the hub."""

from __future__ import annotations

import hashlib
import json
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from pme_lightning.data.folders import whole_folder, writing
from pme_lightning.errors import BadInput, first_line

if TYPE_CHECKING:
    from datasets import Dataset

_DATA_SUFFIXES = (".parquet", ".csv", ".tsv", ".csv.gz", ".tsv.gz", ".jsonl", ".json", ".arrow")
_TIMEOUT_SECONDS = 10


@dataclass(frozen=True)
class HubSplit:
    """One split of a Hugging Face data set, opened only when its rows are read.

    Attributes:
        name: for messages.
        folder: the split's folder, if it was saved to disk.
        repository: otherwise its id on the hub.
        revision: and the commit there.
        split: and its name there.
    """

    name: str
    folder: Path | None = None
    repository: str = ""
    revision: str | None = None
    split: str = ""

    def files(self) -> tuple[Path, ...]:
        """The files on disk, none for a data set of the hub."""
        return () if self.folder is None else tuple(sorted(f for f in self.folder.iterdir() if f.is_file()))

    def shards(self) -> tuple[Path, ...]:
        """Those files on disk that hold rows, in order.

        Others may lie beside them: what ``map`` and ``filter`` keep, or shards of a data set that was saved to the same
        folder before.

        Raises:
            BadInput: the folder does not say which they are, or one is missing.
        """
        if self.folder is None:
            return ()
        try:
            state = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
            shards = tuple(self.folder / one["filename"] for one in state["_data_files"])
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise cannot_read(f"'{self.name}'", error) from error
        for file in shards:
            if not file.is_file():
                raise BadInput(f"the saved data set '{self.folder}' is damaged: its file '{file.name}' is missing")
        return shards

    def stamp(self) -> list[str | None]:
        """What names the content of a data set of the hub: its commit."""
        return [self.repository, self.revision, self.split]

    def frame(self) -> pl.LazyFrame:
        """The rows, read in slices from the memory-mapped Arrow files.

        Raises:
            BadInput: the files are damaged or cannot be downloaded.
        """
        # Imported here: it takes a second that only its users should pay.
        import datasets

        try:
            if self.folder is not None:
                dataset = datasets.load_from_disk(str(self.folder))
            else:
                dataset = datasets.load_dataset(self.repository, split=self.split, revision=self.revision)
        except Exception as error:
            raise cannot_read(f"'{self.name}'", error) from error
        return _lazy(dataset)


def is_saved(folder: Path) -> bool:
    """Whether a folder was written by ``save_to_disk``, of one data set or of a dict of them."""
    return (folder / "dataset_dict.json").is_file() or (folder / "dataset_info.json").is_file()


def saved_splits(folder: Path) -> dict[str, HubSplit]:
    """The splits of a folder written by ``save_to_disk``; one data set alone goes by the name ``all``.

    Raises:
        BadInput: the folder is damaged.
    """
    if not (folder / "dataset_dict.json").is_file():
        return {"all": HubSplit(str(folder), folder)}
    try:
        names = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
    except (ValueError, KeyError, OSError) as error:
        raise cannot_read(f"'{folder}'", error) from error
    for name in names:
        if not is_saved(folder / name):
            raise BadInput(f"the saved data set '{folder}' is damaged: its split '{name}' is missing")
    return {name: HubSplit(f"{folder / name}", folder / name) for name in names}


def find(repository: str, cache_dir: Path | None = None) -> Path | dict[str, HubSplit]:
    """Finds a data set of the hub by id.

    A repository that holds its files in one zip archive (as the ``reczoo`` sets do) is downloaded and unpacked: the
    ``datasets`` library would read all files of the archive as one split.

    Returns:
        The folder of the unpacked archive, or the splits of a data set that the ``datasets`` library reads.

    Raises:
        BadInput: the text is no id, the hub has no such data set, or it cannot be reached and has no local copy.
    """
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repository) is None:
        raise BadInput(f"'{repository}' is neither a file or folder nor the id of a Hugging Face data set")
    import huggingface_hub

    try:
        info = huggingface_hub.HfApi().dataset_info(repository, timeout=_TIMEOUT_SECONDS)
        names = [one.rfilename for one in info.siblings or []]
        revision = info.sha
    except Exception as error:
        copy = _local_copy(repository)
        if copy is None:
            raise cannot_read(f"'{repository}'", error) from error
        names, revision = [str(file.relative_to(copy)) for file in copy.rglob("*") if file.is_file()], copy.name
    archives = [name for name in names if name.endswith(".zip")]
    try:
        if len(archives) == 1 and not any(name.endswith(_DATA_SUFFIXES) for name in names):
            archive = huggingface_hub.hf_hub_download(repository, archives[0], repo_type="dataset", revision=revision)
            return unpack(Path(archive), cache_dir)
        import datasets

        splits = datasets.get_dataset_split_names(repository, revision=revision)
    except BadInput:
        raise
    except Exception as error:
        raise cannot_read(f"'{repository}'", error) from error
    return {
        split: HubSplit(f"{repository} ({split})", repository=repository, revision=revision, split=split)
        for split in splits
    }


def _local_copy(repository: str) -> Path | None:
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(repository, repo_type="dataset", local_files_only=True))
    except (OSError, ValueError):
        return None


def unpack(archive: Path, cache_dir: Path | None) -> Path:
    """Unpacks a zip archive into the cache, once per content, and returns the folder.

    Raises:
        BadInput: the archive is damaged, has a password, or the cache cannot be written.
    """
    stat = archive.stat()
    key = hashlib.sha256(f"{archive.resolve()} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}".encode())
    folder = (cache_dir or archive.parent) / f"{archive.stem}-{key.hexdigest()[:16]}"
    if not folder.is_dir():
        try:
            with (
                zipfile.ZipFile(archive) as opened,
                writing(folder.parent),
                whole_folder(folder, replace=False) as partial,
            ):
                opened.extractall(partial)
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError) as error:
            # Runtime errors are of archives with a password, or packed in a way that Python does not know.
            raise cannot_read(f"'{archive}'", error) from error
    return folder


def cannot_read(where: str, error: Exception) -> BadInput:
    """What is wrong with a data set, in one line, from what a library says of it; ``where`` names it, in quotes."""
    kind = type(error).__name__
    if kind in ("RepositoryNotFoundError", "DatasetNotFoundError"):
        return BadInput(f"{where} is neither a file or folder here nor a data set of the Hugging Face hub")
    if any(word in kind for word in ("Connect", "Offline", "Timeout", "Network", "LocalEntry", "Proxy")):
        return BadInput(
            f"the Hugging Face hub cannot be reached for {where} ({first_line(error)}): with data.path=FILE_OR_FOLDER "
            "the same data are read from disk"
        )
    return BadInput(f"{where} cannot be read: {first_line(error)}")


def _lazy(dataset: Dataset) -> pl.LazyFrame:
    from polars.io.plugins import register_io_source

    schema: Any = pl.DataFrame(pl.from_arrow(dataset.features.arrow_schema.empty_table())).schema

    def source(
        columns: list[str] | None, predicate: pl.Expr | None, rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        part = dataset if columns is None else dataset.select_columns(columns)
        if rows is not None:
            part = part.select(range(min(rows, len(part))))
        for table in part.with_format("arrow").iter(batch_size=batch_size or 100_000):
            frame = pl.DataFrame(pl.from_arrow(table))
            yield frame if predicate is None else frame.filter(predicate)

    return register_io_source(source, schema=schema)
