"""Checking a configuration by its classes, and filling it in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme

from pme_lightning.class_path import import_class
from pme_lightning.configuration.command_line import parse_words
from pme_lightning.configuration.composition import compose
from pme_lightning.configuration.config_text import config_text
from pme_lightning.configuration.objects import build
from pme_lightning.configuration.parser import parse_config
from pme_lightning.errors import BadInput
from pme_lightning.search import Magnitude


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("search", ["pme", "magnitude"])
def test_arguments_of_classes_within_classes_can_be_null(search: str) -> None:
    # Whether the file of the choice names them or not.
    words = [f"search={search}", "search.schedule.max_steps=null", "search.schedule.epochs=3"]
    node = parse_config(compose(parse_words(words)))[1].search.init_args.schedule.init_args
    assert (node.max_steps, node.epochs) == (None, 3.0)
    with pytest.raises(
        BadInput, match=r"unknown key 'search.schedule.mx_steps' \(=null\).*'search.schedule.max_steps'"
    ):
        parse_config(compose(parse_words([*words, "search.schedule.mx_steps=null"])))


def test_the_last_word_on_a_key_holds_when_it_is_null() -> None:
    words = ["search.schedule.max_steps=100", "search.init_args.schedule.max_steps=null"]
    assert parse_config(compose(parse_words(words)))[1].search.init_args.schedule.init_args.max_steps is None
    assert parse_config(compose(parse_words(words[::-1])))[1].search.init_args.schedule.init_args.max_steps == 100


def test_a_file_may_leave_init_args_out_at_any_depth(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(
        "search:\n  budget: 0.1\n  schedule: {max_steps: null}\n"
        "  criterion: {class_path: pme_lightning.search.Fisher, axes: original}\n"
    )
    composition = compose(parse_words([f"--config={tmp_path / 'run.yaml'}"]))
    search = parse_config(composition)[1].search.init_args
    assert search.budget == 0.1
    assert search.schedule.init_args.max_steps is None
    assert search.schedule.init_args.min_steps == 200
    assert search.criterion.init_args.as_dict() == {"axes": "original"}
    # As `explain` tells where a value comes from.
    layer = composition.layers[-1][1]
    assert layer["search"]["init_args"]["budget"] == 0.1


@pytest.mark.parametrize("text", ["transfer: {init: null}", "search: {criterion: null}", "optimizer: {lr: null}"])
def test_a_file_sets_nothing_to_null_that_cannot_be(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(BadInput, match=r"expected .*, not null"):
        parse_config(compose(parse_words([f"--config={tmp_path / 'run.yaml'}"])))


def test_the_configuration_names_the_same_files_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "saved").mkdir()
    for name in ("a.parquet", "b.parquet"):
        write(tmp_path / name, "")
    words = ["data=parquet", "data.vocabulary=saved", "data.cache_dir=new", "data.label=y"]

    def data(path: str) -> object:
        return parse_config(compose(parse_words([*words, f"data.path={path}"])))[1].data.init_args

    assert data("a.parquet").path == str(tmp_path / "a.parquet")
    assert data("a.parquet").vocabulary == str(tmp_path / "saved")
    assert data("a.parquet").cache_dir == str(tmp_path / "new")
    assert data("[a.parquet,b.parquet]").path == [str(tmp_path / name) for name in ("a.parquet", "b.parquet")]
    assert data("*.parquet").path == str(tmp_path / "*.parquet")
    assert data("reczoo/Frappe_x1").path == "reczoo/Frappe_x1", "what is on the hub is no file"


def test_a_class_named_short_starts_from_nothing() -> None:
    def configured(*words: str) -> Any:
        return parse_config(compose(parse_words([*words])))[1]

    table = configured("embedding_optimizer=SparseAdam").embedding_optimizer
    assert import_class(table.class_path) is torch.optim.SparseAdam
    assert table.init_args == configured("embedding_optimizer=torch.optim.SparseAdam").embedding_optimizer.init_args
    network = configured("--optimizer=SGD", "optimizer.lr=0.5").optimizer
    assert import_class(network.class_path) is torch.optim.SGD
    assert network.init_args.lr == 0.5
    assert network.init_args.fused is None, "Adam's"
    criterion = configured("search.criterion=Magnitude").search.init_args.criterion
    assert import_class(criterion.class_path) is Magnitude
    assert criterion.init_args.as_dict() == {"axes": "original"}


def test_what_a_class_has_objects_for_by_default_can_be_written_and_built() -> None:
    callbacks = (
        "[{class_path: lightning.pytorch.callbacks.Timer}, {class_path: lightning.pytorch.callbacks.RichProgressBar}]"
    )
    parser, config = parse_config(compose(parse_words([f"trainer.callbacks={callbacks}"])))
    assert "interval: step" in config_text(parser, config, "fit")
    timer, bar = build(config.trainer.callbacks)
    assert isinstance(timer, Timer)
    assert bar.theme == RichProgressBarTheme()
