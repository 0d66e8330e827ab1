"""Batches from a stream: which rows of which shards a process and its workers read, and how they are shuffled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from pme_lightning.data.batches import LEAST_TO_TRAIN_ON, Cuts, keep
from pme_lightning.data.labels import binary_labels
from pme_lightning.data.streams import Stream
from pme_lightning.data.tokens import Matches
from pme_lightning.data.vocabulary import Vocabulary
from pme_lightning.errors import BadInput


class StreamedRows(IterableDataset):
    """Encodes the rows of a stream as they are read and yields them in batches.

    How many rows each shard has is known, so that rows are shared out by number: the shards, in an order that is drawn
    for each epoch, are one long line of rows, and every process takes a stretch of it that has as many rows as its
    batches (see :class:`~pme_lightning.data.batches.Cuts`), every worker of a process a stretch of that. No row is read
    twice or left out, and all processes have the same number of batches, however long the shards are. At the ends of a
    stretch a shard may be shared: its rows before the stretch are read and dropped, so there should be several shards
    to a worker.

    Rows are shuffled within windows of ``window`` rows. The order depends on seed, epoch, the number of processes and
    that of workers.

    Args:
        stream: the shards.
        shard_rows: rows of each shard.
        vocabulary: folder of the vocabulary.
        batch_size: rows per batch and process.
        labelled: whether batches have labels.
        shuffle: whether shards and rows are shuffled.
        window: rows that are shuffled together, in each worker.
        seed: of the order.
        rank: this process.
        world_size: number of processes.

    Raises:
        BadInput: there are fewer rows than processes.
    """

    def __init__(
        self,
        stream: Stream,
        shard_rows: Sequence[int],
        vocabulary: Path,
        batch_size: int,
        labelled: bool = True,
        shuffle: bool = False,
        window: int = 1 << 18,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__()
        self.stream = stream
        self.shard_rows = np.array(shard_rows, dtype=np.int64)
        self.labelled = labelled
        self.shuffle = shuffle
        self.window = window
        self.seed = seed
        self.rank = rank
        self.batch_size = batch_size
        self.cuts = Cuts(sum(shard_rows), batch_size, world_size, least=LEAST_TO_TRAIN_ON if shuffle else 1)
        self.renumbering: Tensor | None = None
        self.epoch_now: Callable[[], int] | None = None
        # Shared with workers that outlive an epoch: the epoch, and its batches that were done before an interruption.
        self._place = torch.zeros(2, dtype=torch.int64).share_memory_()
        self._go_on: tuple[int, int] | None = None
        self._vocabulary_folder = vocabulary
        self._vocabulary: Vocabulary | None = None

    def __len__(self) -> int:
        """The number of batches, the same in every process."""
        return self.cuts.num_batches

    def __getstate__(self) -> dict[str, Any]:
        """What workers get: they read the vocabulary themselves."""
        return {**vars(self), "epoch_now": None, "_vocabulary": None}

    def go_on(self, epoch: int, batches: int) -> None:
        """Leaves out the first batches of an epoch, which were trained on before an interruption."""
        self._go_on = (epoch, batches if batches < len(self) else 0)

    def start_epoch(self) -> None:
        """Takes note of the epoch that begins, in the process that the workers belong to."""
        epoch = self.epoch_now() if self.epoch_now is not None else int(self._place[0])
        done = self._go_on[1] if self._go_on is not None and self._go_on[0] == epoch else 0
        self._place[0], self._place[1] = epoch, done

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        """Yields the batches of this worker: each of them if there are none, else every ``num_workers``-th."""
        worker = get_worker_info()
        workers, number = (worker.num_workers, worker.id) if worker is not None else (1, 0)
        done = int(self._place[1])
        # The loader asks worker 0 first: it is the one whose turn it was when the epoch was interrupted.
        turn = (number + done) % workers
        start, sizes = self._stretch(turn, workers)
        finished = len(range(turn, done, workers))
        batches = _Regrouped(self._shuffled(start, sum(sizes), sum(sizes[:finished]), turn))
        for size in sizes[finished:]:
            yield self._batch(*batches.take(size))

    def _batch(self, ids: np.ndarray, labels: np.ndarray) -> tuple[Tensor, ...]:
        if self.renumbering is not None:
            ids = np.take(self.renumbering.numpy(), ids)
        if not self.labelled:
            return (torch.from_numpy(ids),)
        return torch.from_numpy(ids), torch.from_numpy(labels.astype(np.float32))

    def _stretch(self, turn: int, workers: int) -> tuple[int, list[int]]:
        """Where in the line of rows a worker begins, and how many rows each of its batches has."""
        # All batches but the last are full.
        full = (self.cuts.num_batches - 1) * self.batch_size
        lasts = [self.cuts.of(self.cuts.num_batches - 1, rank) for rank in range(self.rank + 1)]
        sizes = [self.batch_size] * (self.cuts.num_batches - 1) + [lasts[-1][1] - lasts[-1][0]]
        before = sum(full + last - first for first, last in lasts[:-1])
        return before + sum(sum(sizes[other::workers]) for other in range(turn)), sizes[turn::workers]

    def _shuffled(self, start: int, rows: int, skip: int, turn: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Ids and labels of a stretch, a window at a time, without the first ``skip`` rows of its order."""
        if not self.shuffle:
            yield from self._encoded(start + skip, rows - skip)
            return
        first = skip // self.window
        read = _Regrouped(self._encoded(start + first * self.window, rows - first * self.window))
        for number in range(first, -(-rows // self.window)):
            ids, labels = read.take(min(self.window, rows - number * self.window))
            order = self._generator(self.rank, turn, number).permutation(len(ids))
            order = order[skip - number * self.window if number == first else 0 :]
            yield ids[order], labels[order]

    def _generator(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.seed % (1 << 63), int(self._place[0]), *key])

    def _encoded(self, start: int, rows: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Ids and labels of a stretch of the line of rows, a slice at a time."""
        order = np.arange(len(self.shard_rows))
        if self.shuffle:
            order = self._generator().permutation(order)
        stops = np.cumsum(self.shard_rows[order])
        position, matches = int(np.searchsorted(stops, start, side="right")), Matches()
        while rows > 0:
            shard = int(order[position])
            skip = start - int(stops[position] - self.shard_rows[shard])
            wanted = min(rows, int(self.shard_rows[shard]) - skip)
            rows, start, position = rows - wanted, start + wanted, position + 1
            for encoded in self._of_shard(shard, skip, wanted, matches):
                wanted -= len(encoded[0])
                if not wanted and not rows:
                    matches.check()  # before the last rows: nobody asks for more after them
                yield encoded
            if wanted:
                raise BadInput(f"{self.stream.name} has fewer rows than were counted: did it change? run again")

    def _of_shard(
        self, shard: int, skip: int, wanted: int, matches: Matches
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        if self._vocabulary is None:
            self._vocabulary = Vocabulary.load(self._vocabulary_folder)
        schema = self._vocabulary.schema
        label = [schema.label] if self.labelled else []
        if not wanted:
            return
        for part in self.stream.slices(shard, [*label, *schema.columns()], skip):
            part = part.head(wanted)
            wanted -= len(part)
            ids = self._vocabulary.encode_fields(part, matches)
            where = self.stream.name
            yield ids, binary_labels(part.get_column(label[0]), where) if label else np.zeros(len(part), np.uint8)
            if not wanted:
                return


class StreamLoader(DataLoader):
    """A loader of :class:`StreamedRows` that tells it when an epoch begins."""

    def __iter__(self) -> Any:
        """Begins an epoch."""
        self.dataset.start_epoch()  # type: ignore[attr-defined]
        return super().__iter__()


def stream_loader(rows: StreamedRows, num_workers: int) -> StreamLoader:
    """The loader of a stream; its workers last from epoch to epoch."""
    return StreamLoader(
        rows,
        batch_size=None,
        collate_fn=keep,
        num_workers=num_workers,
        # Polars' threads do not survive a fork.
        multiprocessing_context="spawn" if num_workers else None,
        persistent_workers=num_workers > 0,
    )


class _Regrouped:
    """Takes rows off slices of any size; what is over of a slice is taken the next time."""

    def __init__(self, slices: Iterator[tuple[np.ndarray, np.ndarray]]) -> None:
        self._slices = slices
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []
        self._held = 0

    def take(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """The next rows, in arrays of their own."""
        while self._held < rows:
            self._parts.append(next(self._slices))
            self._held += len(self._parts[-1][0])
        over = self._held - rows
        last_ids, last_labels = self._parts.pop()
        cut = len(last_ids) - over
        parts = [*self._parts, (last_ids[:cut], last_labels[:cut])]
        self._parts, self._held = [(last_ids[cut:], last_labels[cut:])], over
        return np.concatenate([ids for ids, _ in parts]), np.concatenate([labels for _, labels in parts])
