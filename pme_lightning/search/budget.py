"""The budget of a search: how many per-token values the sizes may add up to."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

import numpy as np

from pme_lightning.errors import BadInput

if TYPE_CHECKING:
    from pme_lightning.embedding import FullEmbedding, MultiSizeEmbedding

_BYTE_UNITS = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_UNIT_NAMES = {"tib": "TiB", "gib": "GiB", "mib": "MiB", "kib": "KiB"}
_COUNT_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_FORMS = (
    "give a fraction in (0, 1] such as 0.2 or 20%, a number of parameters above 1 such as 500k, "
    "or a size in bytes such as 20MB or 512KiB; of what is exported in 8 bits, 5MB@8bit or 5%@8bit"
)
# Mean bits per value in an exported table, and the number of scales per column of a field. With 4 bits, some values
# keep 8, and both kinds have scales.
_EXPORTED = {32: (Fraction(32), 0), 16: (Fraction(16), 0), 8: (Fraction(8), 1), 4: (Fraction(44, 10), 2)}
# What tokens share is always stored in 32 bits.
_SHARED_BYTES = 4
# A number with more digits than this is a typo, and exact arithmetic on it would take forever.
_MAX_EXPONENT = 30


@dataclass(frozen=True)
class FullTable:
    """The full-size table that a budget refers to.

    Attributes:
        num_tokens: ``V``.
        embedding_dim: ``D``.
        first_order: Whether tokens also own a first-order weight.
        num_fields: ``F``.
        value_bytes: Bytes per value of a token during training.
    """

    num_tokens: int
    embedding_dim: int
    first_order: bool
    num_fields: int
    value_bytes: int = 4

    @classmethod
    def of(cls, embedding: FullEmbedding | MultiSizeEmbedding, num_fields: int) -> FullTable:
        """Describes a full-size table of ``num_fields`` fields, or the one that a multi-size table was made from."""
        return cls(
            embedding.num_tokens,
            embedding.embedding_dim,
            embedding.first_order,
            num_fields,
            embedding.dtype.itemsize,
        )

    @property
    def parameters(self) -> int:
        """Its per-token values: ``V * D``, and ``V`` more with first-order weights."""
        return self.num_tokens * (self.embedding_dim + self.first_order)

    @property
    def columns(self) -> int:
        """Number of columns of all fields together, first-order weights included."""
        return self.num_fields * (self.embedding_dim + self.first_order)

    def projections(self, each_field: bool = False) -> int:
        """Number of values of the projection to ``D``: ``D * D`` that all fields share, or as many for each field."""
        return (self.num_fields if each_field else 1) * self.embedding_dim**2


@dataclass(frozen=True)
class Budget:
    """What the per-token parameters of the embedding may add up to after the search.

    Attributes:
        kind: ``"fraction"`` of the full per-token parameters, a number of ``"parameters"``, or ``"bytes"``.
        value: an exact fraction in (0, 1], a number of parameters, or a number of bytes.
        bits: Bits per value, if the budget refers to the exported table; a fraction is then relative to the bytes of a
            full-size table of 32 bits. ``None``: the table as it is trained.
    """

    kind: Literal["fraction", "parameters", "bytes"]
    value: Fraction | int
    bits: int | None = None

    def __str__(self) -> str:
        """Text that :func:`parse_budget` reads as this budget: ``20%``, ``1000000``, ``20MB``, ``5MB@8bit``."""
        exported = "" if self.bits is None else f"@{self.bits}bit"
        if self.kind == "fraction":
            return f"{_decimal_text(Fraction(self.value) * 100)}%{exported}"
        if self.kind == "parameters":
            return str(self.value)
        return _bytes_text(int(self.value)) + exported

    def exceeds(self, table: FullTable) -> bool:
        """Whether the budget is more than the whole table takes, so that nothing would be pruned."""
        if self.kind == "fraction":
            return False
        if self.kind == "parameters":
            return self.value > table.parameters
        value_bytes = Fraction(table.value_bytes) if self.bits is None else _EXPORTED[self.bits][0] / 8
        return self.value > table.parameters * value_bytes

    def values(self, table: FullTable, each_field: bool = False) -> int:
        """Returns how many per-token values of a table may be kept in addition to the projection or projections.

        Args:
            table: The full-size table.
            each_field: Whether each field has its own projection.

        Raises:
            BadInput: not a single value would fit.
        """
        return self.parameters(table.parameters, table.projections(each_field), table.value_bytes, table.columns)

    def parameters(
        self, full_parameters: int, overhead: int = 0, bytes_per_parameter: int = 4, columns: int = 0
    ) -> int:
        """Returns how many per-token values may be kept; with the overhead, they never exceed the full-size embedding.

        Args:
            full_parameters: per-token values of the full-size embedding, ``V * D`` (and ``V`` more with a
                first-order term).
            overhead: parameters of the embedding that belong to no token (the shared projection); they count, with 4
                bytes each.
            bytes_per_parameter: Bytes of a per-token value during training: 4 for float32.
            columns: Number of columns of all fields together, first-order weights included: in an export with few bits,
                each column has a scale.

        Raises:
            BadInput: not a single value would fit.
        """
        value_bytes, shared = Fraction(bytes_per_parameter), _SHARED_BYTES * overhead
        if self.bits is not None:
            value_bits, scales = _EXPORTED[self.bits]
            # Values of 4 bits are stored in pairs.
            value_bytes, shared = value_bits / 8, shared + _SHARED_BYTES * columns * scales + (self.bits == 4)
        if overhead >= full_parameters or (self.bits and shared + value_bytes > 4 * full_parameters):
            raise BadInput(
                f"search.budget {self} is a budget that nothing fits, as is any other: the embedding layer itself "
                f"takes {overhead} parameters, the full-size table {full_parameters}; lower model.embedding_dim"
            )
        if self.kind == "parameters":
            limit = int(self.value)
        elif self.kind == "fraction" and self.bits is None:
            limit = math.floor(self.value * full_parameters)
        else:
            whole = self.value if self.kind == "bytes" else self.value * 4 * full_parameters
            limit = math.floor((whole - shared) / value_bytes) + overhead
        kept = min(limit, full_parameters) - overhead
        if kept < 1:
            smallest = self._smallest(full_parameters, overhead, math.ceil(shared + value_bytes))
            raise BadInput(
                f"search.budget {self} is a budget that nothing fits: it allows {max(0, limit)} of {full_parameters} "
                f"parameters and the embedding layer itself takes {overhead}; "
                f"the smallest budget that works is {smallest}"
            )
        return kept

    def _smallest(self, full_parameters: int, overhead: int, least_bytes: int) -> str:
        least, exported = overhead + 1, "" if self.bits is None else f"@{self.bits}bit"
        if self.kind == "bytes":
            return _bytes_text(least_bytes) + exported
        if self.kind == "parameters":
            return f"{least} parameters"
        share = Fraction(least, full_parameters) if self.bits is None else Fraction(least_bytes, 4 * full_parameters)
        digits = 2
        while True:
            # Rounded up, so that the suggested budget is enough; more digits until it is at most 100%.
            percent = Fraction(math.ceil(share * 100 * 10**digits), 10**digits)
            if percent <= 100:
                return f"{_decimal_text(percent)}%{exported}"
            digits += 1


def parse_budget(value: float | int | str) -> Budget:
    """Parses a budget.

    ``0.2``, ``"0.2"`` and ``"20%"`` are fractions of the full per-token parameters. A whole number above
    1 (``1000000``, ``"2M"``, ``"500k"``) is a number of parameters. A byte unit (``"20MB"``, ``"512KiB"``; MB
    is 10^6, MiB is 2^20, upper or lower case) makes it bytes. Fractions are exact: 0.2 of 100 is 20. ``"5MB@8bit"``
    and ``"5%@8bit"`` refer to the table as exported in 8 bits per value (or 32, 16, 4); the fraction is then relative
    to the bytes of the full-size table in 32 bits.

    Raises:
        BadInput: anything else.
    """
    if isinstance(value, (np.integer, np.bool_)):
        value = value.item()
    elif isinstance(value, np.floating):
        value = float(str(value))
    wrong = BadInput(f"search.budget {value!r} is not a budget: {_FORMS}")
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise wrong
    # The repr of a float is the shortest text for it, which is what the user typed.
    text = value.strip() if isinstance(value, str) else repr(value)
    match = re.fullmatch(r"([0-9._]+(?:[eE][+-]?[0-9]+)?)\s*([a-zA-Z]*|%)(?:\s*@\s*([0-9]{1,2})\s*bits?)?", text)
    if match is None:
        raise wrong
    bits = None if match[3] is None else int(match[3])
    if bits is not None and bits not in _EXPORTED:
        raise BadInput(f"search.budget {value!r}: a table is exported in 32, 16, 8 or 4 bits, not in {bits}")
    try:
        decimal = Decimal(match[1])
    except InvalidOperation:
        raise wrong from None
    if abs(decimal.adjusted()) > _MAX_EXPONENT:
        raise wrong
    number, unit = Fraction(decimal), match[2].lower()
    if unit == "%":
        number /= 100
    if unit in ("", "%") and 0 < number <= 1:
        return Budget("fraction", number, bits)
    if unit in _BYTE_UNITS and number * _BYTE_UNITS[unit] >= 1:
        return Budget("bytes", math.floor(number * _BYTE_UNITS[unit]), bits)
    if unit in _COUNT_UNITS and bits is None:
        number *= _COUNT_UNITS[unit]
        if number > 1 and number.denominator == 1:
            return Budget("parameters", int(number))
    raise wrong


def _decimal_text(number: Fraction) -> str:
    # Exact: every fraction here was read from decimal digits, so its denominator divides a power of ten.
    digits = 0
    while (number * 10**digits).denominator != 1 and digits < 2 * _MAX_EXPONENT:
        digits += 1
    scaled = round(number * 10**digits)
    whole, rest = divmod(scaled, 10**digits)
    return f"{whole}.{rest:0{digits}d}" if digits else str(whole)


def _bytes_text(count: int) -> str:
    for unit, size in sorted(_BYTE_UNITS.items(), key=lambda item: -item[1]):
        if count % size == 0:
            return f"{count // size}{_UNIT_NAMES.get(unit, unit.upper())}"
    raise AssertionError("one byte divides every count")
