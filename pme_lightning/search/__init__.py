"""The search for sizes: criteria score, schedules time, allocators share out the budget. Independent of Lightning."""

from pme_lightning.search.across import ALONE, SplitTokens, Tokens
from pme_lightning.search.allocators import Allocation, Allocator, Prefix, TopK
from pme_lightning.search.axes import principal_axes
from pme_lightning.search.budget import Budget, FullTable, parse_budget
from pme_lightning.search.controls import Control, FieldPopularity, Popularity, Random, Uniform
from pme_lightning.search.criterion import Criterion, KnowsFields, Scores
from pme_lightning.search.field_level import FieldSaliency, FieldSizes
from pme_lightning.search.gradient_criteria import Fisher, Saliency
from pme_lightning.search.information import ExpectedInformation
from pme_lightning.search.magnitude import Magnitude
from pme_lightning.search.nesting import nested_axes
from pme_lightning.search.result import SearchResult
from pme_lightning.search.row_information import RowInformation
from pme_lightning.search.schedules import (
    Action,
    AfterWarmup,
    AtInit,
    Epoch,
    Gradual,
    NoTraining,
    Schedule,
    SingleShot,
    keep_fraction,
)
from pme_lightning.search.survival import Survival

__all__ = [
    "ALONE",
    "Action",
    "AfterWarmup",
    "Allocation",
    "Allocator",
    "AtInit",
    "Budget",
    "Control",
    "Criterion",
    "Epoch",
    "ExpectedInformation",
    "FieldPopularity",
    "FieldSaliency",
    "FieldSizes",
    "Fisher",
    "FullTable",
    "Gradual",
    "KnowsFields",
    "Magnitude",
    "NoTraining",
    "Popularity",
    "Prefix",
    "Random",
    "RowInformation",
    "Saliency",
    "Schedule",
    "Scores",
    "SearchResult",
    "SingleShot",
    "SplitTokens",
    "Survival",
    "Tokens",
    "TopK",
    "Uniform",
    "keep_fraction",
    "nested_axes",
    "parse_budget",
    "principal_axes",
]
