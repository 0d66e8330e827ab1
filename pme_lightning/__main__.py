"""``python -m pme_lightning``: the command line."""

from pme_lightning.cli import main

main()
