"""A real browser that opens pages from disk and tells what it made of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# The browser is driven by a script of the benchmarks; folders and pages are made and read by modules beside this one.
for folder in (Path(__file__).parents[2] / "benchmarks", Path(__file__).parent):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from chromium import Chromium, find_chromium  # noqa: E402

# Unfolds everything, and measures: pictures, letters, and whatever sticks out of the page or of its picture.
_MEASURE = """(() => {
  document.querySelectorAll("details").forEach(each => each.open = true);
  const pictures = [...document.querySelectorAll("svg[role=img]")].map(svg => {
    const frame = svg.getBoundingClientRect();
    const drawn = [...svg.querySelectorAll("path, rect")].filter(each => !each.matches(".grid, .axis, .empty"));
    const texts = [...svg.querySelectorAll("text")];
    return {
      title: svg.querySelector("title").textContent,
      told: svg.querySelector("desc").textContent,
      width: frame.width,
      height: frame.height,
      drawn: drawn.filter(each => { const box = each.getBBox(); return box.width > 0 || box.height > 0; }).length,
      broken: /NaN|Infinity|undefined|None/.test(svg.outerHTML),
      smallest: Math.min(...texts.map(each =>
        parseFloat(getComputedStyle(each).fontSize) * frame.width / svg.viewBox.baseVal.width)),
      cut: texts.filter(each => {
        const box = each.getBoundingClientRect();
        return box.left < frame.left - 1 || box.right > frame.right + 1
          || box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
      }).map(each => each.textContent),
    };
  });
  return {
    pictures,
    width: innerWidth,
    scrolls: document.documentElement.scrollWidth,
    wide: [...document.querySelectorAll("main *")].filter(each =>
      each.getBoundingClientRect().right > innerWidth + 1 && !each.closest(".scroll, pre, svg")
    ).map(each => each.outerHTML.slice(0, 80)),
    tables: document.querySelectorAll("table").length,
    scripts: document.scripts.length,
    ids: [...document.querySelectorAll("[id]")].map(each => each.id),
  };
})()"""

Look = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    """A headless Chromium; tests of what it shows are skipped where there is none."""
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    with Chromium(path) as browser:
        yield browser


@pytest.fixture
def look(chromium: Chromium) -> Look:
    """Opens a page, checks what holds for every page of ours at every width, and returns what was measured."""

    def go(page: Path, width: int, dark: bool = False) -> dict[str, Any]:
        chromium.open(page, width, dark=dark)
        found: dict[str, Any] = chromium.evaluate(_MEASURE)
        assert chromium.complaints == []
        assert chromium.requests == [], "a page must load nothing"
        assert found["width"] == width
        assert found["scrolls"] == width, "the page scrolls sideways"
        assert found["wide"] == []
        assert found["scripts"] == 0
        assert len(found["ids"]) == len(set(found["ids"]))
        for picture in found["pictures"]:
            assert picture["width"] > 100, picture
            assert picture["height"] > 40, picture
            assert picture["drawn"] > 0, picture
            assert not picture["broken"], picture
            assert picture["cut"] == [], picture
            assert picture["smallest"] >= 9, picture
            assert picture["title"], picture
            assert picture["told"], picture
        return found

    return go
