"""The budgets of a curve: read as one list, named for files and tables, and held against a model before training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pme_lightning.errors import BadInput
from pme_lightning.search import Budget, FullTable, parse_budget

DEFAULT_BUDGETS = (0.5, 0.2, 0.1, 0.05, 0.02)

Value = float | int | str


def budget_name(value: Value) -> str:
    """Returns the name of a budget in tables and file names; the same for all ways of writing it.

    >>> [budget_name(value) for value in (0.2, "20%", 2_000_000, "2M", "20mb", "5%@8bit")]
    ['0.2', '0.2', '2000000', '2000000', '20MB', '0.05@8bit']
    """
    budget = parse_budget(value)
    if budget.kind != "fraction":
        return str(budget)
    return repr(float(budget.value)) + ("" if budget.bits is None else f"@{budget.bits}bit")


def read_budgets(values: Iterable[Value]) -> dict[str, Value]:
    """Returns the budgets of a list by name.

    Raises:
        BadInput: There is none, one cannot be read, or two are the same.
    """
    named: dict[str, Value] = {}
    for value in values:
        try:
            name = budget_name(value)
        except BadInput as error:
            raise _of_budgets(error) from error
        if name in named:
            raise BadInput(f"budgets: {named[name]} and {value} are the same budget; give each once")
        named[name] = value
    if not named:
        raise BadInput("budgets: the list is empty; give at least one, such as budgets=[0.2,0.1]")
    return named


def fitting_budgets(
    named: Mapping[str, Value],
    table: FullTable,
    allocator: Any = None,
    field_tokens: Sequence[int] | None = None,
    each_field: bool = False,
) -> dict[str, Value]:
    """Returns the budgets by name, the largest first, once it is known that sizes can be had for each.

    Args:
        named: What :func:`read_budgets` returned.
        table: The full-size table; the projection takes ``D * D`` of every budget.
        allocator: What makes the sizes, asked whether it can; ``None`` for one that is not known.
        field_tokens: The number of tokens of each field.
        each_field: Whether each field has a projection.

    Raises:
        BadInput: Nothing fits into a budget.
    """
    kept: dict[str, int] = {}
    for name, value in named.items():
        budget: Budget = parse_budget(value)
        try:
            kept[name] = budget.values(table, each_field)
        except BadInput as error:
            raise _of_budgets(error) from error
        if allocator is not None:
            try:
                allocator.check_sizes(table.num_tokens, table.embedding_dim, kept[name], field_tokens)
            except BadInput as error:
                raise BadInput(f"budgets: {value}: {error}") from error
    return {name: named[name] for name in sorted(named, key=lambda name: (-kept[name], name))}


def _of_budgets(error: BadInput) -> BadInput:
    # The reader of one budget speaks of the key that holds one.
    return BadInput(f"budgets: {str(error).removeprefix('search.budget ')}")
