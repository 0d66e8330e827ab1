"""The search for sizes: criteria score, schedules time, allocators share out the budget. Torch only."""

from pme_lightning.search.allocators import Allocation, Allocator, Prefix, TopK
from pme_lightning.search.budget import Budget, parse_budget
from pme_lightning.search.concave import concave_slopes
from pme_lightning.search.controls import Control, Popularity, Random, Uniform
from pme_lightning.search.criteria import Criterion, Fisher, Magnitude, Saliency, Scores, principal_axes
from pme_lightning.search.result import SearchResult
from pme_lightning.search.schedules import (
    Action,
    AfterWarmup,
    AtInit,
    Gradual,
    NoTraining,
    Schedule,
    keep_fraction,
)

__all__ = [
    "Action",
    "AfterWarmup",
    "Allocation",
    "Allocator",
    "AtInit",
    "Budget",
    "Control",
    "Criterion",
    "Fisher",
    "Gradual",
    "Magnitude",
    "NoTraining",
    "Popularity",
    "Prefix",
    "Random",
    "Saliency",
    "Schedule",
    "Scores",
    "SearchResult",
    "TopK",
    "Uniform",
    "concave_slopes",
    "keep_fraction",
    "parse_budget",
    "principal_axes",
]
