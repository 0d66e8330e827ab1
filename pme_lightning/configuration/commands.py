"""The commands of the command line, and what each is for."""

from __future__ import annotations

COMMANDS = {
    "pme": "search, transfer, fine-tune and test; the full-size model beside it (the default)",
    "pareto": "search once, then train and test with the sizes of several budgets",
    "search": "find the sizes only",
    "finetune": "train with sizes found before: sizes=PATH",
    "fit": "train and test the full-size model, no search",
    "validate": "measure a checkpoint on the validation split: ckpt_path=PATH",
    "test": "measure a checkpoint on the test split: ckpt_path=PATH",
    "predict": "write a checkpoint's probabilities to a file: ckpt_path=PATH",
    "export": "write a checkpoint as a program to serve, its values in 8 bits: ckpt_path=PATH [bits=8]",
    "report": "draw the page of a finished run anew, or compare runs: RUN_DIR [RUN_DIR ...] [out=FILE]",
}
# Commands that use a checkpoint, and the part of the data that each needs.
USES_CHECKPOINT = {"validate": "validate", "test": "test", "predict": "predict", "export": "validate"}
# Commands that answer a question and run nothing; words without "=" after them are what is asked about.
QUESTIONS = {
    "list": "show the choices of every group, or of those named: list backbone",
    "explain": "say what a setting does, its value and where that comes from: explain search.budget",
}
