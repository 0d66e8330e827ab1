"""Times of text: every code of the format counts, and what is ordered by time is in the order of time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pme_lightning.data.schema import Field
from pme_lightning.data.times import has_clock, in_order, parsed
from pme_lightning.data.tokens import Matches, align, canonical, token_values
from pme_lightning.errors import BadInput

START = datetime(2019, 12, 24, 22, 30, tzinfo=UTC)
CLOCKS = ["%H", "%H:%M", "%k:%M", "%k", "%I %p", "%I:%M %p", "%l:%M %P", "%T", "%R", "%r", "%X"]


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("day", ["%Y-%m-%d", "%d/%m/%y"])
def test_hours_are_read_by_every_code(day: str, clock: str) -> None:
    form = f"{day} {clock}"
    times = [START + timedelta(hours=hour) for hour in range(30)]
    column = pl.Series("t", [time.strftime(form) for time in times])
    assert has_clock(form)
    for kind, wanted in (("hour", [t.hour for t in times]), ("weekday", [t.isoweekday() for t in times])):
        field = Field(f"t_{kind}", kind, column="t", time_format=form)  # type: ignore[arg-type]
        assert token_values(column.to_frame(), field).to_list() == wanted


@pytest.mark.parametrize("form", ["%d/%m/%Y", "%y%m%d", "%F", "%j of %Y", "100%% %Y-%m-%d"])
def test_a_day_alone_has_no_clock(form: str) -> None:
    assert not has_clock(form)


def test_a_form_that_is_none_is_named() -> None:
    with pytest.raises(BadInput, match="column 't': the form of its times, %F %M, is not understood"):
        parsed(pl.Series("t", ["2020-06-17 30"]), "%F %M")


@pytest.mark.parametrize(
    "text", ["2020-06-17 05:30:00", "2020-06-17T05:30:00", "2020-06-17 05:30", " 2020-06-17T05:30:00.5"]
)
def test_text_where_times_were_before(text: str) -> None:
    assert parsed(pl.Series("t", [text]), None).dt.hour().to_list() == [5]
    assert parsed(pl.Series("t", ["2020-06-17", "no"]), None).dt.day().to_list() == [17, None]


@given(st.lists(st.datetimes(datetime(1970, 1, 2), datetime(2070, 1, 1)), min_size=1, max_size=20), st.data())
def test_text_is_ordered_as_the_times_it_tells(times: list[datetime], data: Any) -> None:
    form, given_form = data.draw(
        st.sampled_from(
            [("%d/%m/%Y %H:%M:%S.%f", True), ("%Y-%m-%d %H:%M:%S.%f", False), ("%Y/%m/%dT%H:%M:%S.%f", False)]
        )
    )
    column = pl.Series("t", [time.strftime(form) for time in times])
    found = in_order(column, form.replace(".%f", "%.6f") if given_form else None)
    assert [times[i] for i in found.arg_sort().to_list()] == sorted(times)


@given(st.lists(st.integers(-(10**15), 10**15), min_size=1, max_size=20), st.booleans())
def test_text_of_numbers_is_ordered_as_numbers(numbers: list[int], padded: bool) -> None:
    column = pl.Series("t", [f" {number} " if padded else str(number) for number in numbers])
    assert [numbers[i] for i in in_order(column).arg_sort().to_list()] == sorted(numbers)


@pytest.mark.parametrize(
    ("values", "form", "told"),
    [
        (
            ["24/12/2019", "01/01/2020"],
            None,
            r"'24/12/2019' in row 1 is not a number or a time .* data.timestamps={t: ",
        ),
        (["1", "n/a"], None, "'n/a' in row 2 is not a number"),
        (["2020-01-01 09:00", "2020-01-01 9:30"], None, "'2020-01-01 9:30' in row 2 is not a time such as"),
        (["2020-01-01T09:00", "2020-01-01 09:30"], None, "writes times in several ways"),
        (["2020-01-01T09:00+01:00", "2020-01-01T09:30Z"], None, "writes times in several ways"),
        (["24/12/2019", "2020"], "%d/%m/%Y", "'2020' in row 2 is not a time of the form"),
        ([1.0, float("nan")], None, "has no value in row 2"),
        ([1, None], None, "has no value in row 2"),
        ([True, False], None, "type Boolean, which have no order in time"),
        ([[1], [2]], None, "no order in time"),
    ],
)
def test_what_tells_no_order_is_refused(values: list[Any], form: str | None, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        in_order(pl.Series("t", values), form)


def test_equal_values_of_another_unit_or_scale_are_equal_tokens() -> None:
    time = datetime(2020, 6, 17, 5, 30)
    texts = {canonical(pl.Series([time], dtype=pl.Datetime(unit)))[0] for unit in ("ms", "us", "ns")}
    assert len(texts) == 1
    fine = pl.Series([1, 2]).cast(pl.Datetime("ns"))
    assert canonical(fine).n_unique() == 2, "what a microsecond cannot tell apart stays apart"
    beside = pl.Series([time, None], dtype=pl.Datetime("ns")).append(fine)
    assert canonical(beside).to_list() == [*texts, None, *canonical(fine)], "whatever else is in the slice"
    scales = [pl.Series(["1.50", "-3", "100"]).cast(pl.Decimal(10, scale)) for scale in (2, 3)]
    assert [canonical(each).to_list() for each in scales] == [["1.5", "-3", "100"]] * 2
    assert align(pl.Series([-3, 100]), pl.String(), "price", Matches()).to_list() == ["-3", "100"]
