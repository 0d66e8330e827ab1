"""The Python in README and docs runs as it stands, but for its sizes; what it names beside it is used as it is."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import polars as pl
import pytest

from pme_lightning import search_and_finetune
from pme_lightning.cli import main

ROOT = Path(__file__).parents[1]


def blocks(page: str, language: str = "python") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


def run(code: str, tmp_path: Path, names: dict) -> dict:
    shrunk = code.replace("rows=100_000", "rows=4_000, tokens=400")
    shrunk = shrunk.replace("settings={", 'settings={"search.schedule.min_steps": 1, ')
    shrunk = re.sub(
        r"Trainer\(", f"Trainer(accelerator='cpu', logger=False, default_root_dir={str(tmp_path)!r}, ", shrunk
    )
    exec(compile(shrunk, "docs", "exec"), names)
    return names


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def _clicks() -> None:
    """The file of clicks that pages read."""
    rows = range(3000)
    clicks = {"click": [i % 3 % 2 for i in rows], "user": [i % 300 for i in rows], "item": [i * 7 % 100 for i in rows]}
    pl.DataFrame(clicks).write_parquet("clicks.parquet")


def test_every_page_with_python_is_run() -> None:
    pages = {page.name for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")] if blocks(str(page))}
    # The page of reports needs a run's folder: it is run where there is one.
    tested = "".join((ROOT / "tests" / name).read_text() for name in ("test_docs.py", "pages/test_real_runs.py"))
    assert not [page for page in pages if f'{page}"' not in tested]


def test_the_readme(tmp_path: Path) -> None:
    (code,) = blocks("README.md")
    small = 'trainer={"max_epochs": 1}, baseline=False, settings={'
    names = run(code.replace('trainer={"max_epochs": 3}', small + "}"), tmp_path, {})
    module = names["outcome"].module
    assert module.embedding.num_parameters <= 0.2 * module.full_parameters


@pytest.mark.usefixtures("_clicks")
def test_the_page_on_extending(tmp_path: Path) -> None:
    backbone, api = blocks("docs/extend.md")
    names = run(backbone, tmp_path, {})
    assert names["TwoTower"](3, 4).left.out_features == 64
    names = run(api, tmp_path, {})
    assert names["model"].embedding.num_parameters <= 0.2 * names["model"].full_parameters


@pytest.mark.usefixtures("_clicks")
def test_the_page_on_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Classes of the page have names that can be imported, as those of a script or a notebook have.
    page = type(sys)("docs_on_python")
    monkeypatch.setitem(sys.modules, page.__name__, page)
    call, test, own, trainer = blocks("docs/python.md")
    names = run(call, tmp_path, page.__dict__)
    assert names["outcome"].module.backbone.layers[0].out_features == 64
    run(test, tmp_path, names)
    run(own, tmp_path, names)
    assert set(names["outcome"].sizes.sizes.tolist()) <= {0, 4, 8, 16}
    names = run(trainer, tmp_path, {})
    assert names["model"].embedding.num_parameters <= 0.2 * names["model"].full_parameters


@pytest.mark.usefixtures("_clicks")
def test_the_page_on_serving(tmp_path: Path) -> None:
    frame = pl.read_parquet("clicks.parquet")
    settings = {"data.label": "click", "search.schedule.min_steps": 1, "backbone.hidden_units": [8]}
    outcome = search_and_finetune(frame, budget=0.5, baseline=False, trainer={"max_epochs": 1}, settings=settings)
    exported = outcome.export("served", bits=8)
    alone, with_package = blocks("docs/serving.md")
    names = run(alone, tmp_path, {})
    assert names["probabilities"].tolist() == pytest.approx(exported.predict_ids(names["rows"]).tolist(), abs=1e-6)
    names = run(with_package, tmp_path, {"frame": frame})
    assert names["clicks"].tolist() == exported.predict(frame).tolist()
    # Where the page says that a value's id is.
    offset = 0
    for number in range(2):
        values = pl.read_parquet(f"served/vocabulary/field_{number:03d}.parquet")["value"].to_list()
        found = exported.vocabulary.encode_fields(pl.DataFrame({"user": [7], "item": [7]}))[0, number]
        assert exported.ids[offset + values.index(7) + 1] == exported.ids[found]
        offset += len(values) + 1


def test_the_page_on_how_it_works(tmp_path: Path) -> None:
    settings = {"data.rows": 2000, "data.tokens": 200, "data.num_fields": 3}
    quick: dict = {"search": "popularity", "baseline": False, "trainer": {"max_epochs": 1}, "run_dir": "runs/RUN"}
    outcome = search_and_finetune("synthetic", "fm", 0.5, settings=settings, **quick)
    outcome.data.renumber(None)
    names: dict = {"data": outcome.data}
    for code in blocks("docs/how-it-works.md"):
        names = run(code, tmp_path, names)
    assert names["data"].is_renumbered
    assert names["model"].embedding.num_parameters == outcome.module.embedding.num_parameters


def test_the_page_on_criteria(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,), (config,) = blocks("docs/criterion.md"), blocks("docs/criterion.md", "yaml")
    Path("my_criteria.py").write_text(code)
    Path("my_configs/search").mkdir(parents=True)
    Path("my_configs/search/row_fisher.yaml").write_text(config)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_criteria", raising=False)

    main(["list", "search", "config_dir=my_configs"])
    assert "  row_fisher  Fisher of single rows" in capsys.readouterr().out
    main(["explain", "search.criterion.tilt", "config_dir=my_configs", "search=row_fisher"])
    assert "How much more a token counts that occurs more often" in capsys.readouterr().out

    small = ["data.rows=3000", "data.tokens=300", "data.num_fields=3", "backbone=fm", "trainer.max_epochs=1"]
    tilted = ["config_dir=my_configs", "search=row_fisher", "search.criterion.tilt=0.5", "baseline=false"]
    main([*tilted, *small, "run_dir=tilted"])
    main(["search", "search.criterion=my_criteria.RowFisher", *small, "run_dir=plain"])
    summaries = [json.loads(Path(folder, "summary.json").read_text()) for folder in ("tilted", "plain")]
    for summary in summaries:
        assert summary["search"]["criterion"] == "RowFisher"
        assert 0.15 < summary["embedding"]["fraction"] <= 0.2
    monkeypatch.delitem(sys.modules, "my_criteria")
