"""The reStructuredText in docstrings, as the Markdown that the API reference is made of."""

from __future__ import annotations

import re
from typing import Any

import griffe


class PlainRoles(griffe.Extension):
    """Turns ``:class:`~module.Name``` into a name in code, and blocks of mathematics into blocks of text."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrites a docstring before it is parsed."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    """Returns a docstring without roles and directives.

    >>> as_markdown("See :class:`~a.b.C` and :meth:`C.d`.")
    'See `C` and `C.d`.'
    >>> as_markdown(".. math:: y = x")
    '`y = x`'
    """
    text = re.sub(r":\w+:`~([^`]*)`", lambda found: f"`{found[1].rpartition('.')[2]}`", text)
    text = re.sub(r":\w+:`([^`]*)`", r"`\1`", text)
    return re.sub(r"^( *)\.\. math:: (.+)$", r"\1`\2`", text, flags=re.MULTILINE)
