"""The pictures of the docs: the parts of a page that are meant, in small files."""

from __future__ import annotations

from pathlib import Path

import pytest
import screenshots
from chromium import Chromium
from page_text import Page
from PIL import Image
from run_folders import write_run

from pme_lightning.pages.run_page import write_run_page


def test_a_part_of_a_page_is_taken(chromium: Chromium, tmp_path: Path) -> None:
    page = write_run_page(write_run(tmp_path / "run", ["user", "item"]))
    sizes = {}
    for name, start, end in (("top", None, "Search"), ("middle", "Search", "Training"), ("whole", None, None)):
        screenshots.take(chromium, page, tmp_path / f"{name}.png", 1280, start, end, False)
        sizes[name] = Image.open(tmp_path / f"{name}.png").size
    assert {width for width, _ in sizes.values()} == {1280}
    headings = chromium.evaluate("[...document.querySelectorAll('h2')].map(each => each.getBoundingClientRect().top)")
    _, _, search, training, _ = headings
    assert sizes["top"][1] == pytest.approx(search - 14, abs=1)
    assert sizes["middle"][1] == pytest.approx(training - search, abs=1)
    assert sizes["whole"][1] == chromium.evaluate("document.documentElement.scrollHeight")


def test_headings_that_pictures_end_before_are_there(tmp_path: Path) -> None:
    one = Page(write_run_page(write_run(tmp_path / "a", ["user", "item"])))
    curve = Page(write_run_page(write_run(tmp_path / "b", ["user"], budgets=("0.5", "0.1"), command="pareto")))
    for _, page, _, end, _ in screenshots.PICTURES:
        if end is not None:
            assert end in (curve if "budgets" in page else one).headings


def test_a_terminal_shows_what_was_printed(chromium: Chromium, tmp_path: Path) -> None:
    screenshots.draw_terminal("python train.py", "a <b> line\n│ table │\n", tmp_path / "terminal.html")
    chromium.open(tmp_path / "terminal.html", 880)
    assert chromium.evaluate("document.body.innerText").strip() == "$ python train.py\na <b> line\n│ table │"
    assert chromium.complaints == []
