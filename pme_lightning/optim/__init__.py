"""Optimizers: several that train parts of one model and look like one."""

from pme_lightning.optim.build import build_optimizer
from pme_lightning.optim.joined import JoinedOptimizer

__all__ = ["JoinedOptimizer", "build_optimizer"]
