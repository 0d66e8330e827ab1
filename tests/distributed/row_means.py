"""Averages sparse gradients over the processes that torchrun started: ``row_means.py FOLDER``.

Every process writes its own gradients and their mean, all dense, to ``FOLDER/RANK.safetensors``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn

from pme_lightning.optim import average_rows

V = 7


def main() -> None:
    """Rows that all have, that one has, twice the same row, and none at all."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(rank)
    table, column, other = (nn.Parameter(torch.zeros(shape)) for shape in ((V, 3), (V,), (V, 3)))
    narrow = nn.Parameter(torch.zeros(V, 3, dtype=torch.bfloat16))
    rows = [[0, 3], [3, 5, 3], [6]][rank]
    table.grad = torch.sparse_coo_tensor([rows], torch.randn(len(rows), 3), (V, 3))
    column.grad = torch.sparse_coo_tensor([rows], torch.randn(len(rows)), (V,))
    if rank != 1:  # the last batch of one process may have no row of a table
        other.grad = torch.sparse_coo_tensor([[rank]], torch.randn(1, 3), (V, 3))
    narrow.grad = torch.sparse_coo_tensor([rows], torch.randn(len(rows), 3).bfloat16(), (V, 3))
    found = {}
    named = {"table": table, "column": column, "other": other, "narrow": narrow}
    for name, parameter in named.items():
        own = parameter.grad
        found[f"{name}.own"] = torch.zeros_like(parameter).detach() if own is None else own.to_dense()
    average_rows(named.values())
    for name, parameter in named.items():
        assert parameter.grad is not None
        assert parameter.grad.is_coalesced()
        found[f"{name}.mean"] = parameter.grad.to_dense()
    save_file(found, Path(sys.argv[1]) / f"{rank}.safetensors")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
