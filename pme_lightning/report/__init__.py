"""What a run tells of itself: on the terminal, in ``summary.json``, and the predictions that were asked for."""

from pme_lightning.report.blocks import (
    BYTES_PER_PARAMETER,
    block,
    embedding_facts,
    exported_block,
    module_facts,
    summary,
)
from pme_lightning.report.predictions import write_predictions
from pme_lightning.report.terminal import print_data, print_ending, print_summary, print_table, say, shown

__all__ = [
    "BYTES_PER_PARAMETER",
    "block",
    "embedding_facts",
    "exported_block",
    "module_facts",
    "print_data",
    "print_ending",
    "print_summary",
    "print_table",
    "say",
    "shown",
    "summary",
    "write_predictions",
]
