"""One run at a time in a folder: a second one is refused, whatever it would have mixed up."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pme_lightning.errors import BadInput

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Loader processes of a run that was killed end within some seconds, and hold what it held till then.
_PATIENCE = 6.0
# What file systems say that know no locks, or none of folders.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)


@contextmanager
def locked(folder: Path, patience: float = _PATIENCE) -> Iterator[None]:
    """Keeps other runs, of any process of this machine, out of a folder meanwhile; nothing is left behind in it.

    Where the file system has no locks, and on Windows, it keeps nobody out.

    Args:
        folder: It exists.
        patience: Seconds to wait for another run to leave.

    Raises:
        BadInput: Another run is in it.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        until = time.monotonic() + patience
        while not _taken(handle):
            if time.monotonic() >= until:
                raise BadInput(f"another run is writing to '{folder}': wait for its end, or name another folder")
            time.sleep(0.2)
        yield
    finally:
        os.close(handle)


def _taken(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        if error.errno not in _NO_LOCKS:
            raise
    return True
