"""Optimizers: several that train parts of one model and look like one, and one that works on a batch's rows alone."""

from pme_lightning.optim.build import build_optimizer
from pme_lightning.optim.clipping import clip_gradients
from pme_lightning.optim.joined import JoinedOptimizer
from pme_lightning.optim.lazy_adagrad import LazyAdagrad

__all__ = ["JoinedOptimizer", "LazyAdagrad", "build_optimizer", "clip_gradients"]
