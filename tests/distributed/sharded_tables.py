"""Reads and trains tables that are split over processes, and saves what came out; started by torchrun, or imported.

``sharded_tables.py FOLDER``: every process writes ``FOLDER/RANK.safetensors``.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn

from pme_lightning.embedding import FullEmbedding, MultiSizeEmbedding, RowLayout, Shard
from pme_lightning.optim import LazyAdagrad, clip_gradients
from pme_lightning.split_checkpoints import SplitTensor
from pme_lightning.whole_checkpoints import WholeCheckpoints

V, D, F = 103, 6, 3
ROWS = (9, 6, 1, 8)  # of each process: batches are uneven


def ids_of(rank: int, case: str) -> Tensor:
    """Returns the ids ``(B, F)`` of a process; in one case a process is asked for nothing, in one it has few tokens."""
    generator = torch.Generator().manual_seed(rank)
    ids = torch.randint(0, V, (ROWS[rank], F), generator=generator, dtype=torch.int32)
    # Multiples of 4: with 2 or 4 processes all of them are process 0's.
    return ids // 4 * 4 if case == "one_owner" else ids


def table(kind: str, shard: Shard | None, sparse: bool) -> FullEmbedding | MultiSizeEmbedding:
    """Returns a table of a kind; multi-size ones keep about a tenth, and most of their tokens nothing."""
    torch.manual_seed(5)
    dtype = torch.bfloat16 if kind.endswith("_16") else torch.float32
    kind = kind.removesuffix("_16")
    if kind.startswith("full"):
        made: FullEmbedding | MultiSizeEmbedding = FullEmbedding(V, D, kind == "full_linear", 0.3, shard, dtype)
    else:
        sizes = torch.zeros(V, dtype=torch.int64)
        sizes[:17] = torch.tensor([6, 6, 6, 5, 5, 4, 4, 4, 4, 3, 2, 2, 1, 1, 1, 1, 1])
        linear = None if kind == "multi" else torch.arange(V) % 3 == 0
        field_projections = F if kind == "multi_fields" else None
        if linear is not None:
            key = sizes * 2 + linear
            order = key.argsort(descending=True, stable=True)
            sizes, linear = sizes[order], linear[order]
        made = MultiSizeEmbedding.from_sizes(sizes, D, linear, 0.3, shard, field_projections, dtype=dtype)
        torch.nn.init.normal_(made.projection)
    made.sparse = sparse
    return made


def loss_of(embedding: FullEmbedding | MultiSizeEmbedding, ids: Tensor, rows: float) -> tuple[Tensor, Tensor]:
    """Returns the sum over rows of a loss, divided by ``rows``, and the output."""
    embeddings, linear = embedding.lookup(ids)
    output = embeddings.flatten(1)
    output = output if linear is None else torch.cat([output, linear], 1)
    weight = torch.linspace(-1, 1, output.shape[1])
    return (output @ weight).sin().sum() / rows, output


def run(ids: list[Tensor], kind: str, shard: Shard | None, sparse: bool) -> dict[str, Tensor]:
    """Takes two clipped steps; returns outputs of the first, gradients, and the table after both."""
    if kind == "multi_fields":
        # A token is of one field there.
        ids = [(each // F).clamp(max=V // F - 1) * F + torch.arange(F) for each in ids]
    embedding = table(kind, shard, sparse)
    parameters: list[nn.Parameter] = list(embedding.parameters())
    own = [p for name, p in embedding.named_parameters() if name != "projection"]
    optimizer = LazyAdagrad(parameters, lr=0.1)
    mine = torch.cat(ids) if shard is None else ids[shard.rank]
    total = sum(len(each) for each in ids)
    found: dict[str, Tensor] = {}
    for step in range(2):
        optimizer.zero_grad()
        loss, output = loss_of(embedding, mine, total if shard is None else total / shard.processes)
        loss.backward()
        if shard is not None and isinstance(embedding, MultiSizeEmbedding):
            assert embedding.projection.grad is not None
            dist.all_reduce(embedding.projection.grad)  # as DDP does
            embedding.projection.grad /= shard.processes
        if not step:
            found["output"] = output.detach()
            for name, parameter in embedding.named_parameters():
                assert parameter.grad is not None
                grad = parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
                found[f"grad.{name}"] = grad.clone()
        clip_gradients(parameters, 0.05, split=[] if shard is None else own)
        optimizer.step()
    return found | {name: parameter.detach().clone() for name, parameter in embedding.named_parameters()}


KINDS = ("full", "full_linear", "multi", "multi_linear", "multi_fields", "full_linear_16", "multi_linear_16")
CASES = ("uneven", "one_owner")


def write(shard: Shard, folder: Path) -> None:
    """Writes a checkpoint with split tensors, and notes what one says that would lose something."""
    torch.manual_seed(0)
    layout = table("multi_linear", None, True).layouts["values"]
    whole, rows = torch.rand(layout.shape), torch.arange(V * D).view(V, D)
    held = SplitTensor(layout.cut(whole, shard), layout, shard)
    by_row = RowLayout.of_rows(V, D)
    checkpoint = {
        "state": OrderedDict(values=held, small=torch.tensor([1.0, 2.0])[1:], flag=torch.tensor(True)),
        "rows": [SplitTensor(by_row.cut(rows, shard), by_row, shard), ("text", 3, torch.empty(0))],
    }
    files = WholeCheckpoints()
    files.save_checkpoint(checkpoint, folder / "whole.ckpt")
    if not shard.rank:
        found = torch.load(folder / "whole.ckpt", weights_only=True)
        assert torch.equal(found["state"]["values"], whole)
        assert found["state"]["small"].tolist() == [2.0]
        assert found["state"]["flag"].item() is True
        assert torch.equal(found["rows"][0], rows)
        assert found["rows"][1][:2] == ("text", 3)
        try:
            files.save_checkpoint({"table": held, "hidden": SimpleNamespace(x=torch.ones(2))}, folder / "lost.ckpt")
        except ValueError as error:
            (folder / "said.txt").write_text(str(error))
    dist.barrier()
    assert sorted(path.name for path in folder.glob("*.ckpt")) == ["whole.ckpt"]


def main() -> None:
    """Goes through all kinds of tables and batches."""
    dist.init_process_group("gloo")
    shard = Shard(dist.get_rank(), dist.get_world_size())
    found = {}
    for case in CASES:
        ids = [ids_of(rank, case) for rank in range(shard.processes)]
        for kind in KINDS:
            for sparse in (True, False):
                for name, tensor in run(ids, kind, shard, sparse).items():
                    found[f"{case}.{kind}.{sparse}.{name}"] = tensor.contiguous()
    write(shard, Path(sys.argv[1]))
    save_file(found, Path(sys.argv[1]) / f"{shard.rank}.safetensors")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
