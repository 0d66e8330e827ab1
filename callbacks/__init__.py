"""Lightning callbacks that search the sizes and rebuild the model with them."""

from pme_lightning.callbacks.pep import PEPCallback
from pme_lightning.callbacks.pruning import PruningCallback
from pme_lightning.callbacks.transfer import TransferCallback

__all__ = ["PEPCallback", "PruningCallback", "TransferCallback"]
