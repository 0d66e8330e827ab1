"""Files of the source tree that a page links to (``../benchmarks/...``) become part of the site.

So a link works in the source tree, on a code host and in the site, which needs no address of the source. A link to a
file that is not there stays as it is, and ``mkdocs build --strict`` ends with an error.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
_LINK = re.compile(r"\]\(((?:\.\./)+[^)#\s]+)(#[^)\s]*)?\)")


def _linked(page: str, link: str) -> str | None:
    """Returns the path in the source tree that a link of a page leads to, if it leaves docs/ and is there."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))
    outside = not path.startswith(("docs/", "../"))
    return path if outside and (ROOT / path).is_file() else None


def on_files(files: Files, config: Any) -> Files:
    """Adds the files."""
    for page in list(files.documentation_pages()):
        for link, _ in _LINK.findall(page.content_string):
            path = _linked(page.src_uri, link)
            name = f"source/{path}"
            if path is not None and files.get_file_from_path(name) is None:
                files.append(File.generated(config, name, abs_src_path=os.fspath(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turns the links to where the files are in the site."""
    here = posixpath.dirname(page.file.src_uri)

    def turned(found: re.Match[str]) -> str:
        path = _linked(page.file.src_uri, found[1])
        return found[0] if path is None else f"]({posixpath.relpath(f'source/{path}', here or '.')}{found[2] or ''})"

    return _LINK.sub(turned, markdown)
