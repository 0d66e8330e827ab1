"""Dividing rows into train, valid and test: by fraction, by time or by a column."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import polars as pl

from pme_lightning.data.cache import check_name
from pme_lightning.data.file_names import split_name
from pme_lightning.data.options import SPLITS, check_whole_number
from pme_lightning.data.parts import ALL, reading
from pme_lightning.data.permutation import Permutation
from pme_lightning.data.times import in_order
from pme_lightning.errors import BadInput, did_you_mean

SplitBy = Literal["fraction", "time", "column"]

# Up to this many rows a byte for each says where it belongs; above, that is computed from its number.
_TABULATED = 1 << 27
# Of train, valid and test rows, where nothing else is said.
FRACTIONS = (0.8, 0.1, 0.1)


@dataclass(frozen=True)
class SplitOptions:
    """How rows that come without splits are divided, and a split that is missing is cut from train.

    Attributes:
        by: ``fraction`` (seeded, at random), ``time`` (the oldest rows train, the latest test) or ``column``.
        fractions: of train, valid and test.
        time_column: orders the rows for ``time``.
        time_format: strftime codes of a time column of text or integers.
        split_column: holds train, valid or test for ``column``.
        seed: of the random division.
    """

    by: SplitBy = "fraction"
    fractions: tuple[float, ...] = FRACTIONS
    time_column: str | None = None
    split_column: str | None = None
    seed: int = 0
    time_format: str | None = None

    def __post_init__(self) -> None:
        """Raises BadInput where the options do not fit together."""
        if self.by not in get_args(SplitBy):
            raise BadInput(f"data.split={self.by} is unknown: {did_you_mean(str(self.by), get_args(SplitBy))}")
        check_whole_number("split_seed", self.seed, 0)
        if (
            len(self.fractions) != 3
            or min(self.fractions) <= 0
            or not math.isclose(sum(self.fractions), 1, rel_tol=1e-6)
        ):
            given = ", ".join(f"{one:g}" for one in self.fractions)
            raise BadInput(f"data.fractions must be three positive numbers that sum to 1, not [{given}]")
        for by, column in (("time", self.time_column), ("column", self.split_column)):
            key = "time_column" if by == "time" else "split_column"
            if self.by == by and column is None:
                raise BadInput(f"data.split={by} needs data.{key}=COLUMN")

    def columns(self) -> list[str]:
        """The columns that are there only to divide the rows."""
        return [column for column in (self.time_column, self.split_column) if column is not None]


def split_by(time_column: str | None, split_column: str | None) -> SplitBy:
    """How rows are divided where only the columns to split by are named.

    Raises:
        BadInput: both are named.
    """
    if time_column is not None and split_column is not None:
        raise BadInput(
            "data.time_column and data.split_column both say how to split: choose with data.split=time or "
            "data.split=column"
        )
    return "time" if time_column is not None else "column" if split_column is not None else "fraction"


class Division(ABC):
    """To which splits the rows of one source go.

    Attributes:
        splits: the splits that the source has rows of.
        columns: the columns of it that tell.
    """

    def __init__(self, splits: Sequence[str], columns: Sequence[str] = ()) -> None:
        self.splits = tuple(splits)
        self.columns = tuple(columns)

    @abstractmethod
    def codes(self, part: pl.DataFrame, first: int) -> np.ndarray | None:
        """The split of each row, uint8 ``(n,)``, an index into ``splits``; None where all rows are of the only one.

        Args:
            part: rows in the order of the source, with the columns that tell.
            first: how many rows of the source come before.
        """

    def rows_of(self, split: str, part: pl.DataFrame, first: int) -> pl.DataFrame:
        """Those rows of a slice that go to one split."""
        codes = self.codes(part, first)
        return part if codes is None else part.filter(pl.Series(codes == self.splits.index(split)))


class Whole(Division):
    """All rows go to one split."""

    def __init__(self, split: str) -> None:
        super().__init__([split])

    def codes(self, part: pl.DataFrame, first: int) -> None:
        """Nothing to tell apart."""


class ByNumber(Division):
    """The number of a row in its source tells; ``members`` gives the codes of the rows from one number to another."""

    def __init__(self, splits: Sequence[str], members: Callable[[int, int], np.ndarray]) -> None:
        super().__init__(splits)
        self._members = members

    def codes(self, part: pl.DataFrame, first: int) -> np.ndarray:
        """The split of each row."""
        return self._members(first, first + len(part))


class ByColumn(Division):
    """A column tells; ``meaning`` gives the split of each of its values."""

    def __init__(self, column: str, meaning: Mapping[str, str]) -> None:
        super().__init__([split for split in SPLITS if split in meaning.values()], [column])
        self._codes = {value: self.splits.index(split) for value, split in meaning.items()}

    def codes(self, part: pl.DataFrame, first: int) -> np.ndarray:
        """The split of each row."""
        values = part.get_column(self.columns[0]).cast(pl.String)
        return values.replace_strict(self._codes, return_dtype=pl.UInt8).to_numpy()


def divide(frames: Mapping[str, pl.LazyFrame], options: SplitOptions) -> dict[str, Division]:
    """Says for every source to which splits its rows go.

    Args:
        frames: either all rows under ``all``, or the splits that are given. Of those a missing valid or test split
            is cut from train, at its share of the fractions.
        options: how.

    Raises:
        BadInput: a column is missing or holds something else, there are too few rows, or there is no train split.
    """
    if ALL in frames:
        if options.by == "column":
            return {ALL: _by_column(frames[ALL], options)}
        return {ALL: _by_share(frames[ALL], SPLITS, options)}
    if "train" not in frames:
        raise BadInput(f"there is no train split, only {', '.join(frames)}: name one with data.train_path=FILE")
    if options.by == "column":
        raise BadInput(
            "data.split_column is given, but the data are split into files already: leave it out, or name one "
            "data.path with all rows"
        )
    divisions: dict[str, Division] = {split: Whole(split) for split in SPLITS if split in frames}
    missing = [split for split in SPLITS if split not in frames]
    if missing:
        divisions["train"] = _by_share(frames["train"], ["train", *missing], options)
    return divisions


def _by_share(frame: pl.LazyFrame, names: Sequence[str], options: SplitOptions) -> Division:
    shares = np.array([options.fractions[SPLITS.index(name)] for name in names])
    with reading("the data"):
        if options.by == "time":
            _check_column(frame, str(options.time_column))
            column = frame.select(str(options.time_column)).collect(engine="streaming").to_series()
            time = in_order(column, options.time_format)
            n = len(time)
        else:
            n = int(frame.select(pl.len()).collect(engine="streaming").item())
    if n == 0:
        raise BadInput(
            f"there are no rows to divide into {', '.join(names)}: the file has none (of text it may hold a header "
            "alone, or a quote that is not closed)"
        )
    counts = np.rint(n * shares / shares.sum()).astype(np.int64)
    counts[0] = n - counts[1:].sum()
    if counts.min() < 1:
        empty = names[int(counts.argmin())]
        raise BadInput(f"the {empty} split is empty: {n} rows are too few to divide them into {', '.join(names)}")
    if options.by == "fraction" and n > _TABULATED:
        permutation, stops = Permutation(n, options.seed), np.cumsum(counts)

        def drawn(start: int, stop: int) -> np.ndarray:
            return np.searchsorted(stops, permutation(np.arange(start, stop)), side="right").astype(np.uint8)

        return ByNumber(names, drawn)
    # One byte per row says where it belongs: exact counts at a hundredth of the rows' own size.
    member = np.repeat(np.arange(len(names), dtype=np.uint8), counts)
    if options.by == "time":
        by_time = np.empty_like(member)
        by_time[time.arg_sort().to_numpy()] = member
        member = by_time
    else:
        np.random.default_rng(options.seed).shuffle(member)
    return ByNumber(names, lambda start, stop: member[start:stop])


def _by_column(frame: pl.LazyFrame, options: SplitOptions) -> Division:
    name = str(options.split_column)
    _check_column(frame, name)
    with reading("the data"):
        found = frame.select(pl.col(name).unique()).collect(engine="streaming")
        values = found.to_series().cast(pl.String).to_list()
    meaning = {}
    for value in values:
        split = split_name(value) if value is not None else None
        if split is None:
            shown = "a missing value" if value is None else f"'{value}'"
            raise BadInput(f"the split column '{name}' holds {shown}: it takes train, valid and test")
        meaning[value] = split
    for split in SPLITS:
        if split not in meaning.values():
            raise BadInput(f"the {split} split is empty: no row of the split column '{name}' says {split}")
    return ByColumn(name, meaning)


def _check_column(frame: pl.LazyFrame, name: str) -> None:
    names = frame.collect_schema().names()
    if name not in names:
        raise BadInput(f"there is no column '{name}' to split by, {did_you_mean(name, names)}")
    check_name(name)
