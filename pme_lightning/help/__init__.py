"""What the command line says about itself: ``--help``, ``list`` and ``explain``."""
