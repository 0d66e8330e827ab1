"""Lightning callbacks that search the sizes and rebuild the model with them."""

from pme_lightning.callbacks.pruning import PruningCallback
from pme_lightning.callbacks.transfer import TransferCallback

__all__ = ["PruningCallback", "TransferCallback"]
