"""What an offline run holds: live figures over their own axes, charts of sizes and result, and the run's names."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from pme_lightning.dashboards.panels import SECTIONS, Chart, Curve, Panel, Scatter
from pme_lightning.search import SearchResult

# 4800 training rows in batches of 256: 19 steps an epoch; figures come every 5 steps.
STEPS, EVERY = 19, 5


def lacking(panel: Panel, run: Any) -> list[str]:
    """What a panel shows and the run does not hold."""
    if isinstance(panel, Curve):
        wanted = [panel.x, *panel.y]
        return [key for key in wanted if key not in run.keys]
    if isinstance(panel, Scatter):
        found = []
        for path in (panel.x, panel.y):
            node = run.summary
            for part in path.split("."):
                node = node.get(part, {})
            found += [] if isinstance(node, (int, float)) else [path]
        return found
    if isinstance(panel, Chart):
        return (
            [] if f"{panel.key}_table" in run.keys and panel.key in run.config["_wandb"]["visualize"] else [panel.key]
        )
    return [] if panel.key in run.keys else [panel.key]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)
def test_every_panel_of_the_template_has_its_data(section: Any, pme_run: Any, request: pytest.FixtureRequest) -> None:
    if section.only == "gpu" and not torch.cuda.is_available():
        pytest.skip("GPU memory is measured on a GPU only")
    run = request.getfixturevalue("pareto_run") if section.only == "pareto" else pme_run
    assert [key for panel in section.panels for key in lacking(panel, run)] == []


def test_charts_are_drawn_as_the_template_says(pme_run: Any) -> None:
    charts = [panel for section in SECTIONS for panel in section.panels if isinstance(panel, Chart)]
    assert len(charts) >= 7
    for panel in charts:
        drawn = pme_run.chart(panel.key)
        assert drawn["panelDefId"] == panel.kind, panel.key
        assert drawn["fieldSettings"] == dict(panel.fields), panel.key
        assert drawn["stringSettings"]["title"] == panel.title
        rows = pme_run.table(f"{panel.key}_table")
        assert rows, panel.key
        assert set(dict(panel.fields).values()) - {None} <= set(rows[0]), panel.key


@pytest.mark.parametrize("phase", ["search", "finetune", "full"])
def test_a_phase_is_drawn_over_steps_of_its_own(pme_run: Any, phase: str) -> None:
    steps, losses = zip(*pme_run.curve(f"{phase}/train_loss"), strict=True)
    assert pme_run.axes[f"{phase}/*"] == f"{phase}/step"
    assert steps[0] == EVERY - 1
    # The search has five epochs, the others two: not a figure is dropped.
    assert list(steps) == list(range(EVERY - 1, (5 if phase == "search" else 2) * STEPS, EVERY))
    assert all(math.isfinite(loss) for loss in losses)
    for key in ("lr_network", "lr_embedding", "rows_per_second"):
        at, values = zip(*pme_run.curve(f"{phase}/{key}"), strict=True)
        assert at == steps
        assert min(values) > 0
    if phase != "search":
        assert [step for step, _ in pme_run.curve(f"{phase}/valid_auc")] == [STEPS - 1, 2 * STEPS - 1]


def test_rows_of_a_run_rise_over_all_phases(pme_run: Any) -> None:
    rows = pme_run.series("_step")
    assert rows == sorted(set(rows))
    assert len(rows) == len(pme_run.history)


def test_figures_say_what_happened(pme_run: Any, pme_folder: Path) -> None:
    summary = json.loads((pme_folder / "summary.json").read_text())
    kept = pme_run.series("search/kept_fraction")
    sizes = SearchResult.load(pme_folder / "sizes.safetensors")
    assert set(kept[:-1]) == {1}
    assert kept[-1] == pytest.approx(sizes.parameters / summary["embedding"]["full_parameters"])
    assert pme_run.series("search/embedding_bytes") == [4 * 600 * 9]
    assert pme_run.series("finetune/embedding_bytes") == [summary["embedding"]["bytes"]]
    assert pme_run.series("full/embedding_parameters") == [600 * 9]
    assert pme_run.series("finetune/best_valid_auc")[-1] == max(pme_run.series("finetune/valid_auc"))
    assert pme_run.series("full/best_valid_logloss")[-1] == min(pme_run.series("full/valid_logloss"))
    assert pme_run.series("finetune/lr_embedding")[0] == pme_run.config["embedding_optimizer"]["init_args"]["lr"]
    assert pme_run.series("finetune/lr_network")[0] == pme_run.config["optimizer"]["init_args"]["lr"]
    assert pme_run.summary["test"] == summary["test"]
    assert pme_run.summary["baseline"]["embedding"]["bytes"] == 4 * 600 * 9


def test_sizes_are_shown_by_field_and_over_popularity(pme_run: Any, pme_folder: Path) -> None:
    found = SearchResult.load(pme_folder / "sizes.safetensors")
    fields = pme_run.table("sizes/fields")
    assert sum(field["tokens"] for field in fields) == 600
    assert sum(field["parameters before"] for field in fields) == 600 * 9
    assert sum(field["parameters after"] for field in fields) == found.parameters
    start = 0
    for field in fields:
        sizes = found.sizes[start : start + field["tokens"]]
        start += field["tokens"]
        assert field["mean size"] == pytest.approx(float(sizes.double().mean()))
        histogram = pme_run.series(f"fields/{field['field']}")[-1]
        assert histogram["values"] == torch.bincount(sizes, minlength=9).tolist()
        lines = [row for row in pme_run.table("sizes/by_field_table") if row["lineKey"] == field["field"]]
        assert [row["step"] for row in lines] == list(range(9))
        assert sum(row["lineVal"] for row in lines) == pytest.approx(1)
    assert pme_run.series("sizes/all_tokens")[-1]["values"] == torch.bincount(found.sizes, minlength=9).tolist()
    density = pme_run.curve("density/sizes")
    assert [x for x, _ in density] == sorted(x for x, _ in density)
    assert sum(sum(histogram["values"]) for _, histogram in density) == 600
    rows = pme_run.table("sizes/density")
    assert sum(row["tokens"] for row in rows) == 600
    spectrum = pme_run.table("sizes/score_spectrum_table")
    assert spectrum[-1]["share of score"] == pytest.approx(1)


def test_the_full_size_model_stands_beside_the_multi_size_one(pme_run: Any, pme_folder: Path) -> None:
    summary = json.loads((pme_folder / "summary.json").read_text())
    full, multi = pme_run.table("result/models")
    assert (full["model"], multi["model"]) == ("full-size", "multi-size")
    assert full["test_auc"] == summary["baseline"]["test"]["auc"]
    assert multi["test_auc"] == summary["test"]["auc"]
    assert multi["embedding_bytes"] == summary["embedding"]["bytes"]
    assert [row["test_auc"] for row in pme_run.table("result/test_auc_table")] == [full["test_auc"], multi["test_auc"]]


def test_the_curve_of_budgets_is_a_curve(pareto_run: Any, pareto_folder: Path) -> None:
    summary = json.loads((pareto_folder / "summary.json").read_text())
    points = [(block["embedding"]["fraction"], block["test"]["auc"]) for block in summary["pareto"][::-1]]
    points.append((1, summary["baseline"]["test"]["auc"]))
    assert pareto_run.curve("pareto/auc") == points
    assert [row["budget"] for row in pareto_run.table("curve/points")] == ["full", "0.5", "0.2"]
    assert {"finetune-0_5/valid_auc", "finetune-0_2/train_loss"} <= pareto_run.keys
    assert pareto_run.axes["finetune-0_5/*"] == "finetune-0_5/step"


def test_names_come_from_the_command_line(pme_run: Any, pareto_run: Any) -> None:
    assert (pme_run.name, pme_run.group, pme_run.notes) == ("first", "trials", "of the tests")
    assert pme_run.tags == ["small", "cpu"]
    assert (pme_run.project, pme_run.job_type) == ("pme-lightning", "pme")
    # Without them a run is named for its folder, and what it does is the command.
    assert (pareto_run.name, pareto_run.group, pareto_run.job_type) == ("run", "", "pareto")
    assert pme_run.config["seed"] == 42
    assert pme_run.config["data"]["init_args"]["rows"] == 6000
    assert pme_run.exit_code == 0
