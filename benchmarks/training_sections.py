"""The sections of throughput.py that train: steps of whole models, of searches, and of growing tables."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path

import peers
import torch
from contestants import (
    BACKBONES,
    DENSE_ADAM,
    EMBEDDING_DIM,
    fitted,
    module_of,
    network_alone,
    plain_loop,
    timed_steps,
)
from machine_facts import has_bfloat16
from throughput_settings import FRACTION, NARROW, WIDE, Settings, Table, timed_in_ms
from torch import Tensor, nn
from torch.nn import functional as F
from zipf_clicks import ZipfClicks

from pme_lightning.callbacks import PruningCallback
from pme_lightning.search import AfterWarmup, ExpectedInformation, Prefix


def training_cases(tokens: list[int]) -> dict[str, tuple[str, list[int], int]]:
    """Returns the cases of :func:`train` by name: backbone, hidden units, tokens."""
    cases = [(backbone, WIDE, each) for each in tokens for backbone in ("DeepFM", "DCN")]
    cases += [("DeepFM", NARROW, each) for each in tokens if each >= 1_000_000]
    return {f"{case[0]} {'x'.join(map(str, case[1]))}, {case[2]:.0e} tokens": case for case in cases}


def train(table: Table, settings: Settings) -> None:
    """Milliseconds per training step, loading included: floor, ours full-size and multi-size, a plain loop, peers."""
    for case, (backbone, hidden, tokens) in training_cases(settings.tokens).items():
        if not case.startswith(settings.only):
            continue
        data, other = settings.data(tokens), settings.data(tokens)
        full = module_of(data, backbone, hidden)
        multi = module_of(other, backbone, hidden, FRACTION)
        racers = {
            "network alone": network_alone(data, backbone, hidden, settings.device, settings.precision),
            "ours, full size": fitted(full, data, **settings.trainer),
            "ours, multi-size 10%": fitted(multi, other, **settings.trainer),
            "plain PyTorch loop": plain_loop(data, backbone, hidden, settings.device, settings.precision),
        }
        if backbone == "DeepFM":
            racers |= _variants(data, other, hidden, settings)
        else:
            # What a search usually finds for DCN.
            own = module_of(other, backbone, hidden, FRACTION, field_projections=True)
            racers["ours, multi-size 10%, one projection per field"] = fitted(own, other, **settings.trainer)
        with tempfile.TemporaryDirectory() as folder:
            if settings.peers and importlib.util.find_spec("fuxictr"):
                racers["FuxiCTR"] = peers.fuxictr(data, backbone, hidden, Path(folder), settings.device)
            if settings.peers and importlib.util.find_spec("deepctr_torch") and tokens < 5_000_000:
                racers["DeepCTR-Torch"] = peers.deepctr_torch(data, backbone, hidden, settings.device)
            table.race("train", case, _in_ms(racers, settings.steps), "ms/step", "ours, full size")


def _variants(
    data: ZipfClicks, by_size: ZipfClicks, hidden: list[int], settings: Settings
) -> dict[str, Callable[[int], float]]:
    """Ours with dense Adam (``optimizer=adam``), with 16-bit values, and in bfloat16 where the processor has it."""
    full = module_of(data, "DeepFM", hidden, optimizers=DENSE_ADAM)
    multi = module_of(by_size, "DeepFM", hidden, FRACTION, DENSE_ADAM)
    racers = {
        "ours, full size, dense Adam": fitted(full, data, **settings.trainer),
        "ours, multi-size 10%, dense Adam": fitted(multi, by_size, **settings.trainer),
        "ours, full size, 16-bit table": fitted(module_of(data, "DeepFM", hidden, bits=16), data, **settings.trainer),
        "ours, multi-size 10%, 16-bit table": fitted(
            module_of(by_size, "DeepFM", hidden, FRACTION, bits=16), by_size, **settings.trainer
        ),
    }
    if settings.device == "cpu" and settings.precision == "32-true" and has_bfloat16():
        options = settings.trainer | {"precision": "bf16-mixed"}
        racers["network alone, bf16"] = network_alone(data, "DeepFM", hidden, precision="bf16-mixed")
        racers["ours, full size, bf16"] = fitted(module_of(data, "DeepFM", hidden), data, **options)
        racers["ours, multi-size 10%, bf16"] = fitted(
            module_of(by_size, "DeepFM", hidden, FRACTION), by_size, **options
        )
    return racers


def search(table: Table, settings: Settings) -> None:
    """Milliseconds per search step: ours while it scores, plain full-size training, and PEP's rule as published."""
    for tokens in settings.tokens:
        data = settings.data(tokens)

        def searching(data: ZipfClicks = data) -> float:
            module = module_of(data, "DeepFM", NARROW)
            data.setup()
            schedule = AfterWarmup(epochs=settings.steps / len(data.train_dataloader()), score_last=1.0)
            callback = PruningCallback(ExpectedInformation(), schedule, Prefix(), FRACTION)
            return fitted(module, data, [callback], **settings.trainer)(settings.steps)

        racers = {
            "training alone": lambda data=data: fitted(module_of(data, "DeepFM", NARROW), data, **settings.trainer)(
                settings.steps
            ),
            "search=pme, scoring": searching,
            "PEP's rule as published": lambda data=data: _pep_as_published(data, settings.steps, settings.device),
        }
        table.race(
            "search", f"DeepFM 64x64, {tokens:.0e} tokens", timed_in_ms(racers), "ms/step", "search=pme, scoring"
        )


def _pep_as_published(data: ZipfClicks, steps: int, device: str) -> float:
    """PEP (Liu et al., 2021): every step computes a table ``sign(w) relu(|w| - sigmoid(s))``, with one s per value."""
    place = "cuda" if device == "gpu" else "cpu"
    weight = nn.Parameter(torch.randn(data.num_tokens, EMBEDDING_DIM, device=place) * 0.01)
    threshold = nn.Parameter(torch.full((data.num_tokens, EMBEDDING_DIM), -15.0, device=place))
    linear = nn.Embedding(data.num_tokens, 1, device=place)
    nn.init.zeros_(linear.weight)
    network = BACKBONES["DeepFM"](len(data.fields), EMBEDDING_DIM, hidden_units=NARROW).to(place)
    optimizer = torch.optim.Adam([weight, threshold, *linear.parameters(), *network.parameters()], lr=1e-3)

    def step(batch: tuple[Tensor, Tensor]) -> None:
        optimizer.zero_grad()
        table = torch.sign(weight) * torch.relu(torch.abs(weight) - torch.sigmoid(threshold))
        ids, labels = (part.to(place) for part in batch)
        logits = network(F.embedding(ids, table), linear(ids).squeeze(-1))
        F.binary_cross_entropy_with_logits(logits, labels).backward()
        optimizer.step()

    # A step takes seconds on a large table.
    return timed_steps(step, iter(data.train_dataloader()), min(steps, 6))


def growth(table: Table, settings: Settings) -> None:
    """Milliseconds per multi-size training step as the vocabulary grows."""
    for tokens in (100_000, 1_000_000, 10_000_000, 100_000_000)[: 2 if settings.quick else 4]:
        data = settings.data(tokens)
        run = fitted(module_of(data, "DeepFM", WIDE, FRACTION), data, **settings.trainer)
        table.race(
            "growth", f"DeepFM 400x400x400, {tokens:.0e}", _in_ms({"multi-size 10%": run}, settings.steps), "ms/step",
            "multi-size 10%",
        )  # fmt: skip


def _in_ms(racers: dict[str, Callable[[int], float]], steps: int) -> dict[str, Callable[[], float]]:
    return {name: lambda run=run: run(steps) * 1e3 for name, run in racers.items()}
