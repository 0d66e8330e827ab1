"""How well the ranks of a planted log could be told from its rows by one who knows all vectors but a token's own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pme_lightning.data import SyntheticDataModule
from pme_lightning.data.planted import PlantedModel, draw_rows, plant

# Rows of one token that are looked at, and steps to its most likely vector.
_MOST_ROWS = 20_000
_NEWTON_STEPS = 12


def expected_ranks(data: SyntheticDataModule, least_rows: int) -> tuple[Tensor, Tensor]:
    """Returns the mean rank that the training rows leave for each token that has enough of them.

    For each rank there is, with as many values along the hidden axes and every other vector as planted, the evidence of
    the token's rows is found by Laplace's method (a normal prior of the variance that values of its field have); beside
    it the shares of its field's tokens of each rank are what is believed before.

    Args:
        data: A log, set up.
        least_rows: Of a token that counts.

    Returns:
        Tokens ``(n,)`` and their expected ranks ``(n,)``.
    """
    model = plant(data.plan)
    rows = draw_rows(model, data.num_rows, seed=(data.plan.planted_seed, 2))
    end = data.split_ends[0]
    ids, labels, logits = rows.ids[:end], rows.labels[:end].astype(np.float64), rows.logits[:end]
    vectors = (model.vectors @ model.rotation.T).astype(np.float64)
    sums = np.zeros((end, vectors.shape[1]))
    for f in range(ids.shape[1]):
        sums += vectors[ids[:, f]]
    levels = np.unique(model.ranks)
    tokens, found = [], []
    for f in range(ids.shape[1]):
        variances, shares = _field(model, vectors, levels, f)
        for token, places in _tokens(ids[:, f], least_rows):
            own, partners = vectors[token], sums[places] - vectors[token]
            rest = logits[places] - partners @ own
            evidence = [_evidence(partners[:, :d], rest, labels[places], variances[:d]) for d in levels]
            chances = np.exp(np.log(shares) + evidence - np.max(np.log(shares) + evidence))
            tokens.append(token)
            found.append(float(chances @ levels / chances.sum()))
    return torch.tensor(tokens), torch.tensor(found)


def _field(model: PlantedModel, vectors: np.ndarray, levels: np.ndarray, f: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the variance of values along each axis, and the shares of tokens of each rank, in a field."""
    start = sum(model.field_tokens[:f]) + 1  # index 0 is out-of-vocabulary
    field = slice(start, start + model.field_tokens[f] - 1)
    ranks = model.ranks[field]
    has = ranks[:, None] > np.arange(vectors.shape[1])
    variances = (vectors[field] ** 2).sum(0) / np.maximum(has.sum(0), 1)
    return variances, np.array([max((ranks == level).mean(), 1e-9) for level in levels])


def _tokens(ids: np.ndarray, least_rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the tokens of a column that have enough rows, and where these are."""
    order = np.argsort(ids, kind="stable")
    starts = np.flatnonzero(np.diff(ids[order], prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
        if end - start >= least_rows:
            yield int(ids[order[start]]), order[start:end][:_MOST_ROWS]


def _evidence(partners: np.ndarray, rest: np.ndarray, labels: np.ndarray, variances: np.ndarray) -> float:
    """Returns the log evidence of rows with logits ``rest + partners @ w`` and ``w`` normal, by Laplace's method."""
    w, prior = np.zeros(len(variances)), np.diag(1 / np.maximum(variances, 1e-9))
    precision = prior
    for _ in range(_NEWTON_STEPS):
        clicks = _sigmoid(rest + partners @ w)
        precision = (partners * (clicks * (1 - clicks))[:, None]).T @ partners + prior
        w = w + np.linalg.solve(precision, partners.T @ (labels - clicks) - prior @ w)
    logits = rest + partners @ w
    likelihood = -np.logaddexp(0, np.where(labels > 0, -logits, logits)).sum()
    volume = np.linalg.slogdet(precision)[1] - np.linalg.slogdet(prior)[1]
    return float(likelihood - w @ prior @ w / 2 - volume / 2)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(logits / 2))
