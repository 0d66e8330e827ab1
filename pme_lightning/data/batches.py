"""Batches of encoded rows: a map-style data set over arrays and a sampler that yields whole batches of indices.

A loader that fetches single rows and collates them is bound by Python at 0.1-0.2 million rows a second. Here one
gather per batch does the work: ``DataLoader(ClickDataset(...), sampler=PermutationBatchSampler(...),
batch_size=None, collate_fn=keep)``.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from pme_lightning.data.orders import Prefetch, shuffled
from pme_lightning.errors import BadInput

# Up to this many ids (256 MiB) the range check at construction costs less than a tenth of a second.
_CHECKED_IDS = 1 << 26
# Rows of a rank in the last batch of an epoch of training: batch norm has nothing to learn of a single one.
LEAST_TO_TRAIN_ON = 2


class ClickDataset(Dataset):
    """Encoded rows held in arrays (memory maps as a rule), fetched a batch at a time.

    Args:
        ids: int32 array ``(n, F)`` of global token ids.
        labels: array ``(n,)`` of 0/1 in any numeric type, or None for rows without a label (prediction).
        num_tokens: ``V``; where given, ids are checked to lie in ``[0, V)``.
        renumbering: int32 tensor ``(V,)``; where given, batches hold ``renumbering[ids]``.

    Raises:
        BadInput: an id is out of range, a label neither 0 nor 1, or ids and labels differ in length.
    """

    def __init__(
        self,
        ids: np.ndarray,
        labels: np.ndarray | None,
        num_tokens: int | None = None,
        renumbering: Tensor | None = None,
    ) -> None:
        if ids.ndim != 2 or ids.dtype != np.int32:
            raise BadInput(f"ids must be an int32 array of rows by fields, not {ids.dtype} of shape {ids.shape}")
        if labels is not None and labels.shape != (len(ids),):
            raise BadInput(f"{len(ids)} rows of ids need as many labels, not an array of shape {labels.shape}")
        if num_tokens is not None and 0 < ids.size <= _CHECKED_IDS:
            low, high = int(ids.min()), int(ids.max())
            if low < 0 or high >= num_tokens:
                wrong = low if low < 0 else high
                row, field = map(int, np.argwhere(ids == wrong)[0])
                raise BadInput(
                    f"id {wrong} in row {row}, field {field} is out of range: ids go from 0 to {num_tokens - 1}"
                )
        if labels is not None and 0 < len(labels) <= _CHECKED_IDS:
            wrong_labels = ~((labels == 0) | (labels == 1))
            if wrong_labels.any():
                row = int(wrong_labels.argmax())
                raise BadInput(f"the label in row {row} is {labels[row]}: labels are 0 and 1")
        self._maps: list[np.memmap] = []
        for one in (ids, labels):
            if isinstance(one, np.memmap) and isinstance(one.base, mmap.mmap):
                self._maps.append(one)
        # Plain views: the map's own class would cost a microsecond at every step.
        self.ids = np.asarray(ids)
        self.labels = None if labels is None else np.asarray(labels)
        self.renumbering = renumbering

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.ids)

    def prefetch(self, firsts: Tensor, rows: int) -> None:
        """Has the system read ranges of rows from the disk into its page cache, all at once, and does not wait for it.

        Left to itself it reads a row when it is asked for, one after the other: on a disk that answers in
        milliseconds that is a few hundred rows a second.

        Args:
            firsts: the first row of each range, int64.
            rows: how many each has.
        """
        for one in self._maps:
            width = one.nbytes // len(one)
            begin = one.offset % mmap.ALLOCATIONGRANULARITY
            for first in firsts.tolist():
                start = begin + first * width
                stop = begin + min(first + rows, len(one)) * width
                start -= start % mmap.PAGESIZE
                one.base.madvise(mmap.MADV_WILLNEED, start, stop - start)  # type: ignore[union-attr]

    def __getitem__(self, index: Tensor | slice | int) -> tuple[Tensor, ...]:
        """Returns a batch: ids int32 ``(B, F)`` and, where there are labels, labels float32 ``(B,)``.

        Args:
            index: an int tensor ``(B,)`` of row numbers, a slice of rows, or one row number for a batch of one.
        """
        if isinstance(index, int):
            index = slice(index, index + 1)
        # numpy gathers in this thread: torch would share so small a gather out among the threads that train, and
        # wait for all of them (on a busy machine that is twenty times slower).
        if isinstance(index, slice):
            ids = self.ids[index]
            # A view of the file would let a caller's in-place edit leak into every later epoch.
            ids = ids.copy() if self.renumbering is None else ids
            labels = None if self.labels is None else self.labels[index]
        else:
            rows = index.numpy()
            ids = np.take(self.ids, rows, axis=0)
            labels = None if self.labels is None else np.take(self.labels, rows)
        if self.renumbering is not None:
            ids = np.take(self.renumbering.numpy(), ids)
        if labels is None:
            return (torch.from_numpy(ids),)
        return torch.from_numpy(ids), torch.from_numpy(labels.astype(np.float32))


def keep(batch: Any) -> Any:
    """The loader's ``collate_fn``: batches come ready-made, and torch's default would turn the tuple into a list."""
    return batch


class Cuts:
    """Where the order of ``n`` rows is cut into batches, and these into the parts of ranks.

    The *global* batch of ``world_size * batch_size`` rows is what is cut from the order, and each rank takes its part
    of it. The last global batch is split as evenly as it goes; where it has too few rows for the ranks it joins the
    batch before it. So every rank has the same number of batches, and none of them is empty.

    Args:
        n: number of rows.
        batch_size: rows per batch and rank.
        world_size: number of ranks.
        least: rows that each rank must have of a last batch that stands for itself.

    Raises:
        BadInput: there are fewer rows than ranks.
    """

    def __init__(self, n: int, batch_size: int, world_size: int, least: int = 1) -> None:
        if n < world_size:
            raise BadInput(f"{n} rows cannot be shared by {world_size} processes: use fewer devices or more rows")
        self.world_size = world_size
        self.global_batch = batch_size * world_size
        full, rest = divmod(n, self.global_batch)
        joins = full > 0 and rest < least * world_size
        self.num_batches = full if rest == 0 or joins else full + 1
        self._n = n

    def of(self, k: int, rank: int) -> tuple[int, int]:
        """From which place of the order to which other the ``k``-th batch of a rank goes."""
        start = k * self.global_batch
        stop = self._n if k == self.num_batches - 1 else start + self.global_batch
        # Parts that differ by one row at most, the longer ones first (as in torch.tensor_split).
        share, extra = divmod(stop - start, self.world_size)
        first = start + rank * share + min(rank, extra)
        return first, first + share + (rank < extra)


class PermutationBatchSampler(DistributedSampler):
    """Yields one batch of row numbers at a time: slices in order, or index tensors by a seeded permutation.

    The order depends on (seed, epoch) alone (see :func:`~pme_lightning.data.orders.shuffled`), so a run repeats
    exactly. Several processes cut *global* batches from it, and each takes its part of them (see :class:`Cuts`): two
    ranks of batch ``B`` see in every step the rows that one process sees with batch ``2B``. No row is dropped or
    repeated, and every rank yields the same number of batches, so neither training nor evaluation hangs on uneven
    shards. Where rows are shuffled to train on, every rank has at least two rows of the last batch: a batch norm learns
    nothing of a single row, and torch's refuses it.

    It is a :class:`~torch.utils.data.distributed.DistributedSampler` because that is how Lightning knows that the
    sharding is done already and must not be done again on top.

    Args:
        n: number of rows.
        batch_size: rows per batch and rank.
        shuffle: permute the rows, anew in every epoch.
        seed: seed of the permutation.
        rank: this process, ``0 <= rank < world_size``.
        world_size: number of processes.
        prefetch: is told of rows some time before their batches are yielded, where there are many (see
            :meth:`ClickDataset.prefetch`).
        device: draws the permutation and has the row numbers, where rows are held in its memory.

    Raises:
        BadInput: the batch size is below 1, or there are fewer rows than processes.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        prefetch: Prefetch | None = None,
        device: torch.device | None = None,
    ) -> None:
        if batch_size < 1:
            raise BadInput(f"batch_size must be at least 1, not {batch_size}")
        cuts = Cuts(n, batch_size, world_size, least=LEAST_TO_TRAIN_ON if shuffle else 1)
        super().__init__(
            range(n),  # type: ignore[arg-type]
            num_replicas=world_size,
            rank=rank,
            shuffle=shuffle,
            seed=seed,
        )
        self.n = n
        self.batch_size = batch_size
        self.cuts = cuts
        self.num_batches = cuts.num_batches
        self._done = (-1, 0)
        self._prefetch = prefetch
        self._device = device

    def __len__(self) -> int:
        """The number of batches, the same on every rank."""
        return self.num_batches

    def go_on(self, epoch: int, batches: int) -> None:
        """Leaves out the first batches of an epoch, which were trained on before an interruption."""
        self.set_epoch(epoch)
        self._done = (epoch, batches if batches < self.num_batches else 0)

    def __iter__(self) -> Iterator[Tensor | slice]:
        """Yields this rank's batches of one epoch."""
        order = None
        if self.shuffle:
            order = shuffled(self.n, self.seed, self.epoch, self._prefetch, self._device)
        epoch, done = self._done
        for k in range(done if epoch == self.epoch else 0, self.num_batches):
            first, last = self.cuts.of(k, self.rank)
            yield slice(first, last) if order is None else order.rows(first, last)


class SequentialBatchSampler(PermutationBatchSampler, SequentialSampler):  # type: ignore[misc]
    """Yields the batches of rows that are not shuffled, in order; arguments and errors as in the base.

    Lightning's ``overfit_batches`` puts a sampler of single rows in the place of any that is no ``SequentialSampler``.
    """
