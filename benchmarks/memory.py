"""What a table takes in training, by accounting and by the process's resident set; and what a checkpoint takes."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from contestants import fitted
from lightning.pytorch import Trainer
from measure import quiet
from zipf_clicks import ZipfClicks

from pme_lightning.embedding import MultiSizeEmbedding
from pme_lightning.module import CTRModule


@dataclass(frozen=True)
class TableBytes:
    """What the table takes while it trains.

    Attributes:
        counted: Parameters, gradients of one batch, optimizer state, and the index.
        resident: By how much the process's peak grew from before the module was built on; 0 where not measured.
        fraction: Of the full-size table's parameters that are kept.
    """

    counted: int
    resident: int
    fraction: float


def table_bytes(module: CTRModule, data: ZipfClicks) -> TableBytes:
    """Counts after a training step; the resident set is that of a process of its own that trains a few steps."""
    optimizer = module.configure_optimizers()
    ids, labels = next(iter(data.train_dataloader()))
    torch.nn.functional.binary_cross_entropy_with_logits(module(ids), labels).backward()
    counted = module.embedding.index_bytes
    for parameter in module.table_parameters:
        counted += _bytes(parameter) + _bytes(parameter.grad)
    optimizer.step()
    for parameter in module.table_parameters:
        counted += sum(_bytes(value) for value in optimizer.state[parameter].values() if torch.is_tensor(value))
    module.zero_grad()
    fraction = module.embedding.num_parameters / module.full_parameters
    with get_context("spawn").Pool(1) as pool:
        resident = pool.apply(_resident, (dict(module.hparams), data.sizes, data.batch_size))
    return TableBytes(counted, resident, fraction)


def _resident(hparams: dict[str, Any], sizes: list[int], batch_size: int) -> int:
    quiet()
    data = ZipfClicks(sum(sizes), len(sizes), 4 * batch_size, batch_size=batch_size)
    data.setup()
    if hparams["classes"] is not None:
        data.renumber(torch.arange(data.num_tokens))
    # From here on the kernel counts the peak anew (Linux).
    Path("/proc/self/clear_refs").write_text("5")
    before = _memory("VmRSS")
    module = CTRModule(**hparams)
    fitted(module, data)(4)
    return _memory("VmHWM") - before


def _memory(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+) kB", status).group(1)) * 1024  # type: ignore[union-attr]


def checkpoint_bytes(module: CTRModule, data: ZipfClicks) -> tuple[int, int]:
    """Returns the bytes of a weights-only checkpoint, and of what it has to hold: table, network, index."""
    trainer = Trainer(
        max_steps=1, limit_val_batches=0, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, accelerator="cpu", devices=1,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "best.ckpt"
        trainer.save_checkpoint(path, weights_only=True)
        size = path.stat().st_size
    own = sum(_bytes(parameter) for parameter in module.parameters())
    return size, own + (module.embedding.index_bytes if isinstance(module.embedding, MultiSizeEmbedding) else 0)


def _bytes(tensor: torch.Tensor | None) -> int:
    if tensor is None:
        return 0
    if tensor.is_sparse:
        return _bytes(tensor._indices()) + _bytes(tensor._values())
    return tensor.numel() * tensor.element_size()
