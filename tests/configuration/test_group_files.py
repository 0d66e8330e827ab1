"""The groups and the files of their choices."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pme_lightning.configuration.command_line import parse_words
from pme_lightning.configuration.composition import compose
from pme_lightning.configuration.group_files import BESIDE, GROUPS, GroupFiles
from pme_lightning.configuration.yaml_files import read_yaml


def test_every_group_offers_what_is_documented() -> None:
    files = GroupFiles()
    assert set(files.choices("backbone")) == {"fm", "deepfm", "dcn", "dcnv2", "autoint", "autoint_plus"}
    rules, learned = (
        {"uniform", "popularity", "mde", "random"},
        {"pme", "fisher", "at_init", "magnitude", "sseds", "pep"},
    )
    assert set(files.choices("search")) == rules | learned
    assert {"synthetic", "parquet", "csv", "hf", "frappe", "movielenslatest"} <= set(files.choices("data"))
    assert {"criteo_x1", "criteo_x4", "avazu_x1", "avazu_x4"} <= set(files.choices("data"))
    assert set(files.choices("trainer")) == {"cpu", "gpu", "ddp", "sharded"}
    assert set(files.choices("logger")) == {"none", "csv", "wandb", "tensorboard"}
    assert set(files.choices("averaging")) == {"none", "ema"}
    assert files.choices("optimizer")
    assert files.choices("experiment")


@pytest.mark.parametrize("group", GROUPS)
def test_every_choice_says_what_it_is(group: str) -> None:
    files = GroupFiles()
    for choice in files.choices(group):
        assert files.description(group, choice), f"{group}/{choice}.yaml has no comment on its first line"


@pytest.mark.parametrize("group", [g for g in GROUPS if g != "experiment"])
def test_every_choice_sets_its_own_group_only(group: str) -> None:
    files = GroupFiles()
    for choice in files.choices(group):
        found = list(files.load(group, choice))
        assert found[0] == group
        assert set(found[1:]) <= set(BESIDE.get(group, ()))


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_users_folder_adds_choices_and_overrides_ours(tmp_path: Path) -> None:
    write(tmp_path / "backbone" / "mine.yaml", "# Mine\nbackbone: {class_path: mine.Net}")
    write(tmp_path / "optimizer" / "adam_adagrad.yaml", "# Theirs\noptimizer: {class_path: mine.Adam}")
    files = GroupFiles(tmp_path)
    assert files.description("backbone", "mine") == "Mine"
    assert "fm" in files.choices("backbone")
    composed = compose(parse_words([f"config_dir={tmp_path}", "backbone=mine"])).config
    assert composed["backbone"] == {"class_path": "mine.Net"}
    assert composed["optimizer"] == {"class_path": "mine.Adam"}


def test_numbers_as_people_write_them(tmp_path: Path) -> None:
    text = "a: 1e-3\nb: 1.0e-3\nc: 5\nd: 1_000\ne: 2.5\nf: .5\ng: -1e5\nh: 1e3x\ni: 20MB"
    loaded = read_yaml(write(tmp_path / "n.yaml", text))
    assert loaded == yaml.safe_load(text) | {"a": 0.001, "g": -100000.0}
