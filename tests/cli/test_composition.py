"""Sorting the words of a command line, and putting one configuration together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme

from pme_lightning.class_path import import_class
from pme_lightning.configuration.command_line import parse_words
from pme_lightning.configuration.commands import COMMANDS
from pme_lightning.configuration.composition import compose, merge
from pme_lightning.configuration.config_text import config_text
from pme_lightning.configuration.group_files import BESIDE, GROUPS, GroupFiles
from pme_lightning.configuration.objects import build
from pme_lightning.configuration.parser import parse_config
from pme_lightning.configuration.yaml_files import read_yaml
from pme_lightning.errors import BadInput
from pme_lightning.search import Magnitude


def test_words_are_sorted_by_kind() -> None:
    words = ["search", "backbone=fm", "search.budget=0.1", "--trainer.max_epochs", "3", "--config=a.yaml", "-c"]
    words += ["b.yaml", "config_dir=mine", "--print_config", "sizes=x=y.safetensors", "data.columns=[a.b,c]"]
    line = parse_words(words)
    assert line.command == "search"
    assert line.choices == {"backbone": "fm"}
    assert line.overrides == [
        ("search.budget", "0.1"),
        ("trainer.max_epochs", "3"),
        ("sizes", "x=y.safetensors"),
        ("data.columns", "[a.b,c]"),
    ]
    assert line.files == ["a.yaml", "b.yaml"]
    assert line.config_dir == "mine"
    assert line.flags == ["--print_config"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["serch"], "did you mean 'search'"),
        (["search", "fit"], "two commands"),
        (["--seed"], "needs a value"),
        (["2x=3"], "not a name"),
    ],
)
def test_words_that_mean_nothing_are_named(words: list[str], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        parse_words(words)


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


def test_another_class_takes_nothing_over() -> None:
    before = {"backbone": {"class_path": "m.X", "init_args": {"dropout": 0.3}}, "seed": 1}
    after = merge(before, {"backbone": {"class_path": "m.Y", "init_args": {"depth": 2}}})
    assert after == {"backbone": {"class_path": "m.Y", "init_args": {"depth": 2}}, "seed": 1}
    assert before["backbone"]["init_args"] == {"dropout": 0.3}


def test_the_same_class_is_merged() -> None:
    before = {"backbone": {"class_path": "m.X", "init_args": {"dropout": 0.3, "depth": 1}}}
    after = merge(before, {"backbone": {"class_path": "m.X", "init_args": {"depth": 2}}})
    assert after["backbone"]["init_args"] == {"dropout": 0.3, "depth": 2}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


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


def test_a_users_folder_adds_choices_and_overrides_ours(tmp_path: Path) -> None:
    write(tmp_path / "backbone" / "mine.yaml", "# Mine\nbackbone: {class_path: mine.Net}")
    write(tmp_path / "optimizer" / "adam_adagrad.yaml", "# Theirs\noptimizer: {class_path: mine.Adam}")
    files = GroupFiles(tmp_path)
    assert files.description("backbone", "mine") == "Mine"
    assert "fm" in files.choices("backbone")
    composed = compose(parse_words([f"config_dir={tmp_path}", "backbone=mine"])).config
    assert composed["backbone"] == {"class_path": "mine.Net"}
    assert composed["optimizer"] == {"class_path": "mine.Adam"}


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


def test_numbers_as_people_write_them(tmp_path: Path) -> None:
    text = "a: 1e-3\nb: 1.0e-3\nc: 5\nd: 1_000\ne: 2.5\nf: .5\ng: -1e5\nh: 1e3x\ni: 20MB"
    loaded = read_yaml(write(tmp_path / "n.yaml", text))
    assert loaded == yaml.safe_load(text) | {"a": 0.001, "g": -100000.0}


def test_help_lists_commands_groups_and_choices_on_two_screens() -> None:
    from pme_lightning.help.overview import help_text

    text = help_text(GroupFiles())
    lines = text.splitlines()
    assert len(lines) <= 2 * 40
    assert max(map(len, lines)) <= 100
    for command in COMMANDS:
        assert f"  {command} " in text
    for group in GROUPS:
        for choice in GroupFiles().choices(group):
            assert choice in text


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
