"""What sizes say in numbers, against plain counting over tokens."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pme_lightning.search import SearchResult
from pme_lightning.size_facts import popularity_bands, size_facts


def found(sizes: list[int], linear: list[bool] | None, D: int) -> SearchResult:
    kept = None if linear is None else torch.tensor(linear, dtype=torch.bool)
    return SearchResult(torch.tensor(sizes, dtype=torch.int64), kept, D, None, "20%", "Fisher")


@st.composite
def searches(draw: st.DrawFn) -> tuple[SearchResult, list[int], Tensor]:
    field_tokens = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    V, D = sum(field_tokens), draw(st.integers(1, 5))
    sizes = draw(st.lists(st.integers(0, D), min_size=V, max_size=V))
    linear = draw(st.none() | st.lists(st.booleans(), min_size=V, max_size=V))
    frequencies = draw(st.lists(st.integers(0, 9) | st.integers(0, 2**40), min_size=V, max_size=V))
    return found(sizes, linear, D), field_tokens, torch.tensor(frequencies)


@given(searches())
def test_fields_are_counted_token_by_token(search: tuple[SearchResult, list[int], Tensor]) -> None:
    result, field_tokens, frequencies = search
    D = result.embedding_dim
    names = [f"f{i}" for i in range(len(field_tokens))]
    facts = size_facts(result, names, field_tokens, frequencies)
    token = 0
    for name, tokens, field in zip(names, field_tokens, facts.fields, strict=True):
        sizes = result.sizes[token : token + tokens].tolist()
        first_order = None if result.linear is None else sum(result.linear[token : token + tokens].tolist())
        token += tokens
        assert (field.name, field.tokens, field.first_order) == (name, tokens, first_order)
        assert field.histogram == [sizes.count(d) for d in range(D + 1)]
        assert field.mean_size == pytest.approx(sum(sizes) / tokens)
        assert field.parameters == sum(sizes) + (first_order or 0)
        assert field.full_parameters == tokens * (D if first_order is None else D + 1)
        assert field.kept == pytest.approx(field.parameters / field.full_parameters)
    assert facts.parameters == result.parameters == sum(field.parameters for field in facts.fields)
    assert facts.full_parameters == sum(field.full_parameters for field in facts.fields)
    assert sum(facts.histogram) == facts.tokens == len(result.sizes)


@given(searches())
def test_bands_are_those_of_binary_digits(search: tuple[SearchResult, list[int], Tensor]) -> None:
    result, _, frequencies = search
    pairs = list(zip(frequencies.tolist(), result.sizes.tolist(), strict=True))
    bands = popularity_bands(result, frequencies)
    for band in bands:
        sizes = [size for rows, size in pairs if band.fewest <= rows <= band.most]
        assert band.tokens == len(sizes)
        assert band.histogram == [Counter(sizes)[d] for d in range(result.embedding_dim + 1)]
        assert band.mean_size == (pytest.approx(sum(sizes) / len(sizes)) if sizes else None)
    assert [(band.fewest, band.most) for band in bands[:4]] == [(0, 0), (1, 1), (2, 3), (4, 7)][: len(bands)]
    assert sum(band.tokens for band in bands) == len(pairs)
    assert bands[-1].tokens or not max(rows for rows, _ in pairs), "a band beyond the most popular token"


def test_facts_are_plain_data() -> None:
    facts = size_facts(found([0, 3, 1], [True, True, False], 3), ["a", "b"], [1, 2], torch.tensor([0, 900, 1]))
    assert json.loads(json.dumps(dataclasses.asdict(facts)))["fields"][1]["histogram"] == [0, 1, 0, 1]


def test_another_vocabulary_is_refused() -> None:
    result = found([0, 3, 1], None, 3)
    with pytest.raises(ValueError, match="do not fit 3 sizes"):
        size_facts(result, ["a"], [4], torch.ones(3))
    with pytest.raises(ValueError, match="frequencies do not fit 3 sizes"):
        size_facts(result, ["a"], [3], torch.ones(4))
