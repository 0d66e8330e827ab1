"""The artifacts of a run are enough to repeat it, and to use its model."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pme_lightning import ExportedModel, SyntheticDataModule
from pme_lightning.cli import main
from pme_lightning.search import SearchResult


def downloaded(run: Any, folder: Path) -> Path:
    """Lays the files of all artifacts out as ``wandb artifact get --root`` does, one kind after another."""
    for name in run.artifacts.keys() & {"config", "vocabulary", "sizes", "model"}:
        for path, source in run.artifacts[name]["files"].items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    return folder


def test_a_run_has_its_files_under_its_id(pme_run: Any, pme_folder: Path) -> None:
    kept = {name: artifact for name, artifact in pme_run.artifacts.items() if not name.startswith("run-")}
    assert set(kept) == {"config", "vocabulary", "sizes", "summary", "model"}
    for name, artifact in kept.items():
        assert artifact["type"] == name
        assert set(artifact["aliases"]) == {"latest", pme_run.id}
        assert f"pme-lightning/${{kind}}:{pme_run.id}" in artifact["description"]
        # Uploaded from the run folder, not from a copy.
        assert all(Path(source) == pme_folder / path for path, source in artifact["files"].items())
        assert all((pme_folder / path).is_file() for path in artifact["files"])
    assert list(kept["model"]["files"]) == ["checkpoints/finetune/best.ckpt"]
    summary = json.loads((pme_folder / "summary.json").read_text())
    assert kept["model"]["metadata"]["test"] == summary["test"]
    assert kept["sizes"]["metadata"]["search"]["kept"] == summary["search"]["kept"]
    assert json.loads((pme_folder / "wandb_run.json").read_text())["id"] == pme_run.id


def test_every_model_of_a_curve_is_kept(pareto_run: Any) -> None:
    assert set(pareto_run.artifacts["model"]["files"]) == {
        "checkpoints/finetune-0.2/best.ckpt",
        "checkpoints/finetune-0.5/best.ckpt",
    }
    assert set(pareto_run.artifacts["sizes"]["files"]) == {"sizes/0.2.safetensors", "sizes/0.5.safetensors"}
    assert "pareto.csv" in pareto_run.artifacts["summary"]["files"]


def test_the_model_is_measured_from_its_artifacts_alone(pme_run: Any, tmp_path: Path) -> None:
    again = downloaded(pme_run, tmp_path / "again")
    model = again / next(iter(pme_run.artifacts["model"]["files"]))
    main(["test", f"ckpt_path={model}", f"run_dir={tmp_path / 'measured'}", "logger=none"])
    measured = json.loads((tmp_path / "measured" / "summary.json").read_text())
    assert measured["test"] == pme_run.summary["test"]


def test_sizes_are_trained_with_from_their_artifacts_alone(
    pme_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloaded(pme_run, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    lines = pme_run.artifacts["sizes"]["description"].splitlines()
    (words,) = [shlex.split(line)[1:] for line in lines if "finetune sizes=" in line]
    main([*words, "trainer.max_epochs=1", "run_dir=finetuned"])
    trained = json.loads((tmp_path / "finetuned" / "summary.json").read_text())
    assert trained["embedding"] == pme_run.summary["embedding"]
    # The page of the docs has the same lines.
    page = (Path(__file__).parents[2] / "docs" / "dashboards.md").read_text()
    assert f"    pme-lightning {shlex.join(words)}\n" in page


def test_an_export_is_served_from_its_artifacts_alone(
    pme_folder: Path, tmp_path: Path, read: Callable[[Path], Any]
) -> None:
    folder = tmp_path / "exported"
    best = pme_folder / "checkpoints" / "finetune" / "best.ckpt"
    main(["export", f"ckpt_path={best}", "logger=wandb", f"run_dir={folder}"])
    run = read(folder)
    artifact = run.artifacts["model"]
    assert set(artifact["files"]) == {"model.pt2", "ids.npy"}
    summary = json.loads((folder / "summary.json").read_text())
    assert artifact["metadata"]["exported"]["embedding"]["bytes"] == summary["exported"]["embedding"]["bytes"]
    assert run.config["inputs"]["model"].startswith("pme-lightning/model:")
    line = next(line for line in artifact["description"].splitlines() if "ExportedModel" in line)
    again = downloaded(run, tmp_path / "run")
    said = subprocess.run(
        [sys.executable, "-c", line.split("'")[1]], cwd=again.parent, capture_output=True, text=True, check=True
    ).stdout
    assert str(summary["exported"]["embedding"]["bytes"]) in said
    here, there = (ExportedModel.load(each) for each in (folder, again))
    data = SyntheticDataModule(rows=6000, tokens=600, num_fields=4)
    data.setup()
    ids = data.data.splits["test"][0]
    assert there.predict_ids(ids).tolist() == here.predict_ids(ids).tolist()


def test_the_run_is_repeated_from_its_configuration(pme_run: Any, tmp_path: Path) -> None:
    again = downloaded(pme_run, tmp_path / "again")
    words = ["--config", str(again / "config.yaml"), "logger=none", f"run_dir={tmp_path / 'repeated'}"]
    main([*words, "baseline=false"])
    repeated = json.loads((tmp_path / "repeated" / "summary.json").read_text())
    assert repeated["test"] == pme_run.summary["test"]
    first, second = (SearchResult.load(folder / "sizes.safetensors") for folder in (again, tmp_path / "repeated"))
    assert second.fingerprint() == first.fingerprint()


def test_what_is_uploaded_is_chosen_and_what_is_used_is_told(
    pme_run: Any, pme_folder: Path, tmp_path: Path, read: Callable[[Path], Any]
) -> None:
    folder = tmp_path / "finetuned"
    sizes = pme_folder / "sizes.safetensors"
    words = ["finetune", f"sizes={sizes}", "transfer.init=scratch", "logger=wandb", f"run_dir={folder}"]
    main([*words, "logger.artifacts=[config,summary]", "trainer.max_epochs=1"])
    run = read(folder)
    assert {name for name in run.artifacts if not name.startswith("run-")} == {"config", "summary"}
    assert run.config["inputs"] == {"sizes": f"pme-lightning/sizes:{pme_run.id}"}
    assert run.table("result/models")[0]["model"] == "multi-size"
