"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from pme_lightning.errors import BadInput

# What the names of unfinished folders begin with.
TEMPORARY = ".partial-"
_ABANDONED_SECONDS = 24 * 3600


@contextmanager
def writing(cache: Path | None) -> Iterator[None]:
    """Turns what the system says where the cache cannot be written into one line of BadInput."""
    try:
        yield
    except OSError as error:
        raise BadInput(
            f"the cache '{cache}' cannot be written: {error.strerror or error} (data.cache_dir=FOLDER moves it)"
        ) from error


@contextmanager
def whole_folder(final: Path, replace: bool = True) -> Iterator[Path]:
    """Yields a temporary folder beside ``final`` and renames it to ``final`` when the block ends well.

    After an error the temporary folder is removed; after a kill it stays under its hidden temporary name, which
    nothing reads, until :func:`remove_abandoned` finds it a day later.

    Args:
        final: the folder to write.
        replace: whether a folder that is there already is replaced; otherwise it is kept and ours removed (another
            process has written the same in the meantime).
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = final.parent / f"{TEMPORARY}{final.name}-{uuid4().hex[:12]}"
    partial.mkdir()
    try:
        yield partial
        if replace and final.exists():
            old = final.parent / f"{TEMPORARY}old-{uuid4().hex[:12]}"
            os.rename(final, old)
            os.rename(partial, final)
            shutil.rmtree(old)
            return
        try:
            os.rename(partial, final)
        except OSError:
            # Renaming onto a folder that holds files fails: the other process won.
            if not final.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def unfinished(final: Path) -> Path:
    """Where :func:`resumable_folder` keeps what is not whole yet."""
    return final.parent / f"{TEMPORARY}{final.name}"


@contextmanager
def resumable_folder(final: Path, is_whole: Callable[[Path], bool]) -> Iterator[Path | None]:
    """Yields the temporary folder of ``final``, with what an interrupted process left in it; renames it at the end.

    One process at a time has it; another waits until it is done or dead. After an error the temporary folder is
    removed; after a kill or Ctrl-C it stays for the next process, until :func:`remove_abandoned` finds it.

    Args:
        final: the folder to write; a damaged one is replaced.
        is_whole: whether a folder under the final name is good. Where it is, None is yielded: nothing is to be done.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    partial, lock = _locked(unfinished(final))
    try:
        if is_whole(final):
            shutil.rmtree(partial, ignore_errors=True)
            yield None
            return
        shutil.rmtree(final, ignore_errors=True)
        yield partial
        os.rename(partial, final)
    except Exception:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        if lock is not None:
            os.close(lock)


def _locked(folder: Path) -> tuple[Path, int | None]:
    """The folder and a lock on it; where the file system has no locks a folder of another name and none."""
    try:
        import fcntl
    except ImportError:  # Windows
        return _unlocked(folder)
    while True:
        folder.mkdir(exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(
                f"another process is writing '{folder.name.removeprefix(TEMPORARY)}': waiting for it", file=sys.stderr
            )
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            os.close(lock)
            return _unlocked(folder)
        # The one before may have renamed or removed the folder that this lock is on.
        if folder.is_dir() and os.path.samestat(os.fstat(lock), folder.stat()):
            return folder, lock
        os.close(lock)


def _unlocked(folder: Path) -> tuple[Path, None]:
    own = folder.with_name(f"{folder.name}-{uuid4().hex[:12]}")
    own.mkdir()
    return own, None


def check_only_own(folder: Path, own: str, what: str) -> None:
    """Raises BadInput where a folder that is to be replaced is a file or holds anything but files of our own.

    Args:
        folder: may be missing.
        own: pattern of the whole names of our own files.
        what: the folder is for, for the message.
    """
    if folder.is_dir():
        foreign = next(
            (one.name for one in folder.iterdir() if not (one.is_file() and re.fullmatch(own, one.name))), ""
        )
        if foreign:
            raise BadInput(f"'{folder}' holds something other than {what} ('{foreign}'): name a folder of its own")
    elif folder.exists() or folder.is_symlink():
        raise BadInput(f"'{folder}' is not a folder: name a folder of its own for {what}")


def remove_abandoned(folder: Path, keep: Path) -> None:
    """Removes temporary folders of killed runs, which nothing was written to for a day; but the one to keep."""
    for partial in folder.glob(f"{TEMPORARY}*"):
        if partial == keep:
            continue
        try:
            newest = max(path.stat().st_mtime for path in (partial, *partial.rglob("*")))
        except FileNotFoundError:
            continue  # its own process has just renamed or removed it
        if time.time() - newest > _ABANDONED_SECONDS:
            shutil.rmtree(partial, ignore_errors=True)
