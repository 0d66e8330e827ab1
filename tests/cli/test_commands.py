"""Every command, through the real command line."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml

from pme_lightning.cli import main
from pme_lightning.data.vocabulary import Vocabulary
from pme_lightning.module import CTRModule
from pme_lightning.runs.runner import Runner
from pme_lightning.search import SearchResult

Run = Callable[..., dict[str, Any]]
BACKBONES = ["fm", "deepfm", "dcn", "dcnv2", "autoint", "autoint_plus"]
FAST = {
    "fm": [],
    "autoint": ["backbone.attention_dim=8", "backbone.num_layers=1"],
    "autoint_plus": ["backbone.attention_dim=8", "backbone.num_layers=1", "backbone.hidden_units=[16]"],
}


def fast(backbone: str) -> list[str]:
    return [f"backbone={backbone}", *FAST.get(backbone, ["backbone.hidden_units=[16]"])]


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_pme_runs_every_backbone_within_its_budget(run: Run, backbone: str) -> None:
    summary = run(*fast(backbone), "search.budget=0.3")
    first_order = backbone in ("fm", "deepfm")
    assert summary["embedding"]["full_parameters"] == 600 * (8 + first_order)
    assert 0.25 < summary["embedding"]["fraction"] <= 0.3
    projections = 4 if summary["search"]["axes"] == "field" else 1
    assert summary["search"]["kept"] + projections * 8 * 8 == summary["embedding"]["parameters"]
    assert summary["baseline"]["embedding"]["fraction"] == 1.0
    for model in (summary, summary["baseline"]):
        assert 0.4 < model["test"]["auc"] < summary["data"]["best_auc"]
        assert model["test"]["logloss"] > summary["data"]["best_logloss"]


def test_what_was_asked_for_is_shown_and_a_budget_for_all_is_told(
    shell: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    callbacks = "trainer.callbacks=[lightning.pytorch.callbacks.ModelSummary]"
    small = ["data.rows=2000", "data.tokens=200", "baseline=false", "trainer.max_epochs=1"]
    done = shell(*fast("fm"), *small, "search.budget=1GB", "trainer.profiler=simple", callbacks)
    assert done.returncode == 0
    assert "the budget, 1GB, is more than the whole table takes: nothing will be pruned" in done.stdout
    assert "Profiler Report" in done.stderr
    assert "Trainable params" in done.stderr


def test_averaged_weights_are_validated_kept_and_tested(run: Run) -> None:
    """Lightning's own callback: the fine-tune averages the rebuilt model, the search nothing."""
    words = [*fast("deepfm"), "search.budget=0.3"]
    averaged = run(*words, "averaging=ema", "averaging.decay=0.9", "averaging.update_every_n_steps=2")
    plain = run(*words)
    assert SearchResult.load(averaged["folder"] / "sizes.safetensors").sizes.equal(
        SearchResult.load(plain["folder"] / "sizes.safetensors").sizes
    )
    for phase, told in (("finetune", averaged), ("full", averaged["baseline"])):
        path = averaged["folder"] / "checkpoints" / phase / "best.ckpt"
        best = torch.load(path, map_location="cpu", weights_only=True)
        weights = [name for name, each in best["state_dict"].items() if each.is_floating_point()]
        assert any(not best["state_dict"][name].equal(best["current_model_state"][name]) for name in weights)
        again = run("test", f"ckpt_path={path}")
        assert again["test"] == pytest.approx(told["test"], abs=1e-6)
    assert averaged["test"] != plain["test"]
    given = (
        "[{class_path: lightning.pytorch.callbacks.EMAWeightAveraging, "
        "init_args: {decay: 0.9, update_every_n_steps: 2, use_buffers: false}}]"
    )
    assert run(*words, "baseline=false", f"trainer.callbacks={given}")["test"] == averaged["test"]


def test_averages_that_a_short_training_cannot_fill_are_told(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fit", *fast("fm"), "averaging=ema"]
    run(*words)
    said = "  averages span some 100 steps and this training has"
    assert said in capsys.readouterr().out
    run(*words, "averaging.decay=0.5", "averaging.update_every_n_steps=1")
    assert "averages span" not in capsys.readouterr().out
    words += ["averaging.decay=0.5", "averaging.update_every_n_steps=4"]
    run(*words)
    assert "averages span" not in capsys.readouterr().out
    run(*words, "trainer.max_steps=20")
    assert "averages span some 8 steps and this training has 20 at most" in capsys.readouterr().out


def test_a_search_takes_the_steps_that_it_says(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of the batches that limits leave; no validation that it has not stops it before."""
    stops = "[{class_path: lightning.pytorch.callbacks.EarlyStopping, init_args: {monitor: valid_logloss}}]"
    tiny = ["data.rows=1000", "data.tokens=100", "data.num_fields=3", "data.batch_size=50", "model.embedding_dim=4"]
    words = ["search", "search=fisher", "backbone=fm", "trainer.limit_train_batches=5", f"trainer.callbacks={stops}"]
    assert run(*words, *tiny, small=False)["search"]["epochs"] == 1
    assert "search: PruningCallback, 5 steps\n" in capsys.readouterr().out


def test_the_summary_and_the_folder_are_as_documented(pme_run: Path) -> None:
    summary = read(pme_run)
    assert list(summary) == [
        "version",
        "command",
        "seed",
        "data",
        "search",
        "embedding",
        "finetune",
        "test",
        "baseline",
    ]
    assert summary["version"] == 1
    assert summary["command"] == "pme"
    assert summary["seed"] == 42
    assert summary["data"]["name"] == "synthetic"
    assert summary["data"]["rows"] == {"train": 4800, "valid": 600, "test": 600}
    assert summary["data"]["fields"] == 4
    assert summary["data"]["tokens"] == 600
    assert list(summary["search"]) == ["seconds", "epochs", "criterion", "axes", "budget", "kept"]
    assert list(summary["embedding"]) == ["full_parameters", "parameters", "fraction", "bytes", "index_bytes"]
    assert list(summary["finetune"]) == ["seconds", "epochs", "best_epoch", "rows_per_second"]
    assert list(summary["test"]) == ["auc", "logloss"]
    assert summary["embedding"]["bytes"] == 4 * summary["embedding"]["parameters"]
    names = {path.name for path in pme_run.iterdir()}
    assert names == {"config.yaml", "sizes.safetensors", "vocabulary", "checkpoints", "logs", "findings.json"} | {
        "summary.json",
        "report.html",
    }
    for phase in ("finetune", "full"):
        assert {path.name for path in (pme_run / "checkpoints" / phase).iterdir()} == {"best.ckpt", "last.ckpt"}
    assert not list(pme_run.rglob(".*partial*"))


def test_the_checkpoint_is_physically_small_and_loads_alone(pme_run: Path) -> None:
    summary = read(pme_run)
    small, full = (
        CTRModule.load_from_checkpoint(pme_run / "checkpoints" / phase / "best.ckpt") for phase in ("finetune", "full")
    )
    assert small.embedding.num_parameters == summary["embedding"]["parameters"]
    sizes = SearchResult.load(pme_run / "sizes.safetensors")
    assert [c.count for c in small.embedding.classes] == [count for _, _, count in sizes.classes()]
    assert full.embedding.num_parameters == 600 * 9
    saved = (5400 - summary["embedding"]["parameters"]) * 4
    files = [(pme_run / "checkpoints" / phase / "best.ckpt").stat().st_size for phase in ("full", "finetune")]
    # Weights and both of Adam's moments, less what the file spends on naming some twenty tables instead of two.
    assert files[0] - files[1] > 1.5 * saved


def test_the_csv_logger_writes_the_curves(pme_run: Path) -> None:
    for phase in ("finetune", "full"):
        curve = pl.read_csv(pme_run / "logs" / phase / "metrics.csv")
        assert {"valid_auc", "valid_logloss", "train_loss"} <= set(curve.columns)
        assert not [name for name in curve.columns if name.startswith("summary")]
    (said,) = pl.read_csv(pme_run / "logs" / "summary" / "metrics.csv").to_dicts()
    summary = read(pme_run)
    assert said["test/auc"] == pytest.approx(summary["test"]["auc"], abs=1e-6)
    assert said["baseline/test/auc"] == pytest.approx(summary["baseline"]["test"]["auc"], abs=1e-6)


@pytest.mark.parametrize("phase", ["finetune", "full"])
def test_test_measures_a_checkpoint_again(run: Run, pme_run: Path, phase: str) -> None:
    summary = run("test", f"ckpt_path={pme_run / 'checkpoints' / phase / 'best.ckpt'}", small=False)
    expected = read(pme_run) if phase == "finetune" else read(pme_run)["baseline"]
    assert summary["test"] == pytest.approx(expected["test"], abs=1e-6)
    assert summary["embedding"] == expected["embedding"]


def test_validate_measures_the_validation_split(run: Run, pme_run: Path) -> None:
    summary = run("validate", f"ckpt_path={pme_run}/checkpoints/finetune/best.ckpt", small=False)
    curve = pl.read_csv(pme_run / "logs" / "finetune" / "metrics.csv")
    assert summary["valid"]["auc"] == pytest.approx(curve["valid_auc"].max(), abs=1e-6)
    assert summary["test"] is None


def test_predict_writes_a_probability_a_row(run: Run, pme_run: Path) -> None:
    from torchmetrics.functional.classification import binary_auroc

    from pme_lightning.data import SyntheticDataModule

    summary = run("predict", f"ckpt_path={pme_run}/checkpoints/finetune/best.ckpt", small=False)
    found = pl.read_parquet(summary["folder"] / "predictions.parquet")["probability"].to_torch()
    data = SyntheticDataModule(rows=6000, tokens=600, num_fields=4)
    data.prepare_data()
    data.setup()
    labels = torch.from_numpy(data.data.splits["test"][1]).int()
    assert binary_auroc(found, labels).item() == pytest.approx(read(pme_run)["test"]["auc"], abs=1e-6)


def test_running_again_from_the_written_config_gives_the_same(run: Run, pme_run: Path) -> None:
    summary = run(f"--config={pme_run}/config.yaml", small=False)
    again = SearchResult.load(summary["folder"] / "sizes.safetensors")
    before = SearchResult.load(pme_run / "sizes.safetensors")
    assert torch.equal(again.sizes, before.sizes)
    assert torch.equal(again.linear, before.linear)
    assert summary["test"] == pytest.approx(read(pme_run)["test"], abs=1e-6)
    assert summary["baseline"]["test"] == pytest.approx(read(pme_run)["baseline"]["test"], abs=1e-6)


def test_the_printed_config_is_the_whole_one_and_reads_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["fit", "backbone=dcn", "optimizer.lr=0.5", "--print_config"])
    printed = capsys.readouterr().out
    config = yaml.safe_load(printed)
    assert config["command"] == "fit"
    assert config["optimizer"]["init_args"]["lr"] == 0.5
    assert config["backbone"]["init_args"]["num_cross_layers"] == 3
    (tmp_path / "whole.yaml").write_text(printed)
    main(["--config=whole.yaml", "--print_config"])
    assert capsys.readouterr().out == printed
    assert not (tmp_path / "runs").exists()


def test_search_then_finetune_equals_pme(run: Run, pme_run: Path) -> None:
    words = ["backbone=deepfm", "backbone.hidden_units=[16]"]
    searched = run("search", *words, "search.budget=0.3")
    sizes = searched["folder"] / "sizes.safetensors"
    assert searched["test"] is None
    assert searched["embedding"] == read(pme_run)["embedding"]
    # The rest comes from the run that found them.
    tuned = run("finetune", f"sizes={sizes}", small=False)
    assert tuned["search"] is None
    assert tuned["embedding"] == read(pme_run)["embedding"]
    assert tuned["test"] == pytest.approx(read(pme_run)["test"], abs=1e-6)


def test_finetune_starts_warm_from_the_searched_model(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["optimizer=adam", "optimizer.lr=0.02", "search.schedule.epochs=3", "search.schedule.min_steps=0"]
    searched = run("search", "backbone=fm", "search.budget=0.5", *words)
    sizes = f"sizes={searched['folder']}/sizes.safetensors"
    # With a learning rate of nothing the fine-tune measures what it starts from.
    still = ["optimizer.lr=1e-12", "trainer.max_epochs=1"]
    started = run("finetune", sizes, "transfer.init=warm", *still, small=False)
    fresh = run("finetune", sizes, "transfer.init=scratch", *still, small=False)
    assert started["test"]["logloss"] < fresh["test"]["logloss"] - 0.005
    with pytest.raises(SystemExit):
        main(["finetune", sizes, "transfer.init=warm", "backbone=dcn"])
    said = capsys.readouterr().err
    assert "was trained with backbone pme_lightning.backbones.FM" in said
    assert "it is the model that was searched, from which fine-tunes start: transfer.init=scratch" in said
    (searched["folder"] / "checkpoints" / "search" / "last.ckpt").unlink()
    monkeypatch.setattr(Runner, "_data", lambda _: pytest.fail("it read the data"))
    with pytest.raises(SystemExit):
        run("finetune", sizes, "transfer.init=warm", *still, small=False)
    assert "transfer.init=warm needs the model that was searched" in capsys.readouterr().err


def test_fit_trains_the_full_size_model_alone(run: Run, pme_run: Path) -> None:
    summary = run("fit", "backbone=deepfm", "backbone.hidden_units=[16]")
    assert summary["search"] is None
    assert summary["baseline"] is None
    assert summary["embedding"]["fraction"] == 1.0
    assert summary["test"] == pytest.approx(read(pme_run)["baseline"]["test"], abs=1e-6)
    assert not (summary["folder"] / "sizes.safetensors").exists()


@pytest.mark.parametrize("search", ["at_init", "uniform", "popularity", "random", "magnitude", "mde", "sseds", "pep"])
def test_every_other_search_runs(run: Run, search: str) -> None:
    words = ["search.schedule.batches=5"] if search in ("at_init", "sseds") else []
    summary = run("backbone=fm", f"search={search}", *words, "search.budget=0.3", "baseline=false")
    assert summary["embedding"]["fraction"] <= 0.3
    assert summary["baseline"] is None
    sizes = SearchResult.load(summary["folder"] / "sizes.safetensors").sizes
    if search == "uniform":
        assert sizes.max() - sizes.min() <= 1
    if search in ("uniform", "popularity", "random", "mde"):
        assert summary["search"]["epochs"] == 0


def test_a_budget_in_bytes_is_kept(run: Run) -> None:
    summary = run("backbone=fm", "search.budget=4KB", "baseline=false")
    assert 3900 < summary["embedding"]["bytes"] <= 4000


def test_values_of_16_bits_take_half_the_bytes(run: Run, pme_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["backbone=deepfm", "backbone.hidden_units=[16]"]
    summary = run(*words, "search.budget=0.3", "model.embedding_bits=16")
    wide = read(pme_run)
    assert summary["embedding"]["parameters"] == wide["embedding"]["parameters"]
    assert summary["embedding"]["bits"] == summary["baseline"]["embedding"]["bits"] == 16
    assert summary["baseline"]["embedding"] == wide["baseline"]["embedding"] | {
        "bits": 16,
        "bytes": 2 * 600 * 9,
        "fraction": 0.5,
    }
    size = 2 * (summary["embedding"]["parameters"] - 8 * 8) + 4 * 8 * 8
    assert summary["embedding"]["bytes"] == size
    assert summary["embedding"]["fraction"] == size / (4 * 600 * 9)
    assert f"saved {1 - size / (2 * 600 * 9):.1%} of the embedding's bytes" in capsys.readouterr().out
    assert summary["test"]["auc"] == pytest.approx(wide["test"]["auc"], abs=0.01)

    best = summary["folder"] / "checkpoints" / "finetune" / "best.ckpt"
    state = torch.load(best, weights_only=True)
    values = state["state_dict"]["embedding.values"]
    assert values.dtype == torch.bfloat16
    sums = [each["sum"] for each in state["optimizer_states"][0]["state"].values() if "sum" in each]
    assert [(each.dtype, each.shape) for each in sums] == [(torch.bfloat16, values.shape)]
    assert run("test", f"ckpt_path={best}", small=False)["test"] == pytest.approx(summary["test"], abs=1e-6)
    exported = run("export", f"ckpt_path={best}", "bits=32", small=False)
    assert exported["exported"]["valid"] == pytest.approx(exported["valid"], abs=1e-4)
    *_, line = (line for line in capsys.readouterr().out.splitlines() if "bits of a value" in line)
    assert line.replace("│", " ").split()[-2:] == ["16", "32"]
    with pytest.raises(SystemExit):
        run("test", f"ckpt_path={best}", "model.embedding_bits=32", small=False)
    assert "was trained with embedding_bits 16, not 32" in capsys.readouterr().err

    # As many bytes hold twice the values.
    twice = run(*words, "search.budget=4KB", "model.embedding_bits=16", "baseline=false")
    assert 3900 < twice["embedding"]["bytes"] <= 4000
    assert twice["embedding"]["parameters"] > 1800
    found = run("search", *words, "search.budget=4KB", "model.embedding_bits=16")
    assert found["embedding"] == twice["embedding"]


@pytest.mark.parametrize("search", ["at_init", "magnitude", "fisher", "sseds", "mde", "pep", "gradual"])
def test_every_kind_of_search_knows_values_of_16_bits(run: Run, search: str) -> None:
    words = ["search.schedule.batches=5"] if search in ("at_init", "sseds") else []
    if search == "gradual":
        words = ['search.schedule={"class_path":"pme_lightning.search.Gradual","init_args":{"prunings":3}}']
    search = "fisher" if search == "gradual" else search
    words += ["backbone=fm", f"search={search}", "search.budget=0.3", "baseline=false", "model.embedding_bits=16"]
    summary = run(*words)
    assert 0.1 < summary["embedding"]["fraction"] <= 0.16
    assert summary["test"]["auc"] > 0.55


def test_switching_the_backbone_carries_nothing_over(pme_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["backbone=deepfm", "backbone.hidden_units=[7]", "backbone.dropout=0.5", "--print_config"]
    main(words)
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["backbone"]["init_args"]["hidden_units"] == [7]
    for switch in ("backbone=dcn", "backbone=pme_lightning.backbones.DCN", "--backbone=pme_lightning.backbones.DCN"):
        main([f"--config={pme_run}/config.yaml", switch, "--print_config"])
        backbone = yaml.safe_load(capsys.readouterr().out)["backbone"]
        assert backbone["class_path"] == "pme_lightning.backbones.DCN"
        assert backbone["init_args"]["hidden_units"] == [400, 400, 400]
        assert backbone["init_args"]["dropout"] == 0.0


def test_predict_needs_the_new_rows_only(run: Run, tmp_path: Path) -> None:
    rows = range(3000)
    log = pl.DataFrame(
        {"click": [i % 3 % 2 for i in rows], "user": [i % 90 for i in rows], "item": [i % 40 for i in rows]}
    )
    log.write_parquet(tmp_path / "clicks.parquet")
    words = ["backbone=fm", "data=parquet", "data.path=clicks.parquet", "model.embedding_dim=4", "search.budget=0.5"]
    trained = run(*words, "trainer.max_epochs=1", "baseline=false", small=False)
    (tmp_path / "clicks.parquet").unlink()
    new = pl.DataFrame({"user": [1, 2, 123456], "item": [3, None, 5]})
    new.write_parquet(tmp_path / "new.parquet")
    checkpoint = f"ckpt_path={trained['folder']}/checkpoints/finetune/best.ckpt"
    predicted = run("predict", checkpoint, "data.predict_path=new.parquet", small=False)
    found = pl.read_parquet(predicted["folder"] / "predictions.parquet")["probability"]
    assert len(found) == 3
    assert found.is_between(0, 1, closed="none").all()


def test_a_run_within_the_folder_of_another_makes_its_own_vocabulary(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, base in (("a", 0), ("b", 1000)):
        rows = {"label": [i * 7 % 3 % 2 for i in range(600)], "user": [base + i % 40 for i in range(600)]}
        pl.DataFrame(rows).write_parquet(tmp_path / f"{name}.parquet")
    words = ["fit", "backbone=fm", "data=parquet", "trainer.max_epochs=1", "model.embedding_dim=4"]
    first = run(*words, f"data.path={tmp_path}/a.parquet", small=False)["folder"]
    monkeypatch.chdir(first / "checkpoints")
    main([*words, f"data.path={tmp_path}/b.parquet", "run_dir=other"])
    known = [set(Vocabulary.load(folder / "vocabulary").tokens("user")) for folder in (first, Path("other"))]
    assert known == [set(range(40)), set(range(1000, 1040))]


def test_a_file_that_has_changed_is_not_divided_anew_for_a_checkpoint(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    rows = pl.DataFrame({"label": rng.integers(0, 2, 400), "user": rng.integers(0, 300, 400)})
    rows.write_parquet(tmp_path / "clicks.parquet")
    words = ["search", "backbone=fm", "data=parquet", f"data.path={tmp_path}/clicks.parquet", "model.embedding_dim=4"]
    folder = run(*words, small=False)["folder"]
    checkpoint, sizes = f"ckpt_path={folder}/checkpoints/search/last.ckpt", f"sizes={folder}/sizes.safetensors"
    before = run("test", checkpoint, small=False)["test"]
    pl.concat([rows, rows.head(1)]).write_parquet(tmp_path / "clicks.parquet")
    wrong = {
        ("test", checkpoint): "its test split, drawn at random, may have rows that it was trained on; data.test_path=",
        ("validate", checkpoint): "its valid split, .*; data.valid_path=FILE data.path=null takes all rows of a file",
        ("export", checkpoint): "its valid split, .*; data.valid_path=",
        ("predict", checkpoint): "its test split, .*; data.predict_path=",
        ("finetune", sizes): "its valid split, .*; transfer.init=scratch starts from nothing",
    }
    for command, message in wrong.items():
        with pytest.raises(SystemExit):
            main([*command, "run_dir=refused"])
        said = capsys.readouterr().err.splitlines()[-1]
        assert re.match(f"error: the rows of 'clicks' are not those that the model was trained on.*{message}", said)
    run("finetune", sizes, "transfer.init=scratch", "trainer.max_epochs=1", small=False)
    rows.write_parquet(tmp_path / "test.parquet")
    own = ["data.path=null", f"data.test_path={tmp_path}/test.parquet"]
    assert run("test", checkpoint, *own, small=False)["data"]["rows"] == {"test": 400}
    rows.write_parquet(tmp_path / "clicks.parquet")
    assert run("test", checkpoint, small=False)["test"] == before
