"""The pareto command, through the real command line: one search, a model of every budget, a curve."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import yaml

from pme_lightning.cli import main
from pme_lightning.module import CTRModule
from pme_lightning.runs.budgets import budget_name
from pme_lightning.search import SearchResult

Run = Callable[..., dict[str, Any]]
SMALL = ["data.rows=6000", "data.tokens=600", "data.num_fields=4", "data.batch_size=256", "model.embedding_dim=8"]
SMALL += ["trainer.max_epochs=2"]
# Those of the finished `pme` run that this is held against.
WORDS = ["backbone=deepfm", "backbone.hidden_units=[16]"]
NAMES = ["0.5", "0.3", "4KB", "540"]  # 50%, 30%, 18.5% and 10% of 5,400 parameters


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="session")
def pareto_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one finished run, its budgets given in no order."""
    folder = tmp_path_factory.mktemp("pareto") / "run"
    main(["pareto", *WORDS, "budgets=[540,30%,0.5,4kb]", "logger=csv", f"run_dir={folder}", *SMALL])
    return folder


def test_each_budget_gives_what_a_pme_run_of_it_gives(pareto_run: Path, pme_run: Path) -> None:
    alone, curve = read(pme_run), read(pareto_run)
    (point,) = (point for point in curve["pareto"] if point["budget"] == "0.3")
    assert point["test"] == alone["test"]
    assert point["embedding"] == alone["embedding"]
    assert point["finetune"]["best_epoch"] == alone["finetune"]["best_epoch"]
    assert curve["baseline"]["test"] == alone["baseline"]["test"]
    ours, theirs = SearchResult.load(pareto_run / point["sizes"]), SearchResult.load(pme_run / "sizes.safetensors")
    assert ours.fingerprint() == theirs.fingerprint()
    assert (ours.budget, ours.criterion) == (theirs.budget, theirs.criterion)


def test_the_summary_and_the_folder_are_as_documented(pareto_run: Path, pme_run: Path) -> None:
    summary = read(pareto_run)
    assert list(summary) == [*read(pme_run), "pareto"]
    assert (summary["version"], summary["command"]) == (1, "pareto")
    # Beside the list: what a pme run of the largest budget says.
    largest = summary["pareto"][0]
    assert {key: summary[key] for key in ("embedding", "finetune", "test")} == {
        key: largest[key] for key in ("embedding", "finetune", "test")
    }
    assert summary["search"]["budget"] == "50%"
    # A projection of 8 x 8, or one a field, as the search chose.
    results = {point["budget"]: SearchResult.load(pareto_run / point["sizes"]) for point in summary["pareto"]}
    assert {each.projection_parameters for each in results.values()} <= {64, 64 * summary["data"]["fields"]}
    own = results[largest["budget"]].projection_parameters
    assert summary["search"]["kept"] + own == largest["embedding"]["parameters"]
    assert [point["budget"] for point in summary["pareto"]] == NAMES
    for point, limit in zip(summary["pareto"], (2700, 1620, 1000, 540), strict=True):
        assert list(point) == ["budget", "sizes", "embedding", "finetune", "test"]
        assert point["sizes"] == f"sizes/{point['budget']}.safetensors"
        assert 0.9 * limit < point["embedding"]["parameters"] <= limit
        found = results[point["budget"]]
        assert found.parameters + found.projection_parameters == point["embedding"]["parameters"]
    names = {path.name for path in pareto_run.iterdir()}
    assert names == {"config.yaml", "pareto.csv", "sizes", "vocabulary", "checkpoints", "logs", "findings.json"} | {
        "summary.json",
        "report.html",
    }
    phases = {"search", "full", *(f"finetune-{name}" for name in NAMES)}
    assert {path.name for path in (pareto_run / "checkpoints").iterdir()} == phases
    assert {path.name for path in (pareto_run / "logs").iterdir()} == {*phases, "summary"}
    assert {path.stem for path in (pareto_run / "sizes").iterdir()} == set(NAMES)


def test_the_curve_is_a_tidy_table(pareto_run: Path) -> None:
    summary = read(pareto_run)
    table = pl.read_csv(pareto_run / "pareto.csv")
    assert table.columns == ["budget", "fraction", "parameters", "bytes", "auc", "logloss", "best_epoch", "seconds"]
    assert table["budget"].to_list() == ["full", *NAMES]
    assert table["fraction"].is_sorted(descending=True)
    points = [summary["baseline"], *summary["pareto"]]
    assert table["bytes"].to_list() == [point["embedding"]["bytes"] for point in points]
    assert table["auc"].to_list() == pytest.approx([point["test"]["auc"] for point in points])
    searching = [0.0, *[summary["search"]["seconds"]] * 4]
    expected = [point["finetune"]["seconds"] + before for point, before in zip(points, searching, strict=True)]
    assert table["seconds"].to_list() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["0.5", "4KB"])
def test_test_finds_the_sizes_of_a_checkpoint(run: Run, pareto_run: Path, name: str) -> None:
    (point,) = (point for point in read(pareto_run)["pareto"] if point["budget"] == name)
    summary = run("test", f"ckpt_path={pareto_run}/checkpoints/finetune-{name}/best.ckpt", small=False)
    assert summary["test"] == pytest.approx(point["test"], abs=1e-6)
    assert summary["embedding"] == point["embedding"]
    model = CTRModule.load_from_checkpoint(pareto_run / "checkpoints" / f"finetune-{name}" / "best.ckpt")
    assert model.embedding.num_parameters == point["embedding"]["parameters"]


def test_a_checkpoint_without_its_sizes_is_refused(
    run: Run, pareto_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(pareto_run, copy)
    (copy / "sizes" / "0.5.safetensors").rename(tmp_path / "moved.safetensors")
    words = ["test", f"ckpt_path={copy}/checkpoints/finetune-0.5/best.ckpt"]
    with pytest.raises(SystemExit):
        run(*words, small=False)
    assert f"was not trained with the sizes in any file of '{copy}/sizes'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(*words, f"sizes={copy}/sizes/0.3.safetensors", small=False)
    assert f"was not trained with the sizes in '{copy}/sizes/0.3.safetensors'" in capsys.readouterr().err
    found = run(*words, "sizes=moved.safetensors", small=False)
    assert found["test"] == pytest.approx(read(pareto_run)["test"], abs=1e-6)


def test_finetune_takes_the_sizes_of_a_budget(run: Run, pareto_run: Path) -> None:
    (point,) = (point for point in read(pareto_run)["pareto"] if point["budget"] == "4KB")
    tuned = run("finetune", f"sizes={pareto_run}/sizes/4KB.safetensors", small=False)
    assert tuned["test"] == point["test"]
    assert tuned["embedding"] == point["embedding"]


def test_running_again_from_the_written_config_gives_the_same(run: Run, pareto_run: Path) -> None:
    config = yaml.safe_load((pareto_run / "config.yaml").read_text())
    assert [budget_name(budget) for budget in config["budgets"]] == NAMES
    assert config["search"]["init_args"]["budget"] == 0.5
    again = run(f"--config={pareto_run}/config.yaml", "baseline=false", small=False)
    assert again["command"] == "pareto"
    assert again["baseline"] is None
    before = read(pareto_run)["pareto"]
    assert [point["test"] for point in again["pareto"]] == [point["test"] for point in before]
    assert pl.read_csv(again["folder"] / "pareto.csv")["budget"].to_list() == NAMES
    # And one budget of it alone.
    pme = run("pme", f"--config={pareto_run}/config.yaml", "budgets=null", "baseline=false", small=False)
    assert pme["test"] == before[0]["test"]


def test_warm_fine_tunes_all_start_from_the_searched_model(run: Run) -> None:
    words = ["backbone=fm", "optimizer.lr=0.02", "transfer.init=warm", "baseline=false"]
    curve = run("pareto", *words, "budgets=[0.5,0.2]")
    for point, budget in zip(curve["pareto"], (0.5, 0.2), strict=True):
        alone = run(*words, f"search.budget={budget}")
        assert point["test"] == alone["test"]
    tuned = run("finetune", f"sizes={curve['folder']}/sizes/0.2.safetensors", small=False)
    assert tuned["test"] == curve["pareto"][1]["test"]


@pytest.mark.parametrize("search", ["popularity", "uniform", "random"])
def test_rules_give_the_sizes_they_give_alone(run: Run, search: str) -> None:
    words = ["backbone=fm", f"search={search}", "baseline=false", "trainer.max_epochs=1"]
    curve = run("pareto", *words, "budgets=[0.1,0.4]")
    for name in ("0.4", "0.1"):
        alone = run("search", *words, f"search.budget={name}")
        found, expected = (
            SearchResult.load(path)
            for path in (curve["folder"] / "sizes" / f"{name}.safetensors", alone["folder"] / "sizes.safetensors")
        )
        assert torch.equal(found.sizes, expected.sizes)
        assert torch.equal(found.linear, expected.linear)


def test_a_gradual_search_prunes_toward_the_largest_budget(run: Run) -> None:
    words = ["backbone=fm", "search.schedule=pme_lightning.search.Gradual", "baseline=false", "trainer.max_epochs=1"]
    one, other = (run("pareto", *words, f"budgets={budgets}") for budgets in ("[0.1,0.4]", "[40%,10%]"))
    assert [point["test"] for point in one["pareto"]] == [point["test"] for point in other["pareto"]]
    alone = run("search", *words, "search.budget=0.4")
    found = SearchResult.load(one["folder"] / "sizes" / "0.4.safetensors")
    assert found.fingerprint() == SearchResult.load(alone["folder"] / "sizes.safetensors").fingerprint()
    smaller = SearchResult.load(one["folder"] / "sizes" / "0.1.safetensors")
    assert (smaller.sizes <= found.sizes).all(), "a smaller budget keeps what the larger one has pruned"


def test_the_default_budgets(capsys: pytest.CaptureFixture[str]) -> None:
    main(["pareto", "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["budgets"] == [0.5, 0.2, 0.1, 0.05, 0.02]
    main(["pme", "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["budgets"] is None


def test_the_closing_table_is_narrow_and_whole(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    summary = run("pareto", "backbone=fm", "budgets=[0.2,2k]", "run_dir=runs/one")
    lines = capsys.readouterr().out.splitlines()
    table = lines[lines.index(next(line for line in lines if line.startswith("pareto: synthetic"))) :]
    assert max(map(len, table)) <= 80
    rows = {cells[0]: cells[1:] for line in table if (cells := [c.strip() for c in line.strip("│").split("│")])[1:]}
    assert list(rows) == ["full", "2000", "0.2"]
    assert rows["full"][:2] == ["100.0%", "21,600"]
    assert rows["2000"][:2] == ["37.0%", "8,000"]
    point = summary["pareto"][1]
    assert rows["0.2"][2:4] == [f"{point['test']['auc']:.4f}", f"{point['test']['logloss']:.4f}"]
    assert any(line.startswith("one search: ") for line in table)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("pareto budgets=[]", "budgets: the list is empty"),
        ("pareto budgets=0.2", "budgets: expected a list (given: 0.2)"),
        ("pareto budgets=[0.2,20%]", "budgets: 0.2 and 20% are the same budget"),
        ("pareto budgets=[0.2,20XB]", "budgets: '20XB' is not a budget: give a fraction"),
        ("pareto budgets=[0.2,0]", "budgets: 0.0 is not a budget"),
        ("pareto budgets=[0.2,0.001]", "budgets: 0.1% is a budget that nothing fits"),
        ("pareto budgets=[0.5,0.04] search.criterion.axes=field", "budgets: 4% is a budget that nothing fits"),
        ("pareto budgets=[0.5,0.1] search.allocator.min_size=1", "budgets: 0.1: Prefix: min_size 1"),
        ("pareto budgets=[0.5] search.budget=0.3", "search.budget=0.3: pareto takes its budgets as one list"),
        ("pareto --search.init_args.budget=0.3", "write budgets=[0.3]"),
        ("pareto search=lightning.pytorch.Callback", "pareto needs a search with a budget"),
        ("budgets=[0.5]", "budgets belongs to the pareto command: pme takes one, search.budget=0.2"),
        ("fit budgets=[0.5]", "budgets belongs to the pareto command: fit takes none"),
        ("pareto sizes=x.safetensors", "pareto takes no sizes"),
        ("pareto ckpt_path=x.ckpt", "pareto starts from nothing"),
    ],
)
def test_bad_words_end_before_any_training(
    words: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main([*SMALL, *words.split()])
    printed = capsys.readouterr()
    assert stop.value.code == 2
    assert printed.err.startswith("error: ")
    assert said in printed.err
    assert printed.err.count("\n") == 1
    assert "search:" not in printed.out
    assert not list(tmp_path.iterdir()), "something was left behind"


def test_a_budget_has_one_name_however_it_is_written() -> None:
    for name, ways in {
        "0.2": (0.2, "0.2", "20%", "20.0 %", ".2"),
        "0.125": (0.125, "12.5%"),
        "1.0": (1.0, 1, "100%"),
        "2000000": (2_000_000, 2e6, "2M", "2_000k"),
        "20MB": ("20MB", "20mb", "20_000 kB"),
        "512KiB": ("512KiB", "0.5MiB"),
    }.items():
        assert {budget_name(way) for way in ways} == {name}
