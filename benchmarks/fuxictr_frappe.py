#!/usr/bin/env python
"""Trains FuxiCTR's own AutoInt on the reconstructed Frappe_x1, as the published run was trained.

    git clone https://github.com/reczoo/FuxiCTR
    python benchmarks/fuxictr_frappe.py --fuxictr FuxiCTR --data-folder DATA --seeds 1

Tells what of the distance to the published figure (test AUC .9831, logloss .1637) is the data's. Model, loss,
optimizer, learning rate on a plateau and early stopping are FuxiCTR's, the settings are those of the published log
(https://openbenchmark.github.io/BARS, AutoInt_frappe_x1_005), and the rows are those that ours is trained on. It needs
``pip install -e '.[bench]'``; the registry's package has no models, hence the clone.
It takes some 45 minutes a seed on one thread.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from machine_facts import machine_facts
from torch import Tensor

SPLITS = ("train", "valid", "test")
SETTINGS: dict[str, Any] = {
    "learning_rate": 1e-3,
    "embedding_dim": 10,
    "dnn_hidden_units": [],
    "attention_layers": 6,
    "num_heads": 4,
    "attention_dim": 128,
    "net_dropout": 0,
    "use_residual": True,
    "use_scale": False,
    "use_wide": False,
    "layer_norm": False,
    "embedding_regularizer": 0.05,
    "net_regularizer": 0,
    "optimizer": "adam",
    "loss": "binary_crossentropy",
    "task": "binary_classification",
    "metrics": ["AUC", "logloss"],
    "monitor": "AUC",
    "monitor_mode": "max",
    "early_stop_patience": 2,
    "reduce_lr_on_plateau": True,
    "save_best_only": True,
    "eval_steps": None,
}
BATCH = 4096


class Batches:
    """A split as FuxiCTR's trainer takes it: dictionaries of columns.

    Args:
        columns: Each ``(n,)``, the label among them.
        shuffle: Whether to draw a new order each time.
    """

    def __init__(self, columns: dict[str, Tensor], shuffle: bool) -> None:
        self.columns, self.shuffle = columns, shuffle
        self.rows = len(columns["label"])

    def __len__(self) -> int:
        return -(-self.rows // BATCH)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        order = torch.randperm(self.rows) if self.shuffle else torch.arange(self.rows)
        for rows in order.split(BATCH):
            yield {name: column[rows] for name, column in self.columns.items()}


def main(words: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fuxictr", type=Path, required=True, metavar="FOLDER", help="a clone of FuxiCTR")
    parser.add_argument("--data-folder", type=Path, required=True, help="where a folder 'frappe' of Parquet files lies")
    parser.add_argument("--seeds", default="1", help="(default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="(default: %(default)s)")
    options = parser.parse_args(words)
    machine = machine_facts()
    print(f"{machine['processor']}, {machine['threads']} threads, torch {machine['torch']}, commit {machine['commit']}")
    tables = {split: pl.read_parquet(options.data_folder / "frappe" / f"{split}*.parquet") for split in SPLITS}
    for seed in map(int, options.seeds.split(",")):
        with tempfile.TemporaryDirectory(prefix="fuxictr_frappe_") as folder:
            print(f"seed {seed}: {trained(options, tables, seed, Path(folder))}", flush=True)


def trained(options: argparse.Namespace, tables: dict[str, pl.DataFrame], seed: int, folder: Path) -> str:
    """Trains and tests once, and returns what came out as words."""
    from fuxictr.features import FeatureMap

    torch.manual_seed(seed)
    np.random.seed(seed)
    features = FeatureMap("frappe", str(folder))
    fields = [name for name in tables["train"].columns if name != "label"]
    features.labels, features.num_fields = ["label"], len(fields)
    columns = {split: {"label": torch.tensor(table["label"].to_numpy())} for split, table in tables.items()}
    for name in fields:
        known = {token: number for number, token in enumerate(tables["train"][name].unique().sort(), 1)}
        unknown = len(known) + 1
        features.features[name] = {"source": "", "type": "categorical", "vocab_size": unknown + 1, "padding_idx": 0}
        for split, table in tables.items():
            columns[split][name] = torch.tensor([known.get(token, unknown) for token in table[name]])
    (folder / "frappe").mkdir()
    gpu = 0 if options.device == "gpu" else -1
    build = _autoint(options.fuxictr)
    model = build(features, model_id="AutoInt", gpu=gpu, verbose=0, model_root=str(folder), **SETTINGS)
    splits = {split: Batches(columns[split], split == "train") for split in SPLITS}
    model.fit(splits["train"], epochs=100, validation_data=splits["valid"])
    valid, test = (model.evaluate(splits[split]) for split in ("valid", "test"))
    epochs = model._epoch_index + 1
    return f"test AUC {test['AUC']:.4f}, logloss {test['logloss']:.4f}, valid AUC {valid['AUC']:.4f}, {epochs} epochs"


def _autoint(clone: Path) -> Any:
    path = clone / "model_zoo" / "AutoInt" / "src" / "AutoInt.py"
    spec = importlib.util.spec_from_file_location("fuxictr_autoint", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.AutoInt


if __name__ == "__main__":
    main()
