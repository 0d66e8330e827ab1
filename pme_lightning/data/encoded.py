"""The base of every data module: loaders and token facts over encoded splits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader

from pme_lightning.data.batches import ClickDataset, PermutationBatchSampler, SequentialBatchSampler, keep
from pme_lightning.data.encoded_data import EncodedData
from pme_lightning.data.on_gpu import RowsOnGPU, all_or_none, belongs_on_gpu
from pme_lightning.data.options import SPLITS, check_whole_number
from pme_lightning.errors import BadInput
from pme_lightning.processes.synchronization import place_among_processes

if TYPE_CHECKING:
    from pme_lightning.data.vocabulary import Vocabulary

# Rows of each split whose ids are held against their fields: a numbering that is wrong shows in any of them.
_CHECKED_ROWS = 1 << 16


class EncodedDataModule(LightningDataModule, ABC):
    """Loaders and token facts over encoded splits; a subclass says where the splits come from.

    A subclass implements :meth:`encoded`, which :meth:`setup` calls once in every process. Work that must happen only
    once belongs into ``prepare_data``. Lightning calls that in one process of each machine; the commands call it in
    all of them, in one of each machine first, so that the others find the work done. Batches are tuples: ids int32
    ``(B, F)`` and labels float32 ``(B,)``; for prediction ids alone.

    Shuffling depends on (seed, epoch) only. In a run with several processes each loader gives its own process its
    share of every batch (see :class:`~pme_lightning.data.batches.PermutationBatchSampler`); Lightning adds no
    sharding of its own.

    Args:
        batch_size: training rows per batch and process.
        eval_batch_size: rows per batch and process in validation, test and prediction.
        num_workers: loader processes; 0 is fastest for data in memory or in the page cache.
        seed: seed of the shuffling.
        on_gpu: whether a GPU that trains holds the training and validation rows in its memory, where batches are made
            many times as fast; None: where they take a quarter at most of the memory that is free there.
    """

    def __init__(
        self,
        batch_size: int = 4096,
        eval_batch_size: int = 16384,
        num_workers: int = 0,
        seed: int = 42,
        on_gpu: bool | None = None,
    ) -> None:
        super().__init__()
        check_whole_number("batch_size", batch_size, 1)
        check_whole_number("eval_batch_size", eval_batch_size, 1)
        check_whole_number("num_workers", num_workers, 0)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.on_gpu = on_gpu
        self._data: EncodedData | None = None
        self._datasets: dict[str, ClickDataset] = {}
        self._rows_on_gpu: dict[str, RowsOnGPU] = {}
        self._renumbering: Tensor | None = None
        self._numbered_by: str | None = None
        self._trained: tuple[int, int] | None = None
        self._held_then: bool | None = None

    @abstractmethod
    def encoded(self) -> EncodedData:
        """Returns the encoded splits and the facts about their tokens."""

    def setup(self, stage: str | None = None) -> None:
        """Takes over the encoded splits; later calls do nothing."""
        if self._data is None:
            self._data = self.encoded()

    # The facts. All of them need setup() to have run.

    @property
    def data(self) -> EncodedData:
        """The encoded splits and their facts.

        Raises:
            RuntimeError: ``setup()`` has not run.
        """
        if self._data is None:
            raise RuntimeError("the data module is not set up: call prepare_data() and setup() first")
        return self._data

    @property
    def name(self) -> str:  # type: ignore[override]
        """The name of the data set."""
        return self.data.name

    @property
    def fields(self) -> list[str]:
        """The field names, in the order of the id columns."""
        return self.data.fields

    @property
    def field_tokens(self) -> list[int]:
        """Tokens per field, in the vocabulary's numbering."""
        return self.data.field_tokens

    @property
    def num_tokens(self) -> int:
        """``V``, the tokens of all fields."""
        return sum(self.data.field_tokens)

    @property
    def frequencies(self) -> Tensor:
        """int64 ``(V,)``: training rows per token, in the vocabulary's numbering whatever :meth:`renumber` does."""
        return self.data.frequencies

    @property
    def rows(self) -> dict[str, int]:
        """Rows per split: train, valid, test (fewer where test rows stand alone)."""
        return {split: len(self.data.splits[split][0]) for split in SPLITS if split in self.data.splits}

    @property
    def clicks(self) -> dict[str, int]:
        """Clicks per split that is there: they tell these rows from others of the same number."""
        return {split: int(np.count_nonzero(labels)) for split, (_, labels) in self.data.splits.items()}

    @property
    def vocabulary(self) -> Vocabulary | None:
        """What gives values their ids; None where rows come as ids."""
        return None

    def describe(self) -> str:
        """A plain-text table of the fields and their tokens."""
        width = max(len("field"), *(len(name) for name in self.fields))
        lines = [f"{'field':<{width}}  tokens"]
        lines += [f"{name:<{width}}  {tokens:>6}" for name, tokens in zip(self.fields, self.field_tokens, strict=True)]
        return "\n".join(lines)

    # Numbering and vocabulary.

    def renumber(self, order: Tensor | None, fingerprint: str | None = None) -> None:
        """Gives tokens new ids in all later batches: token ``order[i]`` of the vocabulary gets id ``i``.

        Args:
            order: int tensor ``(V,)``, a permutation of all token ids; None goes back to the vocabulary's numbering.
            fingerprint: of the sizes that the order is by (``SearchResult.fingerprint()``), so that a model of other
                sizes is refused; None leaves that to the caller.

        Raises:
            BadInput: ``order`` is no permutation of the tokens.
        """
        renumbering = None
        if order is not None:
            order = order.detach().cpu().long()
            V = self.num_tokens
            if order.shape != (V,) or not torch.equal(order.sort().values, torch.arange(V)):
                raise BadInput(f"the new order of tokens must hold each of the {V} token ids exactly once")
            renumbering = torch.empty(V, dtype=torch.int32)
            renumbering[order] = torch.arange(V, dtype=torch.int32)
        self._renumbering, self._numbered_by = renumbering, fingerprint
        self._rows_on_gpu.clear()
        for dataset in self._datasets.values():
            dataset.renumbering = renumbering

    @property
    def numbered_by(self) -> str | None:
        """The fingerprint of the sizes that batches are numbered by, where that was told."""
        return self._numbered_by

    @property
    def is_renumbered(self) -> bool:
        """Whether batches come in another numbering than the vocabulary's."""
        return self._renumbering is not None

    def save_vocabulary(self, folder: str | Path) -> None:
        """Writes what is needed to encode new rows the same way; nothing where there is no vocabulary."""
        if self.vocabulary is not None:
            self.vocabulary.save(folder)

    def use_vocabulary(self, folder: str | Path) -> None:
        """Encodes with a saved vocabulary from now on; without effect where there is no vocabulary."""

    def check_unseen(self, split: str) -> None:
        """Refuses a split that may hold training rows of the model of a checkpoint, as far as that can be told.

        Args:
            split: valid, test, or predict.

        Raises:
            BadInput: it may hold some.
        """

    # How far training has come.

    def state_dict(self) -> dict[str, Any]:
        """The epoch and how many of its batches are done, so that a fit goes on with the batch after a checkpoint."""
        if self.trainer is None:
            return {}
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        return {
            "epoch": self.trainer.current_epoch,
            # A checkpoint that a callback writes at the end of a batch holds what was learned from it: Lightning counts
            # it as completed a moment later.
            "batches": progress.current.processed,  # type: ignore[attr-defined]
            "on_gpu": "train" in self._rows_on_gpu,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Lets the next fit go on after the batches that :meth:`state_dict` counted."""
        if self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            self._trained = (state_dict["epoch"], state_dict["batches"])
            # A GPU draws other orders than a processor does.
            self._held_then = state_dict.get("on_gpu")

    # Loaders.

    def _dataset(self, split: str) -> ClickDataset:
        if split not in self._datasets:
            if split != "predict" and split not in self.data.splits:
                raise BadInput(f"data '{self.name}' has no {split} split, only {', '.join(self.data.splits)}")
            ids, labels = self.predict_rows() if split == "predict" else self.data.splits[split]
            dataset = ClickDataset(ids, labels, self.num_tokens, self._renumbering)
            self.data.check_fields(ids[:_CHECKED_ROWS], split)
            self._datasets[split] = dataset
        return self._datasets[split]

    def predict_rows(self) -> tuple[np.ndarray, None]:
        """The rows to predict: the test split's, without labels."""
        if "test" not in self.data.splits:
            raise BadInput(f"data '{self.name}' has no test split, only {', '.join(self.data.splits)}")
        return self.data.splits["test"][0], None

    @property
    def _overfits(self) -> bool:
        """Whether Lightning's ``overfit_batches`` is to see the same rows in every epoch."""
        return self.trainer is not None and bool(self.trainer.overfit_batches)  # type: ignore[attr-defined]

    def _loader(self, split: str) -> DataLoader:
        training = split == "train"
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        rows = self._dataset(split)
        held = split in ("train", "valid") and self._on_gpu(split, device)
        dataset: ClickDataset | RowsOnGPU = self._rows_on_gpu[split] if held else rows
        rank, world_size = place_among_processes()
        shuffle = training and not self._overfits
        sampler = (PermutationBatchSampler if shuffle else SequentialBatchSampler)(
            len(dataset),
            self.batch_size if training else self.eval_batch_size,
            shuffle=shuffle,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            prefetch=rows.prefetch,
            device=device if held else None,
        )
        if training and self._trained is not None:
            sampler.go_on(*self._trained)
            self._trained = None
        return DataLoader(
            dataset,
            sampler=sampler,
            batch_size=None,
            collate_fn=keep,
            num_workers=0 if held else self.num_workers,
            pin_memory=device.type == "cuda" and not held,
        )

    def _on_gpu(self, split: str, device: torch.device) -> bool:
        """Whether the training device holds the rows of a split; brings them there if they belong there."""
        held = self._rows_on_gpu.get(split)
        if held is not None and held.ids.device == device and self.on_gpu is not False:
            return True
        self._rows_on_gpu.pop(split, None)
        wanted = self.on_gpu
        if split == "train" and self._held_then is not None:
            wanted, self._held_then = self._held_then, None
        name = f"the {split} split of data '{self.name}'"
        if not all_or_none(belongs_on_gpu(name, self._dataset(split), device, wanted), device):
            return False
        self._rows_on_gpu[split] = RowsOnGPU(self._dataset(split), device)
        return True

    def train_dataloader(self) -> DataLoader:
        """Shuffled batches ``(ids, labels)`` of the training split."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader:
        """Batches ``(ids, labels)`` of the validation split, every row once."""
        return self._loader("valid")

    def test_dataloader(self) -> DataLoader:
        """Batches ``(ids, labels)`` of the test split, every row once."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader:
        """Batches ``(ids,)`` of the rows to predict, every row once and in order."""
        return self._loader("predict")
