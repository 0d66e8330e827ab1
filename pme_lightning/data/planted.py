"""The planted model that a synthetic click log is drawn from, and the drawing of its rows.

It is a factorization machine (Rendle, *Factorization Machines*, ICDM 2010) in which every token has an interaction
rank of its own::

    logit(t_1 .. t_F) = bias + sum_f w[t_f] + sum_{f<g} <u[t_f], u[t_g]>,      label ~ Bernoulli(sigmoid(logit))

``u[t]`` lives in ``K`` dimensions of which, before a hidden rotation, only the first ``ranks[t]`` are nonzero. Ranks
are drawn from a distribution of the field and independently of popularity: how often a token occurs says nothing
about how many dimensions it needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from torchmetrics.functional.classification import binary_auroc

from pme_lightning.errors import BadInput

SMALLEST_FIELD = 10
CALIBRATION_ROWS = 1 << 16


def check_range(name: str, value: float, least: float, most: float, whole: bool = False) -> None:
    """Raises BadInput where an argument of the data is not from ``least`` to ``most``, or not whole if it must be."""
    if whole and (isinstance(value, bool) or not isinstance(value, int)):
        raise BadInput(f"data.{name} must be a whole number from {least:,} to {most:,}, not {value!r}")
    if not least <= value <= most:
        raise BadInput(f"data.{name} must be from {least:,} to {most:,}, not {value:,}")


@dataclass(frozen=True)
class Plan:
    """What determines the planted model; see :class:`SyntheticDataModule` for the meaning of each."""

    tokens: int = 20_000
    num_fields: int = 6
    max_rank: int = 8
    zipf_exponent: float = 1.25
    rank_tilt: float = 1.5
    first_order_scale: float = 0.6
    interaction_scale: float = 1.5
    click_rate: float = 0.3
    planted_seed: int = 0

    def __post_init__(self) -> None:
        """Raises BadInput, naming the argument and its range."""
        check_range("num_fields", self.num_fields, 2, 1000, whole=True)
        check_range("tokens", self.tokens, SMALLEST_FIELD * self.num_fields, 10**9, whole=True)
        check_range("max_rank", self.max_rank, 1, 256, whole=True)
        check_range("zipf_exponent", self.zipf_exponent, 0, 5)
        check_range("rank_tilt", self.rank_tilt, 0, 10)
        check_range("first_order_scale", self.first_order_scale, 0, 10)
        check_range("interaction_scale", self.interaction_scale, 0.01, 10)
        check_range("click_rate", self.click_rate, 0.001, 0.999)
        check_range("planted_seed", self.planted_seed, 0, 2**63 - 1, whole=True)


@dataclass(frozen=True)
class PlantedModel:
    """What clicks are drawn from: ``V`` tokens (index 0 of each field is out-of-vocabulary), ``K`` dimensions.

    Attributes:
        field_tokens: tokens per field.
        popularity: float64 ``(V,)``, a token's share of its field's rows; 0 for out-of-vocabulary.
        by_popularity: per field int32 ``(n,)``, the global ids of its tokens, most popular first.
        weights: float32 ``(V,)``, first-order weights.
        vectors: float32 ``(V, K)``, latent vectors as seen through the hidden rotation.
        rotation: ``(K, K)`` orthogonal; row ``t`` of ``vectors @ rotation.T`` is zero from column ``ranks[t]`` on.
        ranks: int64 ``(V,)``, true interaction ranks; 0 for out-of-vocabulary.
        bias: of the logit.
    """

    field_tokens: list[int]
    popularity: np.ndarray
    by_popularity: list[np.ndarray]
    weights: np.ndarray
    vectors: np.ndarray
    rotation: np.ndarray
    ranks: np.ndarray
    bias: float


@dataclass(frozen=True)
class ClickRows:
    """Drawn rows: ids int32 ``(n, F)``, labels uint8 ``(n,)`` and the planted logits float32 ``(n,)``."""

    ids: np.ndarray
    labels: np.ndarray
    logits: np.ndarray


def field_sizes(tokens: int, num_fields: int) -> list[int]:
    """Token counts that grow geometrically from 10 to the bulk and sum to ``tokens`` (at least 10 per field)."""
    powers = np.arange(num_fields)
    low, high = 1.0, float(tokens)
    for _ in range(100):  # bisect for the ratio of the series
        ratio = (low + high) / 2
        with np.errstate(over="ignore"):  # a ratio that is much too high has a sum without end
            total = SMALLEST_FIELD * (ratio**powers).sum()
        low, high = (low, ratio) if total > tokens else (ratio, high)
    sizes = np.floor(SMALLEST_FIELD * low**powers + 1e-9).astype(np.int64)
    sizes[-1] += tokens - sizes.sum()
    return sizes.tolist()


def rank_counts(tokens: int, ranks: np.ndarray, tilt: float) -> np.ndarray:
    """How many of a field's tokens have each of the ranks: shares ``exp(tilt · x)``, x from -1 to 1 over the ranks.

    At least one token has the highest rank, so that every dimension has a partner in every field.
    """
    shares = np.exp(tilt * np.linspace(-1, 1, len(ranks)))
    edges = np.rint(np.cumsum(shares) / shares.sum() * tokens).astype(np.int64)
    edges[:-1] = np.minimum(edges[:-1], tokens - 1)
    return np.diff(edges, prepend=0)


def plant(plan: Plan) -> PlantedModel:
    """Draws the planted model.

    Each dimension is scaled so that a token gains the same from every dimension it has, however few partners share
    the later ones. First-order weights take up what the interactions explain without a partner (their mean over the
    other fields' tokens), so that the two scales are the standard deviations of what only a first-order model and
    what only interactions can explain.
    """
    rng = np.random.default_rng([plan.planted_seed, 0])
    F, V, K = plan.num_fields, plan.tokens, plan.max_rank
    sizes = field_sizes(V, F)
    ends = np.cumsum(sizes)
    # Index 0 of each field is left out: no row is drawn with it.
    fields = [slice(end - size + 1, end) for end, size in zip(ends, sizes, strict=True)]
    levels = np.unique([0, *(1 << power for power in range(K.bit_length())), K])

    ranks = np.zeros(V, dtype=np.int64)
    popularity = np.zeros(V)
    by_popularity = []
    for field, tilt in zip(fields, rng.permutation(np.linspace(-plan.rank_tilt, plan.rank_tilt, F)), strict=True):
        n = field.stop - field.start
        ranks[field] = rng.permutation(np.repeat(levels, rank_counts(n, levels, tilt)))
        order = field.start + rng.permutation(n)
        zipf = np.arange(1.0, n + 1) ** -plan.zipf_exponent
        popularity[order] = zipf / zipf.sum()
        by_popularity.append(order.astype(np.int32))

    planted = ranks[:, None] > np.arange(K)  # (V, K)
    partners = np.mean([planted[field].mean(axis=0) for field in fields], axis=0)  # (K,)
    # Away from zero, so that no planted dimension is there in name only.
    vectors = rng.uniform(0.5, 1.5, (V, K)) * rng.choice([-1.0, 1.0], (V, K)) * planted * partners**-0.25
    means = np.stack([popularity[field] @ vectors[field] for field in fields])  # (F, K)
    spreads = np.stack([_covariance(vectors[field], popularity[field]) for field in fields])  # (F, K, K)
    # Fields are drawn independently, so the variance of <u_f, u_g> without its first-order part is tr(C_f C_g).
    variance = ((spreads.sum(axis=0) ** 2).sum() - (spreads**2).sum()) / 2
    scale = math.sqrt(plan.interaction_scale / math.sqrt(variance))
    vectors *= scale
    means *= scale

    weights = np.zeros(V)
    for f, field in enumerate(fields):
        own = rng.standard_normal(field.stop - field.start)
        own -= popularity[field] @ own
        own *= plan.first_order_scale / math.sqrt(F * (popularity[field] @ own**2))
        weights[field] = own - vectors[field] @ (means.sum(axis=0) - means[f])

    rotation, _ = np.linalg.qr(rng.standard_normal((K, K)))
    model = PlantedModel(
        sizes,
        popularity,
        by_popularity,
        weights.astype(np.float32),
        (vectors @ rotation).astype(np.float32),
        rotation,
        ranks,
        bias=0.0,
    )
    calibration = draw_rows(model, CALIBRATION_ROWS, seed=(plan.planted_seed, 1))
    return replace(model, bias=_bias(calibration.logits, plan.click_rate))


def draw_rows(model: PlantedModel, rows: int, seed: int | Sequence[int], chunk_rows: int = 1 << 16) -> ClickRows:
    """Draws rows from a planted model; fewer rows with the same seed are the first of more rows.

    Args:
        model: what to draw from.
        rows: how many.
        seed: of the rows.
        chunk_rows: rows in work at a time; bounds memory, changes nothing in the result.
    """
    # A stream of its own for each field and for the clicks, so that chunks do not change who gets which number.
    children = np.random.SeedSequence(seed).spawn(len(model.field_tokens) + 1)
    *streams, click_stream = (np.random.default_rng(child) for child in children)
    steps = [np.cumsum(model.popularity[order])[:-1] for order in model.by_popularity]
    squares = (model.vectors**2).sum(axis=1)
    ids = np.empty((rows, len(streams)), dtype=np.int32)
    labels = np.empty(rows, dtype=np.uint8)
    logits = np.empty(rows, dtype=np.float32)
    for start in range(0, rows, chunk_rows):
        chunk = slice(start, min(start + chunk_rows, rows))
        n = chunk.stop - start
        total = np.zeros((n, model.vectors.shape[1]), dtype=np.float32)
        first_order, own = np.zeros(n, dtype=np.float32), np.zeros(n, dtype=np.float32)
        for f, stream in enumerate(streams):
            token = model.by_popularity[f][np.searchsorted(steps[f], stream.random(n), side="right")]
            ids[chunk, f] = token
            total += model.vectors[token]
            own += squares[token]
            first_order += model.weights[token]
        # The sum over pairs is half of |sum of vectors|^2 without the sum of |vector|^2.
        logits[chunk] = model.bias + first_order + ((total**2).sum(axis=1) - own) / 2
        labels[chunk] = click_stream.random(n) < _sigmoid(logits[chunk])
    return ClickRows(ids, labels, logits)


def best_metrics(rows: ClickRows) -> tuple[float, float]:
    """AUC and logloss of the planted probabilities themselves; AUC is nan where all labels are the same."""
    logits = torch.from_numpy(rows.logits).double()
    labels = torch.from_numpy(rows.labels)
    logloss = float(binary_cross_entropy_with_logits(logits, labels.double()))
    if labels.min() == labels.max():
        return math.nan, logloss
    return float(binary_auroc(logits.sigmoid(), labels.long())), logloss


def _covariance(vectors: np.ndarray, shares: np.ndarray) -> np.ndarray:
    centred = vectors - shares @ vectors
    return (centred * shares[:, None]).T @ centred


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


def _bias(logits: np.ndarray, click_rate: float) -> float:
    low, high = -100.0, 100.0
    for _ in range(60):  # the mean probability grows with the bias: bisect
        bias = (low + high) / 2
        low, high = (low, bias) if _sigmoid(logits + bias).mean() > click_rate else (bias, high)
    return low
