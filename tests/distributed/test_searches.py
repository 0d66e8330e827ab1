"""Scores over two processes are those of one that sees the same batches, for every kind of search."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("searches.py")


def test_every_search_scores_as_one_process_does(
    finish: Callable[..., str], torchrun: list[str], tmp_path: Path
) -> None:
    finish(*torchrun, "--nproc-per-node", "2", str(SCRIPT), str(tmp_path))
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    spec = importlib.util.spec_from_file_location("searches", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    alone = module.searched(128, accumulated=2)
    split = module.searched(128, 1, 2, module.SPLIT)
    alone |= {f"split.{name}": tensor for name, tensor in split.items()}
    # Each process has random numbers of its own while it trains.
    assert not torch.equal(first.pop("drawn"), second.pop("drawn"))
    # But not where copies of a table are rounded at random.
    table, copy = first.pop("table"), second.pop("table")
    assert table.dtype == torch.bfloat16
    assert torch.equal(table, copy)
    assert set(first) == set(second) == set(alone)
    for name, expected in alone.items():
        assert torch.equal(first[name], second[name]), name
        if name.endswith(".sizes"):
            assert torch.equal(first[name], expected), name
        else:
            # Relative to the largest: values below it by orders of magnitude are differences of such.
            torch.testing.assert_close(
                first[name],
                expected,
                rtol=1e-5,
                atol=1e-5 * float(expected.max()),
                msg=lambda told, name=name: f"{name}: {told}",
            )
