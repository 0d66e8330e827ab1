"""What is timed: ours through Lightning's Trainer as users run it, a plain loop, and the network alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from zipf_clicks import ZipfClicks

from pme_lightning.backbones import DCN, DeepFM
from pme_lightning.module import CTRModule
from pme_lightning.optim.decay import decay
from pme_lightning.optim.lazy_adagrad import LazyAdagrad
from pme_lightning.search import SearchResult
from pme_lightning.sixteen_bits import Chance

EMBEDDING_DIM = 16
BACKBONES = {"DeepFM": DeepFM, "DCN": DCN}
# What configs/optimizer/adam_adagrad.yaml says, the default.
OPTIMIZERS = {
    "optimizer": "torch.optim.Adam",
    "optimizer_args": {"lr": 3e-3, "fused": True},
    "embedding_optimizer": "pme_lightning.optim.LazyAdagrad",
    "embedding_optimizer_args": {"lr": 0.1, "initial_accumulator_value": 1e-8, "weight_decay": 2e-5},
}
# The optimizer of most published models: dense gradients, all rows of the table in every step.
DENSE_ADAM = {"optimizer": "torch.optim.Adam", "optimizer_args": {"lr": 1e-3, "fused": True}}
# Trains that many steps and returns the seconds of one, the first step or two left out.
Contestant = Callable[[int], float]


class StepClock(Callback):
    """Notes when each training batch ends."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.decay = 0.0

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Times the decay where the model has been trained: it goes back to the processor after the fit."""
        self.decay = _decay_of_a_step(trainer.optimizers[0])

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Notes the time."""
        if trainer.global_step in (2, trainer.max_steps - 1):
            _wait()  # in between, the processor may run ahead of the GPU
        self.ends.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        """Seconds of a step, loading included, from the end of the second batch to the end of the last but one.

        A search allocates after its last step. Weight decay comes every some steps; the share of one is added.
        """
        return (self.ends[-2] - self.ends[1]) / (len(self.ends) - 3) + self.decay


def sizes_by_popularity(popularity: Tensor, fraction: float, first_order: bool) -> SearchResult:
    """Draws sizes as a search might find them: by the root of popularity, up to ``D``, to a fraction of all values."""
    weight = popularity.sqrt()
    wanted = fraction * len(popularity) * (EMBEDDING_DIM + first_order)
    low, high = 0.0, 2.0 * EMBEDDING_DIM * len(popularity) / float(weight.sum())
    while _values(weight * high, first_order) < wanted:
        high *= 2
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _values(weight * middle, first_order) < wanted else (low, middle)
    sizes = (weight * low).round_().clamp_(max=EMBEDDING_DIM).to(torch.int32)
    linear = sizes > 0 if first_order else None
    return SearchResult(sizes, linear, EMBEDDING_DIM, None, str(fraction), "Popularity")


def _values(shares: Tensor, first_order: bool) -> int:
    sizes = shares.round().clamp_(max=EMBEDDING_DIM)
    return int(sizes.sum()) + (int((sizes > 0).sum()) if first_order else 0)


def module_of(
    data: ZipfClicks,
    backbone: str,
    hidden_units: list[int],
    fraction: float | None = None,
    optimizers: dict[str, Any] = OPTIMIZERS,
    field_projections: bool = False,
    bits: int = 32,
) -> CTRModule:
    """Builds a full-size module, or a multi-size one whose tokens ``data`` numbers by size from here on.

    No full-size table is made for a multi-size one. Its projection is shared, or each field has one.
    """
    first_order = backbone == "DeepFM"
    classes = None
    data.setup()
    data.renumber(None)
    if fraction is not None:
        found = sizes_by_popularity(data.popularity(), fraction, first_order)
        key = found.sizes.long() * 2 + (0 if found.linear is None else found.linear.long())
        order = torch.argsort(key, descending=True, stable=True)
        kinds, counts = torch.unique_consecutive(key[order], return_counts=True)
        classes = [[k // 2, k % 2, n] for k, n in zip(kinds.tolist(), counts.tolist(), strict=True)]
        data.renumber(order)
    return CTRModule(
        data.field_tokens,
        BACKBONES[backbone],
        {"hidden_units": hidden_units},
        EMBEDDING_DIM,
        **optimizers,
        classes=classes,
        embedding_bits=bits,
        field_projections=field_projections,
        along_axes=fraction is not None,
    )


def fitted(module: CTRModule, data: ZipfClicks, callbacks: list[Callback] | None = None, **options: Any) -> Contestant:
    """Trains by Lightning's Trainer, as ``train.py`` does without a progress bar; a step's share of decay counts."""

    def run(steps: int) -> float:
        clock = StepClock()
        trainer = Trainer(
            max_epochs=-1,
            max_steps=steps,
            limit_val_batches=0,
            callbacks=[*(callbacks or []), clock],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            **({"accelerator": "cpu", "devices": 1} | options),
        )
        trainer.fit(module, datamodule=data)
        return clock.seconds

    return run


def _decay_of_a_step(optimizer: torch.optim.Optimizer) -> float:
    """Returns the seconds of weight decay that fall to a step: it comes more seldom than a measurement is long."""
    seconds = 0.0
    for own in getattr(optimizer, "optimizers", [optimizer]):
        for group in own.param_groups if isinstance(own, LazyAdagrad) else []:
            for parameter in group["params"] if group["weight_decay"] else []:
                _wait()
                started = time.perf_counter()
                chance = Chance(0, parameter.device)
                decay(parameter, own.state[parameter]["sum"], group, own.blocks_of(parameter), chance)
                _wait()
                seconds += (time.perf_counter() - started) / group["decay_interval"]
    return seconds


def plain_loop(
    data: ZipfClicks, backbone: str, hidden_units: list[int], device: str = "cpu", precision: str = "32-true"
) -> Contestant:
    """The loop that one writes first: an ``nn.Embedding``, dense gradients, fused Adam over everything.

    Only its tables start as small as ours and the peers' do.
    """
    place = "cuda" if device == "gpu" else "cpu"
    model = _Plain(data, backbone, hidden_units).to(place)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    ids, labels = (torch.from_numpy(array) for array in data.data.splits["train"])

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            for rows in torch.randperm(len(ids)).split(data.batch_size):
                if len(rows) == data.batch_size:
                    yield ids[rows].to(place), labels[rows].float().to(place)

    def step(batch: tuple[Tensor, Tensor]) -> None:
        optimizer.zero_grad()
        with torch.autocast(place, torch.bfloat16, enabled=precision == "bf16-mixed"):
            logits = model(batch[0])
        F.binary_cross_entropy_with_logits(logits.float(), batch[1]).backward()
        optimizer.step()

    return lambda steps: timed_steps(step, batches(), steps)


class _Plain(nn.Module):
    def __init__(self, data: ZipfClicks, backbone: str, hidden_units: list[int]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(data.num_tokens, EMBEDDING_DIM)
        self.linear = nn.Embedding(data.num_tokens, 1) if backbone == "DeepFM" else None
        # As ours start: torch's own standard deviation of 1 makes gradients too small for normal numbers (below).
        for table in (self.embedding, self.linear):
            if table is not None:
                nn.init.normal_(table.weight, std=0.01)
        self.backbone = BACKBONES[backbone](len(data.fields), EMBEDDING_DIM, hidden_units=hidden_units)

    def forward(self, ids: Tensor) -> Tensor:
        if self.linear is None:
            return self.backbone(self.embedding(ids))
        return self.backbone(self.embedding(ids), self.linear(ids).squeeze(-1))


def network_alone(
    data: ZipfClicks, backbone: str, hidden_units: list[int], device: str = "cpu", precision: str = "32-true"
) -> Contestant:
    """The floor: backbone, loss and Adam on one batch of ready-made embeddings; no loading, no table."""
    place = "cuda" if device == "gpu" else "cpu"
    network = BACKBONES[backbone](len(data.fields), EMBEDDING_DIM, hidden_units=hidden_units).to(place)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    shape = data.batch_size, len(data.fields)
    # As small as trained ones: of larger ones the pairwise terms add up to logits whose gradients are too small for
    # normal numbers, and with such some processors take twice as long.
    embeddings = (0.1 * torch.randn(*shape, EMBEDDING_DIM, device=place)).requires_grad_()
    linear = (0.1 * torch.randn(shape, device=place)).requires_grad_()
    inputs = [embeddings, linear] if backbone == "DeepFM" else [embeddings]
    labels = torch.randint(0, 2, shape[:1], device=place).float()

    def step(_: None) -> None:
        optimizer.zero_grad()
        for tensor in inputs:
            tensor.grad = None
        with torch.autocast(place, torch.bfloat16, enabled=precision == "bf16-mixed"):
            logits = network(*inputs)
        F.binary_cross_entropy_with_logits(logits.float(), labels).backward()
        optimizer.step()

    def nothing() -> Iterator[None]:
        while True:
            yield None

    return lambda steps: timed_steps(step, nothing(), steps)


def timed_steps(step: Callable[[Any], None], batches: Iterator[Any], steps: int) -> float:
    """Runs steps, and returns the seconds of one, the first two left out."""
    started = 0.0
    for number in range(steps):
        if number == 2:
            _wait()
            started = time.perf_counter()
        step(next(batches))
    _wait()
    return (time.perf_counter() - started) / (steps - 2)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
