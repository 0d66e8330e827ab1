"""The synthetic click log is what its arguments say, and always the same."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pme_lightning.data import SyntheticDataModule, synthetic
from pme_lightning.data.planted import (
    ClickRows,
    Plan,
    PlantedModel,
    best_metrics,
    draw_rows,
    field_sizes,
    plant,
    rank_counts,
)
from pme_lightning.errors import BadInput

SMALL = Plan(tokens=500, num_fields=4, max_rank=4)


def ready(**arguments: object) -> SyntheticDataModule:
    data = SyntheticDataModule(**{"rows": 4000, "tokens": 500, "num_fields": 4, "max_rank": 4, **arguments})
    data.prepare_data()
    data.setup()
    return data


def parts(model: PlantedModel) -> list[np.ndarray]:
    """Every number of a planted model."""
    arrays = [model.popularity, *model.by_popularity, model.weights, model.vectors, model.rotation, model.ranks]
    return [*arrays, np.array(model.field_tokens), np.array(model.bias)]


def tokens_of_fields(model: PlantedModel) -> list[np.ndarray]:
    """Per field the ids that rows may have, out-of-vocabulary excluded."""
    ends = np.cumsum(model.field_tokens)
    return [np.arange(end - size + 1, end) for end, size in zip(ends, model.field_tokens, strict=True)]


def first_order_part(model: PlantedModel, ids: np.ndarray) -> np.ndarray:
    """What tokens tell of the logit one by one: their weights, and their vectors against the mean partner."""
    means = [model.popularity[tokens] @ model.vectors[tokens] for tokens in tokens_of_fields(model)]
    part = np.zeros(len(ids))
    for f in range(ids.shape[1]):
        partners = sum(mean for g, mean in enumerate(means) if g != f)
        part += (model.weights + model.vectors @ partners)[ids[:, f]]
    return part


@given(num_fields=st.integers(2, 12), more=st.integers(0, 100_000))
def test_field_sizes_grow_from_ten_and_sum_to_the_tokens(num_fields: int, more: int) -> None:
    tokens = 10 * num_fields + more
    sizes = field_sizes(tokens, num_fields)
    assert sum(sizes) == tokens
    assert sizes[0] >= 10
    assert sizes == sorted(sizes)


@given(tokens=st.integers(9, 3000), max_rank=st.integers(1, 64), tilt=st.floats(-10, 10))
def test_rank_counts_follow_their_shares_and_keep_one_token_of_the_highest_rank(
    tokens: int, max_rank: int, tilt: float
) -> None:
    ranks = np.unique([0, 1, max_rank])
    counts = rank_counts(tokens, ranks, tilt)
    assert counts.sum() == tokens
    assert (counts >= 0).all()
    assert counts[-1] >= 1
    shares = [math.exp(tilt * x) for x in np.linspace(-1, 1, len(ranks))]
    assert np.abs(counts - np.array(shares) / sum(shares) * tokens).max() <= 2


def test_the_same_arguments_give_the_same_model_and_another_seed_another() -> None:
    first, again, other = plant(SMALL), plant(SMALL), plant(replace(SMALL, planted_seed=1))
    for one, two in zip(parts(first), parts(again), strict=True):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(first.vectors, other.vectors)
    assert not np.array_equal(first.ranks, other.ranks)
    assert not np.array_equal(first.popularity, other.popularity)


@pytest.mark.parametrize("max_rank", [1, 4, 6, 8])
def test_ranks_are_the_nonzero_coordinates_before_the_rotation(max_rank: int) -> None:
    model = plant(replace(SMALL, max_rank=max_rank))
    np.testing.assert_allclose(model.rotation @ model.rotation.T, np.eye(max_rank), atol=1e-12)
    straight = np.abs(model.vectors @ model.rotation.T)
    nonzero = straight > 1e-3 * straight.max()
    np.testing.assert_array_equal(nonzero, np.arange(max_rank) < model.ranks[:, None])
    assert set(model.ranks.tolist()) <= {0, 1, 2, 4, max_rank}
    # No planted dimension is there in name only: within each, values differ by a factor of 3 at most.
    for k in range(max_rank):
        column = straight[nonzero[:, k], k]
        assert column.max() <= 3.001 * column.min()


def test_all_tokens_of_a_rank_span_that_many_dimensions() -> None:
    model = plant(Plan(tokens=2000, num_fields=4, max_rank=8))
    for rank in (1, 2, 4, 8):
        assert np.linalg.matrix_rank(model.vectors[model.ranks == rank], tol=1e-3) == rank
    assert not model.vectors[model.ranks == 0].any()


def test_ranks_differ_between_fields_but_not_with_popularity() -> None:
    model = plant(Plan(tokens=30_000, num_fields=5, rank_tilt=1.5))
    means = []
    for tokens in model.by_popularity[2:]:
        ranks = model.ranks[tokens]
        means.append(ranks.mean())
        half = len(tokens) // 2
        error = ranks.std() * math.sqrt(1 / half + 1 / (len(tokens) - half))
        assert abs(ranks[:half].mean() - ranks[half:].mean()) < 4 * error
    assert max(means) > 1.5 * min(means)
    flat = plant(Plan(tokens=30_000, num_fields=5, rank_tilt=0))
    assert np.ptp([flat.ranks[tokens].mean() for tokens in flat.by_popularity[2:]]) < 0.2


@pytest.mark.parametrize("exponent", [0.0, 0.8, 1.25])
def test_popularity_is_zipf_within_a_field_and_says_nothing_about_the_id(exponent: float) -> None:
    model = plant(replace(SMALL, zipf_exponent=exponent))
    rows = draw_rows(model, 200_000, seed=3)
    for f, (tokens, order) in enumerate(zip(tokens_of_fields(model), model.by_popularity, strict=True)):
        zipf = [1 / place**exponent for place in range(1, len(tokens) + 1)]
        np.testing.assert_allclose(model.popularity[order], np.array(zipf) / sum(zipf))
        np.testing.assert_array_equal(np.sort(order), tokens)
        expected = 200_000 * model.popularity
        counts = np.bincount(rows.ids[:, f], minlength=500)
        assert (np.abs(counts - expected)[tokens] < 6 * np.sqrt(expected[tokens]) + 6).all()
    largest = model.by_popularity[-1].astype(float)
    assert abs(np.corrcoef(largest, np.arange(len(largest)))[0, 1]) < 0.25


def test_ids_stay_in_their_fields_and_never_are_out_of_vocabulary() -> None:
    model = plant(SMALL)
    rows = draw_rows(model, 5000, seed=1)
    assert rows.ids.dtype == np.int32
    for f, tokens in enumerate(tokens_of_fields(model)):
        assert np.isin(rows.ids[:, f], tokens).all()


def test_logits_are_the_sum_over_tokens_and_pairs() -> None:
    model = plant(SMALL)
    rows = draw_rows(model, 300, seed=1)
    for ids, logit in zip(rows.ids, rows.logits, strict=True):
        expected = model.bias + sum(float(model.weights[i]) for i in ids)
        expected += sum(float(model.vectors[i] @ model.vectors[j]) for i, j in itertools.combinations(ids, 2))
        assert logit == pytest.approx(expected, abs=1e-4)


def test_labels_are_drawn_with_the_planted_probabilities() -> None:
    rows = draw_rows(plant(SMALL), 200_000, seed=1)
    probabilities = 1 / (1 + np.exp(-rows.logits.astype(float)))
    order = np.argsort(probabilities)
    for group in np.array_split(order, 20):
        error = math.sqrt((probabilities[group] * (1 - probabilities[group])).sum()) / len(group)
        assert abs(rows.labels[group].mean() - probabilities[group].mean()) < 4.5 * error


@pytest.mark.parametrize(("first", "interaction", "rate"), [(0.6, 1.5, 0.3), (1.5, 0.25, 0.5), (0.2, 2.0, 0.1)])
def test_scales_and_click_rate_are_as_asked(first: float, interaction: float, rate: float) -> None:
    plan = replace(SMALL, first_order_scale=first, interaction_scale=interaction, click_rate=rate)
    model = plant(plan)
    rows = draw_rows(model, 100_000, seed=1)
    explained = first_order_part(model, rows.ids)
    rest = rows.logits - explained
    assert explained.std() == pytest.approx(first, rel=0.03)
    assert rest.std() == pytest.approx(interaction, rel=0.03)
    assert rows.labels.mean() == pytest.approx(rate, abs=0.01)
    # Nothing of the interactions is left for a token alone.
    for f, order in enumerate(model.by_popularity):
        for token in order[:5]:
            own = rest[rows.ids[:, f] == token]
            assert abs(own.mean() - rest.mean()) < 4.5 * own.std() / math.sqrt(len(own))


def test_chunks_do_not_change_the_rows_and_fewer_rows_are_the_first() -> None:
    model = plant(SMALL)
    whole = draw_rows(model, 1000, seed=5)
    for rows, chunk_rows in ((1000, 1), (1000, 7), (1000, 999), (600, 64)):
        other = draw_rows(model, rows, seed=5, chunk_rows=chunk_rows)
        np.testing.assert_array_equal(other.ids, whole.ids[:rows])
        np.testing.assert_array_equal(other.labels, whole.labels[:rows])
        np.testing.assert_array_equal(other.logits, whole.logits[:rows])
    assert not np.array_equal(draw_rows(model, 1000, seed=6).ids, whole.ids)


@given(st.lists(st.tuples(st.integers(-6, 6), st.booleans()), min_size=2, max_size=40))
def test_best_metrics_match_pairs_and_the_formula(rows: list[tuple[int, bool]]) -> None:
    logits = np.array([logit / 2 for logit, _ in rows], dtype=np.float32)  # integers: ties happen
    labels = np.array([label for _, label in rows], dtype=np.uint8)
    auc, logloss = best_metrics(ClickRows(np.zeros((len(rows), 1), np.int32), labels, logits))
    clicked, skipped = logits[labels == 1], logits[labels == 0]
    if len(clicked) and len(skipped):
        wins = [1.0 if c > s else 0.5 if c == s else 0.0 for c in clicked for s in skipped]
        assert auc == pytest.approx(sum(wins) / len(wins))
    else:
        assert math.isnan(auc)
    each = [math.log(1 + math.exp(-logit if label else logit)) for logit, label in zip(logits, labels, strict=True)]
    assert logloss == pytest.approx(sum(each) / len(each))


def test_setup_gives_splits_frequencies_and_the_planted_facts() -> None:
    data = ready()
    assert data.rows == {"train": 3200, "valid": 400, "test": 400}
    assert data.num_tokens == 500
    assert len(data.fields) == 4
    ends = np.cumsum(data.field_tokens)
    offsets = ends - data.field_tokens
    for ids, labels in data.data.splits.values():
        assert ids.dtype == np.int32
        assert ((ids >= offsets) & (ids < ends)).all()
        assert set(np.unique(labels)) == {0, 1}
    train = data.data.splits["train"][0]
    np.testing.assert_array_equal(data.frequencies, np.bincount(train.ravel(), minlength=500))
    assert not data.frequencies[offsets].any()
    model = plant(data.plan)
    np.testing.assert_array_equal(data.planted_ranks, model.ranks)
    assert data.planted_ranks.dtype == torch.int64
    assert not data.planted_ranks[offsets].any()


def test_tokens_without_a_training_row_are_out_of_vocabulary() -> None:
    data = ready()
    drawn = draw_rows(plant(data.plan), 4000, seed=(0, 2))
    offsets = np.cumsum([0, *data.field_tokens[:-1]])
    seen = set(drawn.ids[:3200].ravel().tolist())
    found = np.concatenate([data.data.splits[split][0] for split in ("train", "valid", "test")])
    expected = [[i if i in seen else o for i, o in zip(row, offsets, strict=True)] for row in drawn.ids.tolist()]
    np.testing.assert_array_equal(found, expected)
    assert (found[3200:] == offsets).any()


def test_the_planted_model_does_not_depend_on_the_rows() -> None:
    few, many = ready(rows=1000), ready(rows=3000, fractions=(0.6, 0.2, 0.2))
    assert few.field_tokens == many.field_tokens
    assert torch.equal(few.planted_ranks, many.planted_ranks)
    np.testing.assert_array_equal(few.data.splits["train"][0], many.data.splits["train"][0][:800])


def test_the_shuffling_seed_leaves_the_log_alone_and_the_planted_seed_does_not() -> None:
    first, shuffled, other = ready(seed=1), ready(seed=2), ready(planted_seed=1)
    for split, (ids, labels) in first.data.splits.items():
        np.testing.assert_array_equal(ids, shuffled.data.splits[split][0])
        np.testing.assert_array_equal(labels, shuffled.data.splits[split][1])
    assert not np.array_equal(first.data.splits["train"][0], other.data.splits["train"][0])
    assert first.best_auc == shuffled.best_auc


def test_the_defaults_make_interactions_matter() -> None:
    data = SyntheticDataModule(rows=60_000)
    data.setup()
    assert 0.79 < data.best_auc < 0.84
    ids, labels = data.data.splits["test"]
    known = first_order_part(plant(data.plan), ids)
    clicks = ClickRows(ids, labels, known.astype(np.float32))
    assert 0.55 < best_metrics(clicks)[0] < data.best_auc - 0.1


def test_training_batches_are_ids_and_labels() -> None:
    ids, labels = next(iter(ready(batch_size=128).train_dataloader()))
    assert ids.shape == (128, 4)
    assert ids.dtype == torch.int32
    assert labels.dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"rows": 99}, "data.rows must be from 100"),
        ({"rows": 1000.0}, "data.rows must be a whole number from 100 to 10,000,000,000, not 1000.0"),
        ({"tokens": 500.0}, "data.tokens must be a whole number from 40"),
        ({"num_fields": 2.5}, "data.num_fields must be a whole number from 2"),
        ({"max_rank": True}, "data.max_rank must be a whole number from 1"),
        ({"planted_seed": 0.0}, "data.planted_seed must be a whole number from 0"),
        ({"tokens": 39}, "data.tokens must be from 40"),
        ({"num_fields": 1}, "data.num_fields must be from 2"),
        ({"max_rank": 0}, "data.max_rank must be from 1"),
        ({"zipf_exponent": -0.1}, "data.zipf_exponent must be from 0"),
        ({"zipf_exponent": math.nan}, "data.zipf_exponent must be from 0"),
        ({"rank_tilt": -1.0}, "data.rank_tilt must be from 0"),
        ({"first_order_scale": -1.0}, "data.first_order_scale must be from 0"),
        ({"interaction_scale": 0.0}, "data.interaction_scale must be from 0.01"),
        ({"click_rate": 1.0}, "data.click_rate must be from 0.001 to 0.999"),
        ({"planted_seed": -1}, "data.planted_seed must be from 0"),
        ({"fractions": (0.8, 0.1)}, "data.fractions must be three"),
        ({"fractions": (0.8, 0.3, -0.1)}, "data.fractions must be three"),
        ({"fractions": (0.8, 0.1, 0.2)}, "data.fractions must be three"),
        ({"rows": 100, "fractions": (0.998, 0.001, 0.001)}, "for the valid split"),
        ({"batch_size": 0}, "data.batch_size must be at least 1"),
    ],
)
def test_arguments_out_of_range_are_named_in_one_line(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(BadInput, match=said) as caught:
        ready(**arguments)
    assert "\n" not in str(caught.value)


def test_the_smallest_log_works() -> None:
    data = ready(rows=100, tokens=20, num_fields=2, max_rank=256, rank_tilt=10.0, fractions=(0.98, 0.01, 0.01))
    assert data.rows == {"train": 98, "valid": 1, "test": 1}
    assert math.isfinite(data.best_logloss)


def test_a_saved_vocabulary_is_checked_against_the_arguments(tmp_path: Path) -> None:
    folder = tmp_path / "vocabulary"
    ready().save_vocabulary(folder)
    same = SyntheticDataModule(rows=4000, tokens=500, num_fields=4, max_rank=4, seed=7, batch_size=32)
    same.use_vocabulary(folder)
    for changed in ({"planted_seed": 3}, {"rows": 5000}, {"fractions": (0.7, 0.1, 0.2)}, {"click_rate": 0.4}):
        with pytest.raises(BadInput, match="but the vocabulary in") as caught:
            SyntheticDataModule(
                **{"rows": 4000, "tokens": 500, "num_fields": 4, "max_rank": 4, **changed}
            ).use_vocabulary(folder)
        assert "\n" not in str(caught.value)


def test_a_missing_or_damaged_vocabulary_is_bad_input(tmp_path: Path) -> None:
    data = SyntheticDataModule(rows=1000)
    with pytest.raises(BadInput, match=r"there is no synthetic\.json"):
        data.use_vocabulary(tmp_path)
    for content in ("{", json.dumps([1])):
        (tmp_path / "synthetic.json").write_text(content)
        with pytest.raises(BadInput, match="cannot be read"):
            data.use_vocabulary(tmp_path)


def test_a_saved_vocabulary_replaces_only_its_like(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    ready().save_vocabulary(folder)
    ready().save_vocabulary(folder)
    ready().use_vocabulary(folder)
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(BadInput, match=r"mine' holds something other than a vocabulary \('thesis.txt'\)"):
        ready().save_vocabulary(folder)
    assert (folder / "thesis.txt").read_text() == "years of work"
    with pytest.raises(BadInput, match=r"thesis.txt' is not a folder"):
        ready().save_vocabulary(folder / "thesis.txt")


@pytest.mark.filterwarnings("error")
def test_the_ends_of_the_ranges() -> None:
    whole, same = ready(zipf_exponent=1, first_order_scale=1), ready(zipf_exponent=1.0, first_order_scale=1.0)
    np.testing.assert_array_equal(whole.data.splits["train"][0], same.data.splits["train"][0])
    assert ready(zipf_exponent=5, rank_tilt=10, max_rank=256, first_order_scale=10, interaction_scale=10).best_auc > 0.9
    assert sum(field_sizes(10_000, 1000)) == 10_000
    assert min(field_sizes(200_000, 1000)) == 10


def test_a_log_that_does_not_fit_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 224. GiB")

    monkeypatch.setattr(synthetic, "draw_rows", full)
    with pytest.raises(
        BadInput, match=r"data.rows=4000 and data.tokens=500 does not fit in memory: Unable to allocate 2"
    ):
        ready()
