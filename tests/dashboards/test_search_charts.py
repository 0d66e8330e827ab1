"""Charts of sizes by hand-computed values, at the edges: wide embeddings, odd names, scores of nothing."""

from __future__ import annotations

import torch

from pme_lightning.dashboards.search_charts import size_charts, spectrum_charts
from pme_lightning.score_spectrum import score_spectrum
from pme_lightning.search import Scores, SearchResult
from pme_lightning.size_facts import size_facts


def test_names_that_are_no_keys_and_fields_of_the_same_name_are_told_apart() -> None:
    found = SearchResult(torch.tensor([2, 0, 1, 2]), None, 2, None, "7", "mine")
    facts = size_facts(found, ["a.b", "a/b", "ß 1", ""], [1, 1, 1, 1], torch.ones(4, dtype=torch.int64))
    charts = size_charts(facts)
    assert [name for name in charts if name.startswith("fields/")] == [
        "fields/a_b",
        "fields/a_b-2",
        "fields/ß 1",
        "fields/_",
    ]
    assert charts["fields/a_b"].histogram == [0, 0, 1]
    assert charts["fields/a_b-2"].histogram == [1, 0, 0]


def test_sizes_over_popularity_are_quantiles_of_each_band() -> None:
    # Ten tokens that occur four to seven times, of sizes 0 ... 9; one that never does.
    sizes = torch.tensor([*range(10), 3])
    found = SearchResult(sizes, None, 9, None, "48", "mine")
    facts = size_facts(found, ["f"], [11], torch.tensor([4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 0]))
    rows = [tuple(row) for row in size_charts(facts)["sizes/over_popularity"].table.data]
    assert rows == [
        (0, "mean", 3.0),
        (3, "mean", 4.5),
        (0, "10% of tokens at most", 3),
        (3, "10% of tokens at most", 0),
        (0, "half of tokens at most", 3),
        (3, "half of tokens at most", 4),
        (0, "90% of tokens at most", 3),
        (3, "90% of tokens at most", 8),
    ]


def test_more_sizes_than_a_histogram_has_bins_share_bins() -> None:
    sizes = torch.arange(0, 1025, 4)
    found = SearchResult(sizes, None, 1024, None, "1M", "mine")
    facts = size_facts(found, ["f"], [len(sizes)], torch.ones(len(sizes), dtype=torch.int64))
    histogram = size_charts(facts)["sizes/all_tokens"]
    assert len(histogram.histogram) <= histogram.MAX_LENGTH
    assert len(histogram.bins) == len(histogram.histogram) + 1
    assert sum(histogram.histogram) == len(sizes)
    assert (histogram.bins[0], histogram.bins[-1]) == (-0.5, 1024.5)


def test_scores_of_nothing_have_no_spectrum() -> None:
    charts = spectrum_charts(score_spectrum(Scores(torch.zeros(3, 2), torch.zeros(3), None)))
    assert list(charts) == ["sizes/score_by_axis"]
    assert charts["sizes/score_by_axis"].table.data == [["1", 0.0], ["2", 0.0], ["first order", 0.0]]
