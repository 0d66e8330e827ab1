"""The export command, through the real command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from pme_lightning import CTRModule, ExportedModel, SearchResult, SyntheticDataModule
from pme_lightning.cli import main
from pme_lightning.pages.saved_run import read_run

Run = Callable[..., dict[str, Any]]


def best(run: Path, phase: str = "finetune") -> str:
    return f"ckpt_path={run}/checkpoints/{phase}/best.ckpt"


def test_export_writes_a_program_and_says_what_it_is_worth(
    run: Run, pme_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = run("export", best(pme_run), small=False)
    folder = summary["folder"]
    names = {"model.pt2", "ids.npy", "vocabulary", "config.yaml", "summary.json", "report.html", "findings.json"}
    assert {path.name for path in folder.iterdir()} == names
    exported, checkpoint = summary["exported"], summary["embedding"]
    values = checkpoint["parameters"] - 8 * 8
    assert exported["embedding"]["bits"] == 8
    assert exported["embedding"]["bytes"] == values + 4 * (8 * 8 + 4 * 9)
    assert exported["embedding"]["fraction"] == exported["embedding"]["bytes"] / (4 * checkpoint["full_parameters"])
    assert summary["test"] is None
    valid = run("validate", best(pme_run), small=False)["valid"]
    assert summary["valid"] == valid
    assert exported["valid"] == pytest.approx(valid, abs=2e-3)
    assert exported["valid"] != valid
    said = capsys.readouterr().out
    assert "the exported table has" in said
    assert "against the checkpoint" in said

    model = ExportedModel.load(folder)
    data = SyntheticDataModule(rows=6000, tokens=600, num_fields=4)
    data.setup()
    ids, labels = data.data.splits["valid"]
    position = SearchResult.load(pme_run / "sizes.safetensors").order().argsort()
    with torch.no_grad():
        module = CTRModule.load_from_checkpoint(pme_run / "checkpoints" / "finetune" / "best.ckpt")
        expected = torch.sigmoid(module(position[torch.from_numpy(ids).long()]))
    found = model.predict_ids(ids)
    assert found == pytest.approx(expected.numpy(), abs=0.02)
    loss = -np.log(np.where(labels > 0, found, 1 - found)).mean()
    assert loss == pytest.approx(exported["valid"]["logloss"], abs=1e-5)


@pytest.mark.parametrize(
    ("budget", "bits", "most"), [("15%@8bit", 8, 2880), ("2kB@4bit", 4, 2000), ("0.2@16bit", 16, 3840)]
)
def test_a_budget_is_of_what_is_exported(run: Run, budget: str, bits: int, most: int) -> None:
    trained = run("backbone=dcn", "backbone.hidden_units=[8]", f"search.budget={budget}", "baseline=false")
    exported = run("export", best(trained["folder"]), f"bits={bits}", small=False)["exported"]["embedding"]
    # Rows of up to eight values: the last one may not have fitted; with 4 bits the tenth that keeps 8 may not be full.
    assert most - (60 if bits == 4 else 20) < exported["bytes"] <= most
    assert trained["search"]["budget"] == budget.replace("0.2", "20%").replace("kB", "KB")


def test_export_of_the_full_size_model_with_all_its_bits(run: Run, pme_run: Path) -> None:
    summary = run("export", best(pme_run, "full"), "bits=32", small=False)
    exported = summary["exported"]
    assert exported["embedding"]["bytes"] == summary["embedding"]["bytes"] == 4 * 600 * 9
    assert exported["valid"] == pytest.approx(summary["valid"], abs=1e-4)  # rounding swaps a pair
    assert ExportedModel.load(summary["folder"]).ids.tolist() == list(range(600))


def test_the_written_config_exports_again(run: Run, pme_run: Path) -> None:
    first = run("export", best(pme_run), "bits=4", small=False)
    config = yaml.safe_load((first["folder"] / "config.yaml").read_text())
    assert config["command"] == "export"
    assert config["bits"] == 4
    again = run(f"--config={first['folder']}/config.yaml", small=False)
    assert again["exported"] == first["exported"]


def test_the_report_shows_both(run: Run, pme_run: Path) -> None:
    folder = run("export", best(pme_run), small=False)["folder"]
    assert read_run(folder).summary["exported"]["embedding"]["bits"] == 8
    page = (folder / "report.html").read_text()
    for word in ("checkpoint", "exported", "bits of a value", "The exported table has"):
        assert word in page


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["export"], "export needs a checkpoint: ckpt_path=PATH"),
        (["export", "ckpt_path=typo.ckpt"], "there is no file 'typo.ckpt'"),
        (["export", "bits=5"], "bits: expected one of 32, 16, 8, 4"),
        (["fit", "bits=8"], "bits belongs to the export command; leave it out"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert exit_.value.code == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "\n" not in error
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_of_an_export_that_fails(
    pme_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("no way\nto say this")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.export.export", refuse)
    with pytest.raises(SystemExit) as exit_:
        main(["export", best(pme_run)])
    assert exit_.value.code == 2
    assert "torch.export cannot take the backbone DeepFM: no way" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
