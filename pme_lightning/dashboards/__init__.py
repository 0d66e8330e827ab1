"""What a run shows on Weights & Biases: one run a command, its charts, and the artifacts to repeat it from."""

from pme_lightning.dashboards.run_logger import RunLogger

__all__ = ["RunLogger"]
