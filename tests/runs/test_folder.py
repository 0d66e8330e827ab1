"""The run folder: named once, whole files only, gone again when a run came to nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pme_lightning.errors import BadInput
from pme_lightning.runs.files import find_run_folder
from pme_lightning.runs.folder import RunFolder


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PME_RUN_DIR", raising=False)


def created(path: str | None) -> RunFolder:
    folder = RunFolder(path, "pme-fm")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PME_RUN_DIR", raising=False)
        folder.create()
        patch.delenv("PME_RUN_DIR", raising=False)
    return folder


def test_a_new_folder_is_named_by_time_and_what_it_is() -> None:
    folder = created(None)
    assert folder.path.parent == Path("runs").absolute()
    assert re.fullmatch(r"\d{8}-\d{6}-pme-fm(-\d+)?", folder.path.name)


def test_two_runs_of_one_second_get_a_folder_each() -> None:
    first, second = RunFolder(None, "fit"), RunFolder(None, "fit")
    second.path = first.path
    with pytest.MonkeyPatch.context() as patch:
        for folder in (first, second):
            folder.create()
            patch.delenv("PME_RUN_DIR", raising=False)
    assert first.path != second.path
    assert second.path.name == f"{first.path.name}-2"
    second.discard()
    assert first.path.exists()
    assert not second.path.exists()


def test_discarding_takes_away_what_was_made_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    created("kept/a/b").discard()
    assert (tmp_path / "kept").is_dir()
    assert not (tmp_path / "kept" / "a").exists()
    created("kept").discard()
    assert (tmp_path / "kept").is_dir()


def test_discarding_leaves_the_runs_of_others(tmp_path: Path) -> None:
    mine = created(None)
    (tmp_path / "runs" / "theirs").mkdir()
    mine.write_text("config.yaml", "")
    mine.checkpoints("full").mkdir(parents=True)
    mine.discard()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["theirs"]


def test_an_empty_folder_that_was_there_is_emptied_again(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    folder = created("mine")
    folder.write_text("config.yaml", "")
    folder.vocabulary.mkdir()
    folder.discard()
    assert list((tmp_path / "mine").iterdir()) == []
    RunFolder("mine")


def test_files_appear_whole() -> None:
    folder = created("out")
    folder.write_summary({"a": 1})
    assert json.loads((folder.path / "summary.json").read_text()) == {"a": 1}
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.write_summary({"a": float("nan")})
    assert [path.name for path in folder.path.iterdir()] == ["summary.json"]


def test_places_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="is a file"):
        created("file")
    with pytest.raises(BadInput, match="cannot make the folder"):
        created("file/below")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "config.yaml").write_text("")
    with pytest.raises(BadInput, match="holds files already"):
        RunFolder("used")
    with pytest.raises(BadInput, match="cannot be used"):
        RunFolder("x" * 300)


def test_the_folder_around_a_checkpoint_is_found(tmp_path: Path) -> None:
    folder = created("out")
    folder.checkpoints("finetune").mkdir(parents=True)
    checkpoint = folder.checkpoints("finetune") / "best.ckpt"
    assert find_run_folder(checkpoint) is None
    folder.write_text("config.yaml", "seed: 1")
    folder.vocabulary.mkdir()
    assert find_run_folder(checkpoint) == folder.path
    assert find_run_folder("out/checkpoints/finetune/best.ckpt") == folder.path
    assert find_run_folder(tmp_path / "elsewhere.ckpt") is None
