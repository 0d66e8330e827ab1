"""A checkpoint is there as a whole or as the one before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pme_lightning.whole_checkpoints import WholeCheckpoints, _save


def test_a_checkpoint_that_fails_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "below" / "last.ckpt"
    files = WholeCheckpoints()
    files.save_checkpoint({"step": torch.tensor(1)}, path)

    def breaks(_: dict[str, Any], file: Any) -> None:
        file.write(b"the beginning of")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", breaks)
    with pytest.raises(OSError, match="no space left"):
        files.save_checkpoint({"step": torch.tensor(2)}, path)
    assert files.load_checkpoint(path, weights_only=True) == {"step": torch.tensor(1)}
    assert [each.name for each in path.parent.iterdir()] == ["last.ckpt"]


def test_a_full_disk_is_said_to_be_full() -> None:
    with open("/dev/full", "wb", buffering=0) as file, pytest.raises(OSError, match="No space left on device"):
        _save({"weight": torch.zeros(1 << 16)}, file)
