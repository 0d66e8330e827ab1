"""A run within somebody's program leaves the process as it was: random numbers, what is logged, what is warned of."""

from __future__ import annotations

import logging
import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from pme_lightning.lightning_answers import LOGGERS

# Lightning writes them where it seeds.
_VARIABLES = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")


@contextmanager
def undisturbed() -> Iterator[None]:
    """Puts back afterwards what a run sets for the whole process.

    Those are the states of the random number generators of Python, numpy and torch, the levels of Lightning's loggers,
    the filters of warnings, whether torch is deterministic, whether it keeps gradients, and Lightning's environment
    variables of the seed. Meanwhile torch makes numbers of 32 bits, whatever its default is.
    """
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    variables = {name: os.environ.get(name) for name in _VARIABLES}
    deterministic, warns = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    benchmark, states = torch.backends.cudnn.benchmark, (random.getstate(), np.random.get_state())
    dtype = torch.get_default_dtype()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        torch.set_default_dtype(torch.float32)
        with torch.random.fork_rng(devices), warnings.catch_warnings(), torch.enable_grad():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        for name, value in variables.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        torch.use_deterministic_algorithms(deterministic, warn_only=warns)
        torch.backends.cudnn.benchmark = benchmark
        torch.set_default_dtype(dtype)
