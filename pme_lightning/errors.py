"""The one exception that means: the user's input is wrong, and here is how to mend it."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable


class BadInput(ValueError):
    """Wrong input from the user: a message of one line that says what is wrong, where, and what would be right.

    The command line prints it without a traceback and exits with code 2; Python callers see a ``ValueError``.
    """


# What the user can mend: no space is left, or a folder may not be written to.
_TO_MEND = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


def cannot_write(error: BaseException) -> str | None:
    """Returns what to say of a disk that is full or may not be written to; None of any other error."""
    if not isinstance(error, OSError) or error.errno not in _TO_MEND:
        return None
    return f"{error.strerror}: {error.filename or 'while writing the run folder or the cache'}"


def first_line(error: BaseException) -> str:
    r"""Returns what an error says first; what it is, where it says nothing.

    >>> first_line(ValueError("so\n  and so")), first_line(KeyboardInterrupt())
    ('so', 'KeyboardInterrupt')
    """
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Returns ``"did you mean 'x'?"`` for the nearest of the valid names, or a list of all of them.

    >>> did_you_mean("deepfn", ["fm", "deepfm"])
    "did you mean 'deepfm'?"
    >>> did_you_mean("zzz", ["fm", "deepfm"])
    'choose from: deepfm, fm'
    """
    names = sorted(set(map(str, valid)))
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"choose from: {', '.join(names)}" if names else "there is none to choose from"
