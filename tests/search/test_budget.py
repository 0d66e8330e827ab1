"""Budgets: how they are written, and how many values they allow."""

from __future__ import annotations

import math
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pme_lightning.embedding import FullEmbedding
from pme_lightning.errors import BadInput
from pme_lightning.export.served import FINE
from pme_lightning.search import Budget, FullTable, parse_budget


@pytest.mark.parametrize(
    ("written", "kind", "value", "text"),
    [
        (0.2, "fraction", Fraction(1, 5), "20%"),
        (np.float64(0.2), "fraction", Fraction(1, 5), "20%"),
        (np.float32(0.2), "fraction", Fraction(1, 5), "20%"),
        (np.int64(2), "parameters", 2, "2"),
        (np.str_("20MB"), "bytes", 20_000_000, "20MB"),
        ("0.2", "fraction", Fraction(1, 5), "20%"),
        ("20%", "fraction", Fraction(1, 5), "20%"),
        (" 12.5 % ", "fraction", Fraction(1, 8), "12.5%"),
        (1, "fraction", Fraction(1), "100%"),
        ("1.0", "fraction", Fraction(1), "100%"),
        (1e-05, "fraction", Fraction(1, 100_000), "0.001%"),
        (2, "parameters", 2, "2"),
        ("1000000", "parameters", 1_000_000, "1000000"),
        (1000000.0, "parameters", 1_000_000, "1000000"),
        ("1e6", "parameters", 1_000_000, "1000000"),
        ("2M", "parameters", 2_000_000, "2000000"),
        ("500k", "parameters", 500_000, "500000"),
        ("1.5m", "parameters", 1_500_000, "1500000"),
        ("20MB", "bytes", 20_000_000, "20MB"),
        ("20 mb", "bytes", 20_000_000, "20MB"),
        ("512KiB", "bytes", 524_288, "512KiB"),
        ("1.5GB", "bytes", 1_500_000_000, "1500MB"),
        ("100B", "bytes", 100, "100B"),
    ],
)
def test_written_forms(written: float | int | str, kind: str, value: Fraction | int, text: str) -> None:
    budget = parse_budget(written)
    assert (budget.kind, budget.value) == (kind, value)
    assert str(budget) == text


@pytest.mark.parametrize(
    "written",
    [
        *(0, -1, -0.2, 1.5, 0.0, float("nan"), float("inf"), True, None),
        *("", "abc", "nan", "1..2", "20 parsecs", "0.2MB MB", "150%", "0%", "2.5", "-5k", "0.0001k"),
        *("0MB", "0.1B", "1e999999999", "9" * 40),
    ],
)
def test_everything_else_is_refused_with_the_right_forms(written: object) -> None:
    with pytest.raises(BadInput) as error:
        parse_budget(written)  # type: ignore[arg-type]
    message = str(error.value)
    assert repr(written) in message
    assert all(form in message for form in ("0.2", "20%", "500k", "20MB"))
    assert "\n" not in message


@given(
    st.one_of(
        st.decimals(min_value="0.000001", max_value=1, places=6).map(str),
        st.integers(min_value=2, max_value=10**12),
        st.tuples(st.integers(1, 10**6), st.sampled_from(["B", "kB", "MB", "GiB", "KiB"])).map("{0[0]}{0[1]}".format),
    )
)
def test_text_reads_back(written: int | str) -> None:
    budget = parse_budget(written)
    assert parse_budget(str(budget)) == budget


@pytest.mark.parametrize("percent", range(1, 101))
def test_fractions_are_exact(percent: int) -> None:
    # In binary floating point, floor(0.29 * 100) is 28.
    assert parse_budget(percent / 100).parameters(100) == percent


def test_parameters_of_each_kind() -> None:
    assert parse_budget(0.2).parameters(1000) == 200
    assert parse_budget(0.2).parameters(1004, overhead=16) == 184
    assert parse_budget("500").parameters(1000, overhead=16) == 484
    assert parse_budget("402B").parameters(1000) == 100
    assert parse_budget("402B").parameters(1000, overhead=1) == 99
    # What tokens share has 4 bytes each, whatever their values have.
    assert parse_budget("402B").parameters(1000, overhead=1, bytes_per_parameter=2) == 199
    assert parse_budget("6B").parameters(1000, overhead=1, bytes_per_parameter=2) == 1
    with pytest.raises(BadInput, match=r"allows 0 of 1000 .* the smallest budget that works is 6B"):
        parse_budget("3B").parameters(1000, overhead=1, bytes_per_parameter=2)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_are_counted_beside_what_all_tokens_share(first_order: bool, dtype: torch.dtype) -> None:
    table = FullTable.of(FullEmbedding(1000, 4, first_order, dtype=dtype), num_fields=3)
    whole = 1000 * (5 if first_order else 4)
    assert table.parameters == whole
    # A projection of 4 x 4, or three; each field's columns have a scale where values have 8 bits.
    assert parse_budget(0.5).values(table) == whole // 2 - 16
    assert parse_budget(0.5).values(table, each_field=True) == whole // 2 - 48
    assert parse_budget("4kB").values(table) == (4000 - 64) // dtype.itemsize
    columns = 3 * (5 if first_order else 4)
    assert parse_budget("2kB@8bit").values(table, each_field=True) == 2000 - 4 * 48 - 4 * columns


@pytest.mark.parametrize("written", [1.0, "2M", "1GB"])
def test_never_more_than_there_is(written: float | str) -> None:
    assert parse_budget(written).parameters(1000) == 1000
    assert parse_budget(written).parameters(1000, overhead=16) == 984


@given(st.integers(2, 10**6), st.integers(0, 300), st.sampled_from([0.5, 1.0, "2", "400", "2M", "1kB", "1GB"]))
def test_with_the_overhead_it_stays_within_the_budget_and_the_full_table(
    full: int, overhead: int, written: float | str
) -> None:
    budget = parse_budget(written)
    try:
        total = budget.parameters(full, overhead) + overhead
    except BadInput:
        return
    limit = {"fraction": budget.value * full, "parameters": budget.value, "bytes": budget.value / 4}[budget.kind]
    assert min(limit, full) - 1 < total <= min(limit, full)


@given(
    st.integers(200, 10**6),
    st.integers(0, 100),
    st.integers(0, 200),
    st.sampled_from([32, 16, 8, 4]),
    st.sampled_from(["5%", "100%", "0.3", "400B", "2kB", "1GB"]),
)
def test_what_is_exported_fits_and_fills_its_bytes(
    full: int, overhead: int, columns: int, bits: int, written: str
) -> None:
    budget = parse_budget(f"{written}@{bits}bit")
    assert parse_budget(str(budget)) == budget
    asked = budget.value if budget.kind == "bytes" else budget.value * 4 * full
    try:
        kept = budget.parameters(full, overhead, columns=columns)
    except BadInput:
        return
    shared = 4 * overhead + {32: 0, 16: 0, 8: 4, 4: 8}[bits] * columns

    def most(values: int) -> int:
        """Bytes of so many values, where with 4 bits a tenth of them keeps 8."""
        fine = int(FINE * values) if bits == 4 else 0
        return fine + math.ceil((values - fine) * bits / 8)

    assert shared + most(kept) <= asked
    # One or two more values, and it would not fit, unless there are no more.
    assert kept == full - overhead or shared + most(kept + 4) > asked


def test_the_smallest_budget_of_an_exported_table_works() -> None:
    for written in ("0.001%@4bit", "9B@8bit"):
        with pytest.raises(BadInput, match="the smallest budget that works is") as failed:
            parse_budget(written).parameters(10_000, overhead=16, columns=10)
        smallest = str(failed.value).rpartition(" is ")[2]
        assert smallest.endswith(written[-5:])
        assert parse_budget(smallest).parameters(10_000, overhead=16, columns=10) >= 1
    with pytest.raises(BadInput, match="nothing fits, as is any other"):
        parse_budget("100%@4bit").parameters(100, overhead=90, columns=100)


@pytest.mark.parametrize("written", ["5%@7bit", "1MB@64bits"])
def test_bits_that_nothing_is_exported_in_are_named(written: str) -> None:
    with pytest.raises(BadInput, match="a table is exported in 32, 16, 8 or 4 bits"):
        parse_budget(written)


@pytest.mark.parametrize("written", ["500k@8bit", "5%@", "5%@bit", "5@8%"])
def test_only_bytes_and_fractions_are_of_bits(written: str) -> None:
    with pytest.raises(BadInput, match="is not a budget"):
        parse_budget(written)


def test_a_table_below_its_overhead_has_no_budget() -> None:
    with pytest.raises(BadInput, match=r"nothing fits, as is any other.*256 parameters.*lower model.embedding_dim"):
        parse_budget(1.0).parameters(160, overhead=256)


@given(st.integers(1, 10**6), st.integers(0, 300), st.sampled_from(["0.000001", "2", "1B", "0.001", "64B"]))
def test_a_budget_that_nothing_fits_names_one_that_works(full: int, overhead: int, written: str) -> None:
    budget = parse_budget(written)
    try:
        assert budget.parameters(full, overhead) >= 1
    except BadInput as error:
        message = str(error)
        assert str(budget) in message
        assert str(overhead) in message
        suggested = re.search(r"smallest budget that works is (\S+)", message)
        if overhead >= full:
            assert suggested is None
            return
        assert suggested is not None
        assert Budget.parameters(parse_budget(suggested[1]), full, overhead) >= 1


@pytest.mark.parametrize(
    ("budget", "exceeds"),
    [("100%", False), ("1700", False), ("1701", True), ("6800B", False), ("6801B", True), ("6801B@32bit", True),
     ("3400B@16bit", False), ("1701B@8bit", True), ("935B@4bit", False), ("936B@4bit", True)],
)  # fmt: skip
def test_more_than_the_whole_table(budget: str, exceeds: bool) -> None:
    assert parse_budget(budget).exceeds(FullTable(100, 16, True, 3)) is exceeds
