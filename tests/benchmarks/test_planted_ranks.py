"""The script that compares sizes with planted ranks, and what could be known of them."""

from __future__ import annotations

import numpy as np
import planted_ranks
import pytest
import rank_oracle
import torch
from torchmetrics.functional import spearman_corrcoef

from pme_lightning.data import SyntheticDataModule


def test_who_knows_all_other_vectors_can_tell_the_ranks_of_frequent_tokens() -> None:
    data = SyntheticDataModule(rows=100_000, tokens=400, num_fields=4, interaction_scale=3.0)
    data.setup()
    tokens, expected = rank_oracle.expected_ranks(data, least_rows=500)
    assert (data.frequencies[tokens] >= 500).all()
    assert len(tokens) == int((data.frequencies >= 500).sum())
    ranks = data.planted_ranks[tokens].float()
    assert spearman_corrcoef(expected, ranks) > 0.9


def test_the_evidence_of_rows_is_the_integral() -> None:
    # One value, so that it can be added up along a line.
    generator = np.random.default_rng(0)
    partners, rest = generator.normal(size=(200, 1)), generator.normal(size=200)
    labels = (generator.random(200) < 0.4).astype(float)
    found = rank_oracle._evidence(partners, rest, labels, np.array([0.3]))
    line = np.linspace(-5, 5, 20_001)
    logits = rest[:, None] + partners * line
    likelihood = -np.logaddexp(0, np.where(labels[:, None] > 0, -logits, logits)).sum(0)
    prior = np.exp(-(line**2) / 0.6) / np.sqrt(2 * np.pi * 0.3)
    expected = np.log((np.exp(likelihood - likelihood.max()) * prior).sum() * (line[1] - line[0])) + likelihood.max()
    assert found == pytest.approx(expected, abs=0.01)
    nothing = rank_oracle._evidence(partners[:, :0], rest, labels, np.zeros(0))
    assert nothing == pytest.approx(float(-np.logaddexp(0, np.where(labels > 0, -rest, rest)).sum()))


def test_it_prints_what_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--tokens",
        "400",
        "--methods",
        "uniform,popularity_.5",
        "--budgets",
        "0.3",
        "--seeds",
        "1",
        "--rows",
        "40",
    ]
    assert planted_ranks.main([*words, "--oracle", "--train", "trainer.max_epochs=1", "data.batch_size=512"]) == 0
    printed = capsys.readouterr().out
    assert "tokens have 40 rows or more" in printed
    assert "| popularity_.5 | " in printed
    assert "with every other vector known: " in printed
    assert printed.count("| 30% | 1 | ") == 2
    assert planted_ranks.main(["--methods", "full", "--tokens", "400"]) == 2
    assert "'full' searches no sizes" in capsys.readouterr().err


def test_planted_ranks_are_in_the_sizes_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []

    def train(*given: object) -> dict[str, float]:
        trained.append(given[2])  # after the measurement and the seed
        return {"test_auc": 0.5}

    monkeypatch.setattr(planted_ranks.Measurement, "train", train)
    words = ["--tokens", "400", "--methods", "uniform", "--budgets", "0.3", "--seeds", "1", "--rows", "40", "--train"]
    assert planted_ranks.main(words) == 0
    found, planted = trained
    differ = found.sizes != planted.sizes
    assert differ.any()
    data = planted_ranks.DataInMemory().get(planted_ranks.recipe("synthetic_400", "deepfm", None, ()).config())
    counted = data.frequencies >= 40
    assert torch.equal(planted.sizes[counted], data.planted_ranks[counted])
    assert torch.equal(planted.sizes[~counted], found.sizes[~counted])
