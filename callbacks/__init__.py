"""Lightning callbacks that search the sizes, rebuild the model with them, and control its training."""

from pme_lightning.callbacks.pep import PEPCallback
from pme_lightning.callbacks.plateau import PlateauCallback
from pme_lightning.callbacks.pruning import PruningCallback
from pme_lightning.callbacks.transfer import TransferCallback

__all__ = ["PEPCallback", "PlateauCallback", "PruningCallback", "TransferCallback"]
