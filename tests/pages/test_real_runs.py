"""Reports of runs of the real command line: their numbers, their pictures, and the report command."""

from __future__ import annotations

import html
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from page_text import Page

from pme_lightning.cli import main
from pme_lightning.configuration.command_line import parse_words
from pme_lightning.search import SearchResult

ROOT = Path(__file__).parents[2]
TINY = ["data.rows=4000", "data.tokens=300", "data.num_fields=3", "data.batch_size=256", "model.embedding_dim=8"]
TINY += ["trainer.max_epochs=2", "backbone.hidden_units=[16]", "search.schedule.min_steps=20"]
Look = Callable[..., dict[str, Any]]


def read(folder: Path, name: str = "summary.json") -> dict[str, Any]:
    return json.loads((folder / name).read_text())


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a command line ends with."""
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


@pytest.fixture(scope="module")
def pme(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "pme"
    main(["backbone=deepfm", "search.budget=0.3", f"run_dir={folder}", "logger=csv", *TINY])
    return folder


@pytest.fixture(scope="module")
def pareto(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "pareto"
    gradual = ["search.schedule=pme_lightning.search.Gradual", "search.schedule.prunings=4"]
    words = [*gradual, *(word for word in TINY if not word.startswith("search"))]
    main(["pareto", "budgets=[0.6,0.2]", "baseline=false", f"run_dir={folder}", *words])
    return folder


def test_the_report_has_the_numbers_of_the_summary(pme: Path) -> None:
    summary, page = read(pme), Page(pme / "report.html")
    rows = {row[""]: (row["full-size"], row["multi-size"]) for row in page.table("", "full-size")}
    for label, name in (("test AUC", "auc"), ("test logloss", "logloss")):
        assert rows[label] == (f"{summary['baseline']['test'][name]:.4f}", f"{summary['test'][name]:.4f}")
    assert rows["embedding parameters"] == ("2,700", f"{summary['embedding']['parameters']:,}")
    assert rows["best epoch"][1] == str(summary["finetune"]["best_epoch"])
    assert (pme / "config.yaml").read_text() in page.text
    assert f"python train.py --config={pme}/config.yaml" in page.text


def test_the_report_has_the_sizes_of_the_run(pme: Path) -> None:
    sizes = SearchResult.load(pme / "sizes.safetensors")
    page = Page(pme / "report.html")
    counts = [int(row["tokens"].replace(",", "")) for row in page.table("size", "tokens")]
    assert counts == sizes.sizes.bincount(minlength=9).tolist()
    *fields, all_of_them = page.table("field", "tokens", "mean size")
    assert [row["field"] for row in fields] == ["field_1", "field_2", "field_3"]
    assert int(all_of_them["after"].replace(",", "")) == sizes.parameters == read(pme)["search"]["kept"]
    assert sum(int(row["after"].replace(",", "")) for row in fields) == sizes.parameters
    bands = page.table("training rows", "tokens")
    assert sum(int(row["tokens"].replace(",", "")) for row in bands) == 300


def test_curves_are_those_of_the_logger(pme: Path) -> None:
    found = read(pme, "findings.json")
    assert list(found["curves"]) == ["search", "finetune", "full"]
    assert found["curves"]["search"]["valid"] == []
    for phase in ("finetune", "full"):
        logged = pl.read_csv(pme / "logs" / phase / "metrics.csv").drop_nulls("valid_auc")
        curve = found["curves"][phase]["valid"]
        assert [point[0] for point in curve] == [1.0, 2.0]
        assert [point[1] for point in curve] == pytest.approx(logged["valid_auc"].to_list(), abs=1e-6)
        assert [point[2] for point in curve] == pytest.approx(logged["valid_logloss"].to_list(), abs=1e-6)
    page = Page(pme / "report.html")
    shown = [row["AUC"] for row in page.table("model", "epoch", "AUC")]
    assert shown == [f"{p[1]:.4f}" for phase in ("finetune", "full") for p in found["curves"][phase]["valid"]]


def test_the_schedule_ends_at_what_was_kept(pme: Path, pareto: Path) -> None:
    found, summary = read(pme, "findings.json"), read(pme)
    ((steps, kept),) = found["schedule"]
    assert kept == pytest.approx(summary["search"]["kept"] / 2700)
    assert steps == round(summary["search"]["epochs"] * -(-3200 // 256))
    gradual = [fraction for _, fraction in read(pareto, "findings.json")["schedule"]]
    assert len(gradual) == 4
    assert gradual == sorted(gradual, reverse=True)
    # (1 - i/4)^3 of the way from 60% less the projection to everything.
    target = (0.6 * 2700 - 64) / 2700
    assert gradual == pytest.approx([target + (1 - target) * (1 - i / 4) ** 3 for i in (1, 2, 3, 4)], abs=0.01)


def test_the_report_of_a_curve(pareto: Path) -> None:
    summary, page = read(pareto), Page(pareto / "report.html")
    assert [(row["budget"], row["test AUC"]) for row in page.table("budget", "kept")] == [
        (point["budget"], f"{point['test']['auc']:.4f}") for point in summary["pareto"]
    ]
    assert list(read(pareto, "findings.json")["sizes"]) == ["0.6", "0.2"]
    *_, all_of_them = page.table("field", "tokens", "0.6", "0.2")
    for point, column in zip(summary["pareto"], ("0.6", "0.2"), strict=True):
        kept = SearchResult.load(pareto / point["sizes"]).parameters / 2700
        assert float(all_of_them[column].rstrip("%")) == pytest.approx(100 * kept, rel=0.05)


def test_what_is_told_to_go_on_with_can_be_typed(pme: Path, pareto: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, first in ((pme, "finetune"), (pareto, "finetune-0.2")):
        # As from the project's folder, where runs are in runs/.
        monkeypatch.chdir(folder.parent.parent)
        told = re.search("<code>(# the same run again.*?)</code>", (folder / "report.html").read_text(), re.DOTALL)
        assert told is not None
        lines = html.unescape(told[1]).splitlines()
        commands = [shlex.split(line)[2:] for line in lines if line.startswith("python train.py")]
        assert {words[0] for words in commands[1:]} == {"test", "export", "finetune"}
        assert [words for words in commands if words[0] == "export"] == [
            ["export", f"ckpt_path={folder}/checkpoints/{first}/best.ckpt"]
        ]
        for words in commands:
            line = parse_words(words)
            for file in [*line.files, *(value for key, value in line.overrides if key in ("ckpt_path", "sizes"))]:
                assert Path(file).is_file()


@pytest.mark.parametrize("width", [1280, 390])
def test_reports_in_a_browser(look: Look, pme: Path, pareto: Path, width: int) -> None:
    for folder in (pme, pareto):
        titles = [picture["title"].partition(";")[0] for picture in look(folder / "report.html", width)["pictures"]]
        assert {"Size over popularity", "Scores held by the best values", "Validation AUC"} <= set(titles)


@pytest.mark.slow
def test_every_command_leaves_a_report(pme: Path, tmp_path: Path) -> None:
    words = [word for word in TINY if not word.startswith("search")]
    checkpoint = f"ckpt_path={pme}/checkpoints/finetune/best.ckpt"
    runs = {
        "search": ["search.schedule.min_steps=20", *words],
        "fit": words,
        "finetune": [f"sizes={pme}/sizes.safetensors", "transfer.init=scratch"],
        "test": [checkpoint],
        "validate": [checkpoint],
        "predict": [checkpoint],
        "export": [checkpoint],
    }
    for command, arguments in runs.items():
        main([command, *arguments, f"run_dir={tmp_path / command}"])
        page = Page(tmp_path / command / "report.html")
        assert page.headings[0] == f"{command} on synthetic"
        assert ("Sizes" in page.headings) == (command in ("search", "finetune"))
        assert ("Training" in page.headings) == (command in ("search", "fit", "finetune"))
        assert ("Fields" in page.headings) == (command not in ("search", "finetune"))
    assert read(tmp_path / "finetune", "findings.json")["sizes"] == read(pme, "findings.json")["sizes"]


def test_field_names_of_the_users_own(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    rows = range(3000)
    columns = {"click": [i % 3 % 2 for i in rows], hostile: [i % 300 for i in rows], 'a"&': [i % 70 for i in rows]}
    pl.DataFrame(columns).write_parquet(tmp_path / "clicks.parquet")
    words = ["search", "data=parquet", f"data.path={tmp_path}/clicks.parquet", "data.label=click", "search=popularity"]
    main([*words, f"run_dir={tmp_path}/run", "model.embedding_dim=4", "data.batch_size=512"])
    page = Page(tmp_path / "run" / "report.html")
    assert "script" not in page.names
    assert {row["field"] for row in page.table("field", "tokens", "mean size")} == {hostile, 'a"&', "all"}


def test_the_python_of_the_docs(pme: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pme_lightning import SyntheticDataModule

    data = SyntheticDataModule(rows=4000, tokens=300, num_fields=3)
    data.prepare_data()
    data.setup()
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "report.md").read_text(), flags=re.DOTALL)
    capsys.readouterr()
    exec(compile(code.replace("runs/RUN", str(pme)), "docs", "exec"), {"data": data})
    fields = read(pme, "findings.json")["sizes"]["30%"]["fields"]
    expected = "".join(f"{field['name']} {field['mean_size']} {field['kept']}\n" for field in fields)
    assert capsys.readouterr().out == expected


def test_every_picture_of_the_docs_is_there_and_small() -> None:
    text = (ROOT / "docs" / "report.md").read_text()
    names = re.findall(r"images/(\w+\.png)", text)
    assert len(names) >= 5
    for name in names:
        assert 0 < (ROOT / "docs" / "images" / name).stat().st_size < 200_000


# The report command.


def test_a_report_is_drawn_anew(pme: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (pme / "report.html").read_text()
    (pme / "report.html").unlink()
    main(["report", str(pme)])
    assert capsys.readouterr().out == f"report: {pme}/report.html\n"
    assert (pme / "report.html").read_text() == before
    main(["report", str(pme), f"out={tmp_path}/other.html"])
    assert (tmp_path / "other.html").read_text() == before


def test_runs_are_compared(
    pme: Path, pareto: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["report", str(pme), str(pareto), str(pme)])
    assert capsys.readouterr().out == "report: comparison.html\n"
    page = Page(tmp_path / "comparison.html")
    auc = [row["test AUC"] for row in page.table("run", "command")]
    models = [read(pme), read(pme)["baseline"], *read(pareto)["pareto"]]
    assert auc == [f"{model['test']['auc']:.4f}" for model in models]
    differences = {row["key"]: (row["pme"], row["pareto"]) for row in page.table("key")}
    assert differences["command"] == ("pme", "pareto")
    assert differences["baseline"] == ("true", "false")
    assert "run_dir" not in differences
    main(["report", str(pme), str(pareto), "--out=comparison.html"])


def test_what_the_report_command_refuses(
    pme: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert "name the folder of a run" in refused(capsys, "report")
    assert "there is no folder 'nowhere'" in refused(capsys, "report", "nowhere")
    assert "did you mean 'out'?" in refused(capsys, "report", str(pme), "ouz=a.html")
    assert "unknown option 'backbone'" in refused(capsys, "report", str(pme), "backbone=fm")
    assert "takes folders" in refused(capsys, "report", str(pme), "--print_config")
    assert "there is no folder" in refused(capsys, "report", str(pme), "out=x/y.html")
    assert "is a folder" in refused(capsys, "report", str(pme), f"out={tmp_path}")
    (tmp_path / "comparison.html").write_text("mine")
    (tmp_path / "copy").mkdir()
    for name in ("summary.json", "config.yaml"):
        (tmp_path / "copy" / name).write_text((pme / name).read_text())
    assert "not a page of ours" in refused(capsys, "report", str(pme), "copy")
    assert (tmp_path / "comparison.html").read_text() == "mine"
    (tmp_path / "copy" / "summary.json").write_text("{")
    assert "is damaged" in refused(capsys, "report", "copy", str(pme), "out=c.html")
    assert not (tmp_path / "c.html").exists()
    (tmp_path / "c.yaml").write_text("command: report")
    assert "takes no configuration" in refused(capsys, "--config=c.yaml")


def test_the_report_command_needs_no_torch(pme: Path) -> None:
    code = "import sys; from pme_lightning.cli import main; main(sys.argv[1:]); "
    code += "print(sorted({'torch', 'lightning', 'polars', 'numpy', 'jsonargparse'} & set(sys.modules)))"
    said = subprocess.run(
        [sys.executable, "-c", code, "report", str(pme)], env=os.environ, capture_output=True, text=True, check=True
    )
    assert said.stdout.splitlines()[-1] == "[]"
