"""A checkpoint of tensors that are split over processes: one file that holds the whole of each."""

from __future__ import annotations

import copy
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from pme_lightning.embedding.exchange import meeting_device
from pme_lightning.embedding.row_chunks import row_chunks
from pme_lightning.embedding.shard import Part, RowLayout, Shard

# Values that travel to the main process at a time.
_SLICE = 1 << 20


@dataclass(frozen=True)
class SplitTensor:
    """What one process holds of a tensor that is split over processes; a checkpoint holds the whole of it.

    Attributes:
        held: This process's rows.
        layout: How the whole tensor lies.
        shard: This process.
    """

    held: Tensor
    layout: RowLayout
    shard: Shard


def has_split_tensors(checkpoint: Any) -> bool:
    """Whether a checkpoint holds any."""
    return any(isinstance(leaf, SplitTensor) for leaf in _leaves(checkpoint))


def write_split(checkpoint: Any, path: Path) -> None:
    """Writes a checkpoint of split tensors as one of whole tensors, in the main process.

    First comes a file with room for all tensors, then each is written to its place. Nothing is gathered in memory: the
    main process gets the rows of the others a slice at a time. Meanwhile these call :func:`send_split` with theirs.
    """
    with FakeTensorMode():
        empty = _mapped(checkpoint, _without_data)
    with torch.serialization.skip_data(materialize_fake_tensors=True):
        torch.save(empty, path)
    with zipfile.ZipFile(path) as file_of_parts:
        parts = sum("/data/" in name for name in file_of_parts.namelist())
    tensors = sum(isinstance(leaf, (Tensor, SplitTensor)) for leaf in _leaves(checkpoint))
    if parts != tensors:
        raise ValueError(
            f"a checkpoint of split tables holds {parts - tensors} tensors within other objects "
            "than dictionaries, lists and tuples, and they would be lost: which callback keeps such?"
        )
    with FakeTensorMode():
        places = torch.load(path, weights_only=False)  # what was written just now
    with path.open("rb+") as file:
        for leaf, place in zip(_leaves(checkpoint), _leaves(places), strict=True):
            if not isinstance(place, Tensor) or not place.numel():
                continue
            begin = place.untyped_storage()._checkpoint_offset
            assert begin is not None
            offset = begin + int(place.storage_offset()) * place.element_size()
            if isinstance(leaf, SplitTensor):
                _bring(leaf, file, offset)
            else:
                file.seek(offset)
                file.write(_bytes(leaf))


def send_split(checkpoint: Any) -> None:
    """Sends this process's rows of the split tensors of a checkpoint to the main one, which writes them."""
    for leaf in _leaves(checkpoint):
        if isinstance(leaf, SplitTensor):
            _bring(leaf, None, 0)


def _bring(split: SplitTensor, file: BinaryIO | None, offset: int) -> None:
    """Brings the rows of all processes to the main one, slice by slice, which writes them to ``offset`` of the file."""
    size = split.held.element_size()
    ranks = [list(split.layout.parts(Shard(rank, split.shard.processes))) for rank in range(split.shard.processes)]
    for part, others in zip(split.layout.parts(split.shard), zip(*ranks, strict=True), strict=True):
        if not part.width:
            continue
        own = part.of_held(split.held)
        for rows in row_chunks(0, part.count, max(1, _SLICE // part.width)):
            slices = _gathered(own, part, others, rows.start, rows.stop)
            if file is None or slices is None:
                continue
            whole = torch.empty(rows.stop - rows.start, part.width, dtype=own.dtype)
            for other, piece in zip(others, slices, strict=True):
                whole[(other.first - rows.start) % other.step :: other.step] = piece.cpu()
            file.seek(offset + size * (part.offset + rows.start * part.width))
            file.write(_bytes(whole))


def _gathered(own: Tensor, part: Part, others: tuple[Part, ...], start: int, stop: int) -> list[Tensor] | None:
    """Returns, in the main process, the rows of each process between two rows of the whole table."""
    ranges = [(other.held_before(start), other.held_before(stop)) for other in others]
    longest = max(end - begin for begin, end in ranges)
    begin, end = part.held_before(start), part.held_before(stop)
    padded = torch.zeros(longest, part.width, dtype=own.dtype, device=meeting_device())
    padded[: end - begin] = own[begin:end]
    pieces = [torch.empty_like(padded) for _ in others] if dist.get_rank() == 0 else None
    dist.gather(padded, pieces)
    if pieces is None:
        return None
    return [piece[: last - first] for piece, (first, last) in zip(pieces, ranges, strict=True)]


def _without_data(leaf: Any) -> Any:
    if isinstance(leaf, SplitTensor):
        return torch.empty(leaf.layout.shape, dtype=leaf.held.dtype)
    # Each tensor on its own, as it is written: parts of one storage would bring all of it along.
    return torch.empty(leaf.shape, dtype=leaf.dtype) if isinstance(leaf, Tensor) else leaf


def _bytes(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _mapped(node: Any, change: Callable[[Any], Any]) -> Any:
    """Returns a checkpoint with its leaves changed; what is neither a mapping nor a sequence is a leaf."""
    if isinstance(node, dict):
        changed = copy.copy(node)  # a module's state dict has attributes
        for key, value in node.items():
            changed[key] = _mapped(value, change)
        return changed
    if type(node) in (list, tuple):
        return type(node)(_mapped(value, change) for value in node)
    return change(node)


def _leaves(node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        for value in node.values():
            yield from _leaves(value)
    elif type(node) in (list, tuple):
        for value in node:
            yield from _leaves(value)
    else:
        yield node
