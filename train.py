"""Searches, transfers, fine-tunes and tests: ``python train.py backbone=deepfm`` (``--help`` lists the choices)."""

from pme_lightning.cli import main

if __name__ == "__main__":
    main()
