"""Pages as Chromium shows them, on a desk and on a phone: nothing is cut, nothing is empty, nothing is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chromium import Chromium
from run_folders import write_run

from pme_lightning.pages.comparison_page import comparison_page
from pme_lightning.pages.run_page import write_run_page
from pme_lightning.pages.saved_run import read_run
from pme_lightning.pages.written import write_page

Look = Callable[..., dict[str, Any]]
WIDTHS = (1280, 390)
HOSTILE = "<script>alert('x')</script>" + "a_name_without_an_end" * 8


def titles(found: dict[str, Any]) -> list[str]:
    return [picture["title"].partition(";")[0] for picture in found["pictures"]]


@pytest.mark.parametrize("width", WIDTHS)
def test_two_fields(look: Look, tmp_path: Path, width: int) -> None:
    page = write_run_page(write_run(tmp_path / "run", ["user", "item"], tokens=3, D=2))
    assert titles(look(page, width)) == [
        "Sizes of all tokens",
        "Size over popularity",
        "Kept parameters of each field",
        "Sizes of the tokens of user",
        "Sizes of the tokens of item",
        "Score of each axis",
        "Scores held by the best values",
        "Schedule of the search",
        "Validation AUC",
        "Validation logloss",
        "Training loss",
    ]


@pytest.mark.parametrize("width", WIDTHS)
def test_sixty_fields_with_long_names(look: Look, tmp_path: Path, width: int) -> None:
    fields = [HOSTILE, "W" * 40, "漢字" * 12, *(f"field_{i}" for i in range(57))]
    page = write_run_page(write_run(tmp_path / "run", fields, tokens=400, D=64))
    found = look(page, width)
    assert sum(title.startswith("Sizes of the tokens of") for title in titles(found)) == 60


@pytest.mark.parametrize("width", WIDTHS)
def test_a_curve_of_many_budgets(look: Look, tmp_path: Path, width: int) -> None:
    budgets = ("0.9", "0.5", "0.35", "0.3", "0.2", "0.1", "0.05", "0.02", "0.01")
    page = write_run_page(write_run(tmp_path / "run", ["a", "b", "c"], budgets=budgets, command="pareto"))
    found = look(page, width)
    assert titles(found)[:3] == ["Test AUC over size", "Test logloss over size", "Mean size over popularity"]
    assert titles(found).count("Size over popularity") == len(budgets)


@pytest.mark.parametrize("width", WIDTHS)
def test_many_runs_side_by_side(look: Look, tmp_path: Path, width: int) -> None:
    runs = [
        read_run(
            write_run(
                tmp_path / f"a_run_with_a_long_name_{i}",
                ["a", "b"],
                auc=0.7 + i / 1000,
                baseline=0.75 if i else 0.74,
                budgets=("0.5", "0.1") if i % 2 else (),
                config={"data": {"init_args": {"path": f"/a/long/path/to/somewhere/else/{i}"}}},
            )
        )
        for i in range(9)
    ]
    out = tmp_path / "comparison.html"
    write_page(comparison_page(runs, out), out)
    assert titles(look(out, width)) == ["Test AUC over size", "Test logloss over size"]


def test_dark_pages_are_dark(look: Look, chromium: Chromium, tmp_path: Path) -> None:
    page = write_run_page(write_run(tmp_path / "run", ["user", "item"]))
    shades = []
    for dark in (False, True):
        look(page, 1280, dark=dark)
        shades.append(chromium.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert shades == ["rgb(255, 255, 255)", "rgb(13, 17, 23)"]


def test_names_run_no_code(look: Look, chromium: Chromium, tmp_path: Path) -> None:
    marked = "<img src=x onerror='document.title=1'><script>document.title=2</script>"
    page = write_run_page(write_run(tmp_path / "run", [marked, "item"], config={"data": {"label": marked}}))
    look(page, 390)
    assert chromium.evaluate("document.title") == "pme: clicks (run)"
    assert chromium.evaluate("document.images.length") == 0
    assert marked in chromium.evaluate("document.body.textContent")


@pytest.mark.parametrize("budgets", [(), ("0.5", "0.2", "0.1", "0.05")])
def test_the_print_fits_the_paper(chromium: Chromium, tmp_path: Path, budgets: tuple[str, ...]) -> None:
    page = write_run_page(write_run(tmp_path / "run", ["user", "a_rather_long_name"], budgets=budgets, D=16))
    # The width of A4 between its margins, in the pixels of a browser.
    chromium.open(page, 720, media="print")
    assert chromium.evaluate("document.documentElement.scrollWidth") == 720


def test_the_print_holds_what_is_folded_away(chromium: Chromium, tmp_path: Path) -> None:
    page = write_run_page(write_run(tmp_path / "run", [f"field_{i}" for i in range(30)]))
    chromium.open(page, 1280)
    assert chromium.evaluate("document.querySelector('details').open") is False
    chromium.pdf(tmp_path / "page.pdf")
    folded = (tmp_path / "page.pdf").read_bytes()
    assert folded.startswith(b"%PDF")
    chromium.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    chromium.pdf(tmp_path / "open.pdf")
    pages = [data.count(b"/Type /Page\n") for data in (folded, (tmp_path / "open.pdf").read_bytes())]
    assert pages[0] == pages[1] > 3
