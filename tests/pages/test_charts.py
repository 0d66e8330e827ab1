"""Charts: what is drawn lies where the numbers say, whatever they are."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pme_lightning.pages.bars import density, histogram, row_bars, small_histogram
from pme_lightning.pages.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Series, legend, line_chart, marker
from pme_lightning.pages.labels import Labels
from pme_lightning.pages.markup import Markup, tag
from pme_lightning.pages.scales import Axis, linear_axis


def drawn(svg: str, name: str, kind: str) -> list[ET.Element]:
    """The elements of a class in a picture, which must be well-formed."""
    return [each for each in ET.fromstring(svg).iter(name) if each.get("class") == kind]


def rectangles(svg: str, kind: str) -> Iterator[tuple[float, float, float, float]]:
    for each in drawn(svg, "rect", kind):
        yield tuple(float(each.get(key, "nan")) for key in ("x", "y", "width", "height"))  # type: ignore[misc]


X = Axis("x", 0.0, 4.0, ticks=[0.0, 4.0])
Y = Axis("y", 0.0, 1.0, ticks=[0.0, 1.0])


def test_lines_go_through_their_points() -> None:
    svg = line_chart("c", "title", "said", [Series("a", [(0.0, 0.0), (2.0, 0.5), (4.0, 1.0)])], X, Y)
    (line,) = drawn(svg, "path", "line")
    places = [tuple(map(float, pair.split())) for pair in re.split("[ML]", line.get("d", ""))[1:]]
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    assert places == [(LEFT, bottom), ((LEFT + right) / 2, (TOP + bottom) / 2), (right, TOP)]
    assert len(drawn(svg, "path", "marker")) == 3


def test_steps_hold_a_value_until_the_next() -> None:
    svg = line_chart("c", "t", "d", [Series("a", [(0.0, 1.0), (4.0, 0.0)], steps=True)], X, Y)
    (line,) = drawn(svg, "path", "line")
    assert line.get("d") == f"M56 {TOP:g}H380L380 {HEIGHT - BOTTOM:g}"


def test_a_level_outside_the_axis_is_left_out() -> None:
    inside, outside = (line_chart("c", "t", "d", [], X, Y, [(level, "full")]) for level in (0.5, 1.5))
    assert len(drawn(inside, "path", "reference")) == 1
    assert not drawn(outside, "path", "reference")


def test_pictures_have_text_alternatives() -> None:
    svg = ET.fromstring(line_chart("c", "AUC & size", "It <rises>.", [], X, Y))
    assert svg.get("role") == "img"
    named = {each.get("id"): each.text for each in svg}
    assert [named[name] for name in svg.get("aria-labelledby", "").split()] == ["AUC & size; y over x", "It <rises>."]


def test_series_differ_in_more_than_colour() -> None:
    assert len({marker(style, 0, 0) for style in range(6)}) == 6
    series = [Series(str(i), [(0.0, 0.0), (1.0, 1.0)], style=i) for i in range(12)]
    svg = line_chart("c", "t", "d", series, X, Y)
    groups = [each for each in ET.fromstring(svg).iter("g") if each.get("class", "").startswith("s")]
    looks = set()
    for group in groups:
        line, first = group.findall("path")[:2]
        looks.add((group.get("class"), line.get("stroke-dasharray"), re.sub(r"^M[\d. -]+", "", first.get("d", ""))))
    assert len(looks) == len(series)
    assert str(legend(series)).count("<li>") == len(series)
    assert legend(series[:1]) is None


@given(st.lists(st.integers(0, 10**7), min_size=2, max_size=65).filter(any))
def test_bars_are_as_high_as_their_shares(counts: list[int]) -> None:
    shares = [count / sum(counts) for count in counts]
    svg = histogram("h", "t", "d", shares, [str(i) for i in range(len(counts))], "size", "of tokens")
    bars = list(rectangles(svg, "bar"))
    axis = linear_axis("of tokens", [0.0, *shares], low=0.0, percent=True)
    for (_, y, _, height), share in zip(bars, shares, strict=True):
        assert height >= (1 if share else 0)
        assert height == pytest.approx(max(axis.place(share) * (HEIGHT - TOP - BOTTOM), float(share > 0)), abs=0.02)
        assert y + height == pytest.approx(HEIGHT - BOTTOM, abs=0.02)
    ends = [x + width for x, _, width, _ in bars]
    assert all(end <= start + 0.02 for end, (start, *_) in zip(ends, bars[1:], strict=False)), "bars overlap"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.floats(0, 1))
def test_rows_are_as_long_as_their_shares(shares: list[float], level: float) -> None:
    svg = row_bars("r", "t", "d", [(f"f{i}", share) for i, share in enumerate(shares)], (level, "all"))
    whole = [width for _, _, width, _ in rectangles(svg, "empty")]
    bars = [width for _, _, width, _ in rectangles(svg, "bar")]
    assert bars == pytest.approx([full * share for full, share in zip(whole, shares, strict=True)], abs=0.01)


def test_a_small_histogram_shows_rare_sizes_too() -> None:
    bars = list(rectangles(small_histogram("s", "t", [10_000, 0, 100]), "bar"))
    assert len(bars) == 2
    assert bars[1][3] / bars[0][3] == pytest.approx(0.1, abs=1e-3)
    assert not list(rectangles(small_histogram("s", "t", [0, 0]), "bar"))


def test_a_column_is_as_dark_as_its_shares() -> None:
    svg = density("d", "t", "d", [[3, 1], [0, 0], [0, 4]], ["0", "1", "2"], "rows", [0.25, None, 1.0])
    opacity = [float(each.get("fill-opacity", "nan")) for each in drawn(svg, "rect", "cell")]
    assert opacity == pytest.approx([0.75**0.5, 0.5, 1.0], abs=0.005)
    assert len(drawn(svg, "path", "marker")) == 2


def test_labels_keep_off_each_other_and_inside() -> None:
    labels = Labels((0, 0, 300, 200), [[(0, 200), (300, 0)]])
    places = [labels.beside(x, y, "0.05") for x, y in ((150, 100), (156, 98), (298, 2), (2, 198))]
    boxes = [(x, y - 10, x + 4 * 6.4, y + 3) for x, y in places]
    for i, one in enumerate(boxes):
        assert one[0] >= 0
        assert one[2] <= 300
        for other in boxes[i + 1 :]:
            assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def test_text_is_escaped_and_markup_is_not() -> None:
    assert tag("p", "a<b", Markup("<b>c</b>"), None, title='"x"', width=1.239) == (
        '<p title="&quot;x&quot;" width="1.24">a&lt;b<b>c</b></p>'
    )
