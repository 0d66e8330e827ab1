"""Runs of a command: checked, done phase by phase, written to a folder, and resumed."""
