"""The site of the docs: it builds without a warning, holds what its pages link to, and fetches nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install -e '.[docs]'")
pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed: pip install -e '.[docs]'")


def build(source: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built once."""
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Resources(HTMLParser):
    """Collects what a page fetches when it is opened, and where it links to."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Sorts a tag's address."""
        given = dict(attrs)
        if tag == "a" and given.get("href"):
            self.links.append(str(given["href"]))
        elif tag == "link" and given.get("rel") in ("canonical", "alternate"):
            return
        else:
            self.fetched += [str(given[key]) for key in ("src", "href", "srcset", "poster") if given.get(key)]


def resources(page: Path) -> Resources:
    read = Resources()
    read.feed(page.read_text(encoding="utf-8"))
    return read


def test_opening_a_page_fetches_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        outside = [address for address in resources(page).fetched if re.match(r"(https?:)?//", address)]
        assert not outside, page.name
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import\s*)[\"']?(?:https?:)?//", style.read_text(encoding="utf-8")), style.name


def test_every_link_within_the_site_leads_to_a_file(site: Path) -> None:
    pages = list(site.glob("*.html"))
    assert len(pages) > 10
    for page in pages:
        if page.name == "404.html":
            continue  # its links are those from the root of a server
        for link in resources(page).links:
            path = link.partition("#")[0]
            if path and not re.match(r"[a-z]+:", path):
                assert (page.parent / path).exists(), f"{page.name}: {link}"


def test_files_outside_the_docs_are_in_the_site(site: Path) -> None:
    results = ROOT / "benchmarks" / "results" / "accuracy_per_byte.csv"
    assert (site / "source/benchmarks/results/accuracy_per_byte.csv").read_bytes() == results.read_bytes()
    assert 'href="source/benchmarks/results/accuracy_per_byte.csv"' in (site / "benchmarks.html").read_text()


def test_the_reference_has_what_the_package_exports(site: Path) -> None:
    import pme_lightning

    text = (site / "api.html").read_text(encoding="utf-8")
    for name in pme_lightning.__all__:
        if name != "__version__":
            home = getattr(pme_lightning, name)
            assert f'id="{home.__module__}.{home.__name__}"' in text
    assert ":class:" not in text
    assert ".. math" not in text


@pytest.mark.parametrize(
    "line",
    [
        "[gone](nowhere.md)",
        "[gone](data.md#no-such-heading)",
        "[gone](../benchmarks/nowhere.csv)",
        "::: pme_lightning.nowhere.Nothing",
    ],
)
def test_what_is_not_there_ends_the_build(line: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for folder in ("docs/_site", "pme_lightning", "backbones", "callbacks"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    config = re.sub(r"^nav:.*?(?=^\S)", "", (ROOT / "mkdocs.yml").read_text(), flags=re.DOTALL | re.MULTILINE)
    (source / "mkdocs.yml").write_text(config)
    (source / "docs" / "data.md").write_text("# Data\n")
    (source / "docs" / "index.md").write_text("# Home\n\n[there](data.md)\n")
    assert build(source, tmp_path / "site").returncode == 0
    (source / "docs" / "index.md").write_text(f"# Home\n\n{line}\n")
    assert build(source, tmp_path / "site").returncode != 0
