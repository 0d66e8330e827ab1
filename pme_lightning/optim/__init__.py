"""Optimizers: several that train parts of one model and look like one, and one that works on a batch's rows alone."""

from pme_lightning.optim.build import build_optimizer
from pme_lightning.optim.clipping import clip_gradients
from pme_lightning.optim.joined import JoinedOptimizer
from pme_lightning.optim.lazy_adagrad import LazyAdagrad, prior_variance
from pme_lightning.optim.row_blocks import RowBlock
from pme_lightning.optim.row_exchange import average_rows
from pme_lightning.optim.sparse_gradients import takes_sparse_gradients
from pme_lightning.optim.turned_state import turn_state

__all__ = [
    "JoinedOptimizer",
    "LazyAdagrad",
    "RowBlock",
    "average_rows",
    "build_optimizer",
    "clip_gradients",
    "prior_variance",
    "takes_sparse_gradients",
    "turn_state",
]
