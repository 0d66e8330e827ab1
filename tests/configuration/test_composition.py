"""Putting one configuration together."""

from __future__ import annotations

from pathlib import Path

import pytest

from pme_lightning.configuration.command_line import parse_words
from pme_lightning.configuration.composition import compose, merge
from pme_lightning.configuration.group_files import GroupFiles
from pme_lightning.configuration.yaml_files import read_yaml
from pme_lightning.errors import BadInput


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_another_class_takes_nothing_over() -> None:
    before = {"backbone": {"class_path": "m.X", "init_args": {"dropout": 0.3}}, "seed": 1}
    after = merge(before, {"backbone": {"class_path": "m.Y", "init_args": {"depth": 2}}})
    assert after == {"backbone": {"class_path": "m.Y", "init_args": {"depth": 2}}, "seed": 1}
    assert before["backbone"]["init_args"] == {"dropout": 0.3}


def test_the_same_class_is_merged() -> None:
    before = {"backbone": {"class_path": "m.X", "init_args": {"dropout": 0.3, "depth": 1}}}
    after = merge(before, {"backbone": {"class_path": "m.X", "init_args": {"depth": 2}}})
    assert after["backbone"]["init_args"] == {"dropout": 0.3, "depth": 2}


def test_choosing_a_group_after_a_config_file_starts_from_nothing(tmp_path: Path) -> None:
    config = write(
        tmp_path / "run.yaml",
        "backbone: {class_path: pme_lightning.backbones.DeepFM, init_args: {dropout: 0.9, hidden_units: [7]}}\n"
        "trainer: {max_epochs: 77, accelerator: cpu}",
    )
    composed = compose(parse_words([f"--config={config}", "backbone=dcn", "trainer=gpu"])).config
    own = read_yaml(GroupFiles().choices("backbone")["dcn"])["backbone"]
    assert composed["backbone"] == own
    assert composed["trainer"]["accelerator"] == "gpu"


def test_naming_a_class_carries_nothing_over() -> None:
    composed = compose(parse_words(["backbone=pme_lightning.backbones.FM", "--search.criterion=my.Own"]))
    assert composed.config["backbone"] == {"class_path": "pme_lightning.backbones.FM"}
    assert composed.config["search"]["init_args"]["criterion"] == {"class_path": "my.Own"}
    assert composed.overrides == []


def test_a_config_file_names_groups_and_the_command(tmp_path: Path) -> None:
    config = write(tmp_path / "run.yaml", "command: search\ngroups: {backbone: fm}\nmodel: {embedding_dim: 5}")
    composed = compose(parse_words([f"--config={config}"]))
    assert composed.command == "search"
    assert composed.config["backbone"]["class_path"].endswith(".FM")
    assert composed.config["model"]["embedding_dim"] == 5
    assert "groups" not in composed.config
    assert compose(parse_words(["fit", f"--config={config}"])).command == "fit"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["backbone=deepfn"], "backbone=deepfn: no such choice; did you mean 'deepfm'"),
        (["--config=nowhere.yaml"], "config file 'nowhere.yaml' does not exist"),
        (["config_dir=nowhere"], "no folder 'nowhere'"),
        (["experiment=nope"], "experiment=nope: no such choice"),
    ],
)
def test_what_is_not_there_is_named(words: list[str], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        compose(parse_words(words))


@pytest.mark.parametrize(
    ("text", "said"),
    [("a: [1", "not valid YAML at line"), ("- 1", "must hold keys"), ("groups: {bakbone: fm}", "bakbone")],
)
def test_a_broken_config_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path / "broken.yaml", text)
    with pytest.raises(BadInput, match=said):
        compose(parse_words([f"--config={path}"]))


@pytest.mark.parametrize(
    "words",
    [
        ["search=my.Search", "search.criterion=my.Own"],
        ["--search.criterion=my.Own", "--search=my.Search"],
        ["search.criterion=Magnitude", "search.init_args.criterion=my.Own", "search.class_path=my.Search"],
    ],
)
def test_a_class_drops_no_class_that_is_named_for_one_of_its_arguments(words: list[str]) -> None:
    composed = compose(parse_words(words))
    assert composed.config["search"] == {"class_path": "my.Search"}
    assert composed.overrides[-1][1] == "my.Own"
