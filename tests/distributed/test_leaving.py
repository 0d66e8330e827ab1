"""Processes that have done their part take leave of each other: gloo aborts in those that do not, one in six or so."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
# Of two functions that are to be called at exit, the one that was registered first is called last.
SCRIPT = """
import atexit, sys
import torch.distributed as dist
atexit.register(lambda: print(f"connected at the end: {dist.is_initialized()}", flush=True))
from pme_lightning.cli import main
main(sys.argv[1:])
assert dist.is_initialized(), "a second run of this process could not go on with the connection"
"""


def test_no_process_is_connected_when_its_interpreter_ends(
    finish: Callable[..., str], small: list[str], torchrun: list[str], tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    words = ["backbone=deepfm", "search=uniform", "baseline=false", *small, "trainer.max_epochs=1", "trainer=ddp"]
    said = finish(*torchrun, "--nproc-per-node", "2", str(script), *words, "trainer.accelerator=cpu")
    # Not by lines: two processes may write theirs into one.
    assert re.findall("connected at the end: (True|False)", said) == ["False", "False"]
