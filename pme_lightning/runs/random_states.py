"""The random numbers of a run: their state, to go on after an interruption, and apart from other processes."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import Tensor


def random_states() -> dict[str, Any]:
    """Returns the states of all generators, as plain data and tensors: a checkpoint runs no code when it is read."""
    _, numbers, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, internal, next_gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [torch.from_numpy(np.asarray(numbers).astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(internal), next_gauss],
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Has all generators draw on from where :func:`random_states` found them."""
    torch.set_rng_state(states["torch"].cpu())
    devices: list[Tensor] = states["cuda"]
    if devices and len(devices) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in devices])
    numbers, *rest = states["numpy"]
    np.random.set_state(("MT19937", numbers.numpy().astype(np.uint32), *rest))
    version, internal, next_gauss = states["python"]
    random.setstate((version, tuple(internal), next_gauss))


def draw_apart(trainer: Trainer) -> None:
    """Lets every process but the main one draw numbers of its own: the same dropout in all would be less dropout."""
    if trainer.global_rank:
        torch.manual_seed((torch.initial_seed() + 0x9E3779B1 * trainer.global_rank + trainer.global_step) % (1 << 63))
