"""FuxiCTR and DeepCTR-Torch on the same rows, by their own loaders and training loops, as their users run them.

Regularization is off in both (theirs goes over the whole table in every step), which is in their favour. FuxiCTR's
package on the registry has the layers without the models: DeepFM and DCN are put together from them here.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contestants import EMBEDDING_DIM, Contestant
from zipf_clicks import ZipfClicks


def fuxictr(data: ZipfClicks, backbone: str, hidden_units: list[int], folder: Path, device: str = "cpu") -> Contestant:
    """FuxiCTR: its npz loader with one worker process (its default), its ``train_step``, Adam over everything.

    Args:
        data: The rows.
        backbone: ``"DeepFM"`` or ``"DCN"``.
        hidden_units: Of the MLP.
        folder: Where its files go.
        device: ``"cpu"`` or ``"gpu"``.
    """
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.dataloaders import RankDataLoader
    from fuxictr.pytorch.layers import (
        CrossNet,
        FactorizationMachine,
        FeatureEmbedding,
        MLP_Block,
    )
    from fuxictr.pytorch.models import BaseModel

    features = FeatureMap("zipf", str(folder))
    features.labels, features.num_fields = ["label"], len(data.sizes)
    for name, size in zip(data.fields, data.sizes, strict=True):
        features.features[name] = {"source": "", "type": "categorical", "vocab_size": size}
    features.set_column_index()

    class Model(BaseModel):
        def __init__(self) -> None:
            gpu = 0 if device == "gpu" else -1
            super().__init__(features, gpu=gpu, verbose=0, model_root=str(folder), metrics=["AUC"])
            self.embedding_layer = FeatureEmbedding(features, EMBEDDING_DIM)
            width = EMBEDDING_DIM * features.num_fields
            self.deep = backbone == "DeepFM"
            self.mlp = MLP_Block(width, hidden_units, output_dim=1 if self.deep else None)
            if self.deep:
                self.fm = FactorizationMachine(features)
            else:
                self.cross = CrossNet(width, 3)
                self.head = torch.nn.Linear(width + hidden_units[-1], 1)
            self.compile("adam", "binary_crossentropy", 1e-3)
            self.reset_parameters()
            self.model_to_device()

        def forward(self, inputs: Any) -> dict[str, Any]:
            X = self.get_inputs(inputs)
            embeddings = self.embedding_layer(X)
            flat = embeddings.flatten(start_dim=1)
            if self.deep:
                logits = self.fm(X, embeddings) + self.mlp(flat)
            else:
                logits = self.head(torch.cat([self.cross(flat), self.mlp(flat)], dim=-1))
            return {"y_pred": self.output_activation(logits)}

    ids, labels = data.data.splits["train"]
    starts = np.cumsum([0, *data.sizes[:-1]])
    columns = {name: ids[:, f] - starts[f] for f, name in enumerate(data.fields)}
    np.savez(folder / "train.npz", **columns, label=labels)
    model = Model()

    def run(steps: int) -> float:
        loader, _ = RankDataLoader(
            features, "train", str(folder / "train.npz"), batch_size=data.batch_size, shuffle=True
        )
        clock = _Arrivals(loader, steps)
        # What fit sets before it calls train_epoch; it would also evaluate and write a checkpoint.
        model._max_gradient_norm, model._eval_steps, model._total_steps, model._stop_training = 10.0, 10**9, 0, False
        model.train_epoch(clock)
        return clock.seconds

    return run


class _Arrivals:
    """A loader whose batches are noted as they are asked for, the first ``steps`` of them."""

    def __init__(self, loader: Any, steps: int) -> None:
        self.loader = loader
        self.steps = steps
        self.asked: list[float] = []

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.loader)
        for _ in range(self.steps):
            self.asked.append(time.perf_counter())
            yield next(batches)
        self.asked.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        """Seconds of a step, loading included, the first two left out."""
        return (self.asked[-1] - self.asked[2]) / (len(self.asked) - 3)


def deepctr_torch(data: ZipfClicks, backbone: str, hidden_units: list[int], device: str = "cpu") -> Contestant:
    """DeepCTR-Torch: ``fit`` of its model with Adam; its ids travel as float32."""
    from deepctr_torch.inputs import SparseFeat
    from deepctr_torch.models import DCN, DeepFM

    columns = [
        SparseFeat(name, size, EMBEDDING_DIM, dtype="int32") for name, size in zip(data.fields, data.sizes, strict=True)
    ]
    place = "cuda:0" if device == "gpu" else "cpu"
    if backbone == "DeepFM":
        model = DeepFM(
            columns, columns, dnn_hidden_units=hidden_units, l2_reg_linear=0, l2_reg_embedding=0, device=place
        )
    else:
        model = DCN(
            columns, columns, cross_num=3, dnn_hidden_units=hidden_units,
            l2_reg_linear=0, l2_reg_embedding=0, l2_reg_cross=0, device=place,
        )  # fmt: skip
    model.compile("adam", "binary_crossentropy")
    ends: list[float] = []
    model.optim.register_step_post_hook(lambda *_: ends.append(time.perf_counter()))
    ids, labels = data.data.splits["train"]
    starts = np.cumsum([0, *data.sizes[:-1]])

    def run(steps: int) -> float:
        rows = steps * data.batch_size
        inputs = {name: ids[:rows, f] - starts[f] for f, name in enumerate(data.fields)}
        ends.clear()
        with contextlib.redirect_stdout(io.StringIO()):
            model.fit(inputs, labels[:rows].astype(np.float32), data.batch_size, epochs=1, verbose=0, shuffle=True)
        return (ends[-1] - ends[1]) / (len(ends) - 2)

    return run
