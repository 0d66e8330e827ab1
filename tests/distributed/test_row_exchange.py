"""Sparse gradients over processes are averaged as dense ones are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("row_means.py")


def test_every_process_gets_the_mean_of_all(finish: Callable[..., str], torchrun: list[str], tmp_path: Path) -> None:
    finish(*torchrun, "--nproc-per-node", "3", str(SCRIPT), str(tmp_path))
    saved = [load_file(tmp_path / f"{rank}.safetensors") for rank in range(3)]
    for name in ("table", "column", "other", "narrow"):
        expected = torch.stack([one[f"{name}.own"].float() for one in saved]).mean(0).to(saved[0][f"{name}.own"].dtype)
        assert expected.any()
        for one in saved:
            torch.testing.assert_close(one[f"{name}.mean"], expected)
            assert torch.equal(one[f"{name}.mean"], saved[0][f"{name}.mean"]), "not the same to the last bit"
