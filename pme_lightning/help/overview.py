"""The text of ``--help``: a screen that shows the commands, the groups with their choices, and the common keys."""

from __future__ import annotations

from pme_lightning.configuration.commands import COMMANDS, QUESTIONS
from pme_lightning.configuration.group_files import GROUPS, GroupFiles
from pme_lightning.help.layout import two_columns

_KEYS = {
    "search.budget": "what to keep: a fraction (0.2), a parameter count (2000000), bytes (20MB), or bytes as exported "
    "(5MB@8bit, 5%@8bit)",
    "budgets": "the budgets of pareto, [0.5,0.2,0.1,0.05,0.02]",
    "data.path": "file, folder or Hugging Face id to train on",
    "data.label": "the column of clicks, 0 or 1",
    "optimizer.lr": "learning rate",
    "model.embedding_dim": "the full embedding size",
    "model.embedding_bits": "bits of an embedding value in training: 32, or 16 for tables of half the bytes",
    "trainer.*": "options of Lightning's Trainer, such as trainer.max_epochs=3",
    "baseline": "also train the full-size model, to compare with (true)",
    "transfer.init": "start the fine-tune from scratch, or warm from the search's rows",
    "seed": "of everything random (42)",
    "run_dir": "where the run is written (a new folder under runs/)",
    "sizes": "file of sizes, for finetune",
    "ckpt_path": "checkpoint, for validate, test, predict and export",
}
_OPTIONS = {
    "--print_config": "print the whole configuration and stop; every key that can be set is in it",
    "--config=FILE": "start from a configuration file, such as the config.yaml of a run",
    "config_dir=DIR": "a folder with group files of your own (DIR/backbone/mine.yaml)",
    "--version": "print the version and stop",
}


def help_text(files: GroupFiles) -> str:
    """Returns the help, wrapped to the terminal's width."""
    lines = [
        "Searches the embedding size of every token of a CTR model, and trains with those sizes.",
        "",
        "usage: pme-lightning [command] [group=choice ...] [key=value ...] [--option=value ...]",
        "   or: python train.py ...",
        "",
        "commands:",
        *two_columns(COMMANDS | QUESTIONS),
        "",
        "groups and their choices:",
        *two_columns({group: ", ".join(files.choices(group)) or "-" for group in GROUPS}),
        "",
        "keys that are typed most:",
        *two_columns(_KEYS),
        "",
        "options:",
        *two_columns(_OPTIONS),
        "",
        "examples:",
        "  python train.py backbone=deepfm",
        "  python train.py backbone=autoint data=parquet data.path=clicks.parquet search.budget=0.1",
        "  python train.py list search",
        "  python train.py explain trainer.max_epochs",
        "  python train.py test ckpt_path=runs/RUN/checkpoints/finetune/best.ckpt",
        "  python train.py report runs/RUN runs/ANOTHER",
    ]
    return "\n".join(lines)
