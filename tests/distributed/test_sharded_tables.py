"""A table that is split over processes gives and learns what it does in one."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from pme_lightning.embedding import Shard

SCRIPT = Path(__file__).with_name("sharded_tables.py")


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sharded_tables", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("processes", [2, 4])
def test_outputs_gradients_and_steps_are_those_of_one_process(
    finish: Callable[..., str], torchrun: list[str], tmp_path: Path, tables: ModuleType, processes: int
) -> None:
    finish(*torchrun, "--nproc-per-node", str(processes), str(SCRIPT), str(tmp_path))
    assert "holds 1 tensors within other objects" in (tmp_path / "said.txt").read_text()
    saved = [load_file(tmp_path / f"{rank}.safetensors") for rank in range(processes)]
    for case in tables.CASES:
        ids = [tables.ids_of(rank, case) for rank in range(processes)]
        for kind in tables.KINDS:
            layouts = tables.table(kind, None, True).layouts
            for sparse in (True, False):
                expected = tables.run(ids, kind, None, sparse)
                key = f"{case}.{kind}.{sparse}"
                outputs = torch.cat([one[f"{key}.output"] for one in saved])
                torch.testing.assert_close(outputs, expected.pop("output"), atol=1e-5, rtol=0, msg=key)
                for name, whole in expected.items():
                    layout = layouts.get(name.removeprefix("grad."))
                    for rank, one in enumerate(saved):
                        own = whole if layout is None else layout.cut(whole, Shard(rank, processes))
                        close = {"atol": 1e-5, "rtol": 0.0}
                        if kind.endswith("_16"):
                            # Rounded by the chance of their place, which is another where all lie side by side.
                            close = {"atol": 1e-5, "rtol": 2**-7} if "grad" in name else {"atol": 0.01, "rtol": 2**-6}
                        torch.testing.assert_close(one[f"{key}.{name}"], own, **close, msg=f"{key} {name}")
                assert sum(len(one[f"{key}.{name}"]) for one in saved for name in layouts) == sum(
                    len(expected[name]) for name in layouts
                )
