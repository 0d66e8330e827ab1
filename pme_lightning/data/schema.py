"""Which column is the label, which are fields of what kind, and which are left out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import polars as pl

from pme_lightning.data.options import check_whole_number
from pme_lightning.data.times import has_clock
from pme_lightning.errors import BadInput, did_you_mean

Kind = Literal["categorical", "numeric", "hour", "weekday", "weekend"]
Binning = Literal["quantile", "log2"]

# Looked for in this order, without regard to case, when no label column is named.
LABEL_NAMES = ("label", "click", "clicked", "target", "y")
# How numeric columns are binned where nothing else is said.
BINNING: Binning = "quantile"
BINS = 64


@dataclass(frozen=True)
class Field:
    """One field: a column (or a part of a timestamp column) that becomes one token per row.

    Attributes:
        name: of the field, unique in the schema.
        kind: ``categorical`` (each value is a token), ``numeric`` (binned; each bin is a token), or the ``hour``,
            ``weekday`` or ``weekend`` of a timestamp column.
        binning: ``quantile`` or ``log2`` for numeric fields, else None.
        bins: number of quantile bins (0 otherwise).
        column: the column it is read from; the field's own name if empty.
        time_format: how a timestamp column's text reads (strftime codes); None for date and time columns.
    """

    name: str
    kind: Kind
    binning: Binning | None = None
    bins: int = 0
    column: str = ""
    time_format: str | None = None

    @property
    def source(self) -> str:
        """The column that the field is read from."""
        return self.column or self.name


@dataclass(frozen=True)
class Schema:
    """The label column, the fields in the order of the id columns, and the columns left out.

    Attributes:
        label: name of the label column.
        fields: the fields.
        drop: names of columns that are in the data and not used.
        dtypes: ``{column: type}`` as found in the training data, for tables and messages.
    """

    label: str
    fields: tuple[Field, ...]
    drop: tuple[str, ...] = ()
    dtypes: dict[str, str] = field(default_factory=dict)

    def columns(self) -> list[str]:
        """The columns that the fields are read from, each once, in order."""
        return list(dict.fromkeys(f.source for f in self.fields))

    def to_json(self) -> dict[str, Any]:
        """The schema as plain JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Schema:
        """The schema from what :meth:`to_json` gave."""
        return cls(
            label=data["label"],
            fields=tuple(Field(**one) for one in data["fields"]),
            drop=tuple(data["drop"]),
            dtypes=dict(data["dtypes"]),
        )

    def check_options(
        self,
        label: str | None = None,
        categorical: Sequence[str] | None = None,
        numeric: Sequence[str] | None = None,
        drop: Sequence[str] | None = None,
        timestamps: Mapping[str, str] | None = None,
        binning: Binning = BINNING,
        bins: int = BINS,
        unused: Iterable[str] = (),
    ) -> None:
        """Refuses options that ask for another schema than this one, which comes with a saved vocabulary.

        Args:
            label: as in :func:`infer_schema`, and so are the others; one that is not given agrees with everything.
            categorical: see there.
            numeric: see there.
            drop: see there, also columns that the data no longer have.
            timestamps: see there, also of columns that only say how to split.
            binning: see there.
            bins: see there.
            unused: see there.

        Raises:
            BadInput: one of them does.
        """
        if label is not None and label != self.label:
            raise _disagrees("label", f"the label is '{self.label}', not '{label}'")
        kinds: dict[str, str] = {self.label: "the label"}
        for one in self.fields:
            kinds[one.source] = one.kind if one.kind in ("categorical", "numeric") else "a time"
        for option, kind, names in (
            ("categorical", "categorical", categorical),
            ("numeric", "numeric", numeric),
            ("drop", "not used", drop),
            ("timestamps", "a time", [name for name in timestamps or {} if name not in unused]),
        ):
            for name in names or []:
                if kinds.get(name, "not used") != kind:
                    raise _disagrees(option, f"column '{name}' is {kinds.get(name, 'not used')}")
        for one in self.fields:
            form = (timestamps or {}).get(one.source, one.time_format)
            if one.time_format not in (None, form):
                raise _disagrees("timestamps", f"the times of column '{one.source}' have the form {one.time_format}")
            if one.kind == "numeric" and binning not in (BINNING, one.binning):
                raise _disagrees("binning", f"column '{one.name}' has {one.binning} bins")
            if one.binning == "quantile" and bins not in (BINS, one.bins):
                raise _disagrees("bins", f"column '{one.name}' has {one.bins} bins")

    def table(self, field_tokens: Sequence[int] | None = None) -> str:
        """A plain-text table of column, type, kind and (where given) tokens, one line each."""
        rows = [("column", "type", "kind", "tokens")]
        rows.append((self.label, self.dtypes.get(self.label, ""), "label", ""))
        counts = ["" for _ in self.fields] if field_tokens is None else [f"{count:,}" for count in field_tokens]
        for one, tokens in zip(self.fields, counts, strict=True):
            kind: str = one.kind
            if one.binning == "quantile":
                kind += f", {one.bins} quantile bins"
            elif one.binning is not None:
                kind += f", {one.binning} bins"
            elif one.name != one.source:
                kind += f" of {one.source}"
            rows.append((one.name, self.dtypes.get(one.source, ""), kind, tokens))
        rows += [(name, self.dtypes.get(name, ""), "not used", "") for name in self.drop]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:<{widths[2]}}  {d:>{widths[3]}}".rstrip() for a, b, c, d in rows
        )


def infer_schema(
    columns: Mapping[str, pl.DataType],
    label: str | None = None,
    categorical: Sequence[str] | None = None,
    numeric: Sequence[str] | None = None,
    drop: Sequence[str] | None = None,
    timestamps: Mapping[str, str] | None = None,
    binning: Binning = BINNING,
    bins: int = BINS,
    unused: Iterable[str] = (),
) -> Schema:
    """Makes a schema of the columns' names and types; whatever is named explicitly wins over what is inferred.

    Inferred: the label is the column called label, click, clicked, target or y; floats are numeric, and so are the
    integer columns ``I1``, ``I2``, ... where there are ``C1``, ``C2``, ... beside them (Criteo's layout); dates and
    times become hour, weekday and weekend; everything else is categorical.

    Args:
        columns: ``{name: type}``, in the order of the data.
        label: the label column.
        categorical: columns whose values are tokens.
        numeric: columns to bin.
        drop: columns to leave out.
        timestamps: ``{column: format}`` (strftime codes, as in ``%y%m%d%H``) of text or integer columns that become
            hour of day, weekday and weekend.
        binning: how numeric columns are binned.
        bins: number of quantile bins.
        unused: columns that are left out unless they are named as fields (those that only say how to split).

    Raises:
        BadInput: a name is not among the columns or is given two roles, no label is found, a column holds lists or
            other nested values, or no field is left.
    """
    if binning not in get_args(Binning):
        raise BadInput(f"data.binning={binning} is unknown: {did_you_mean(str(binning), get_args(Binning))}")
    check_whole_number("bins", bins, 2)
    named = {
        "label": [label] if label is not None else [],
        "categorical": categorical or [],
        "numeric": numeric or [],
        "timestamps": timestamps or {},
        "drop": drop or [],
    }
    roles = _roles(columns, named)
    label = label if label is not None else _find_label(columns, roles)
    fields: list[Field] = []
    left_out: list[str] = []
    for name, dtype in columns.items():
        role = roles.get(name, "drop" if name in unused else "")
        if name == label:
            continue
        if role == "drop":
            left_out.append(name)
            continue
        check_single_values(name, dtype)
        fields += _fields_of(name, dtype, role, columns, (timestamps or {}).get(name), binning, bins)
    if not fields:
        raise BadInput(f"no field is left beside the label '{label}': the columns are {', '.join(columns)}")
    names = [one.name for one in fields]
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"two fields would be called '{name}': rename the column '{name}'")
    dtypes = {name: str(dtype) for name, dtype in columns.items()}
    return Schema(label=label, fields=tuple(fields), drop=tuple(left_out), dtypes=dtypes)


def _roles(columns: Mapping[str, pl.DataType], named: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """The role of every column that is named in one, ``{column: role}``."""
    roles: dict[str, str] = {}
    for role, names in named.items():
        for name in names:
            if name not in columns:
                raise BadInput(f"data.{role}: there is no column '{name}', {did_you_mean(name, columns)}")
            if name in roles:
                raise BadInput(f"column '{name}' is named twice: in data.{roles[name]} and in data.{role}")
            roles[name] = role
    return roles


def _disagrees(option: str, what: str) -> BadInput:
    return BadInput(
        f"data.{option}: in the saved vocabulary, which says what columns are, {what}: leave data.{option} out, or fit "
        "another vocabulary"
    )


def check_single_values(name: str, dtype: pl.DataType) -> None:
    """Raises BadInput where a column's values are nested or have no text, so that they cannot be tokens."""
    if dtype.is_nested() or dtype in (pl.Binary, pl.Object, pl.Duration):
        raise BadInput(
            f"column '{name}' holds values of type {dtype}: only single values (text, numbers, booleans, times) make "
            f"tokens; data.drop=[{name}] leaves it out"
        )


def _find_label(columns: Mapping[str, pl.DataType], roles: Mapping[str, str]) -> str:
    lower = {name.lower(): name for name in reversed(list(columns)) if name not in roles}
    for name in LABEL_NAMES:
        if name in lower:
            return lower[name]
    none = f"no column is called {', '.join(LABEL_NAMES[:-1])} or {LABEL_NAMES[-1]}"
    for separator, word in ((";", ";"), ("\t", "\\t"), ("|", "|"), (",", ",")):
        if len(columns) == 1 and separator in next(iter(columns)):
            raise BadInput(f"{none}, and there is one column alone: is data.separator='{word}'?")
    raise BadInput(f"{none}: say data.label=COLUMN, one of {', '.join(columns)}")


def _fields_of(
    name: str,
    dtype: pl.DataType,
    role: str,
    columns: Mapping[str, pl.DataType],
    time_format: str | None,
    binning: Binning,
    bins: int,
) -> list[Field]:
    if role == "timestamps" or (not role and dtype in (pl.Date, pl.Datetime)):
        if dtype in (pl.Date, pl.Datetime):
            time_format = None
        parts = [
            Field(f"{name}_weekday", "weekday", column=name, time_format=time_format),
            Field(f"{name}_weekend", "weekend", column=name, time_format=time_format),
        ]
        if dtype == pl.Date or (time_format is not None and not has_clock(time_format)):
            return parts
        return [Field(f"{name}_hour", "hour", column=name, time_format=time_format), *parts]
    criteo = (
        re.fullmatch(r"I\d+", name) is not None
        and dtype.is_integer()
        and any(re.fullmatch(r"C\d+", other) for other in columns)
    )
    if role == "numeric" or (not role and (dtype.is_float() or dtype.is_decimal() or criteo)):
        return [Field(name, "numeric", binning=binning, bins=bins if binning == "quantile" else 0)]
    return [Field(name, "categorical")]
