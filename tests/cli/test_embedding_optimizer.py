"""An optimizer of its own for the embedding table, from the command line: composed, switched, checked and trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pme_lightning.cli import main
from pme_lightning.configuration.command_line import parse_words
from pme_lightning.configuration.composition import compose
from pme_lightning.configuration.group_files import GroupFiles
from pme_lightning.configuration.objects import optimizer_arguments
from pme_lightning.configuration.parser import parse_config

Run = Callable[..., dict[str, Any]]
FAST = ["backbone=deepfm", "backbone.hidden_units=[16]"]


def parsed(*words: str) -> dict[str, Any]:
    """What the model is told of its optimizers."""
    return optimizer_arguments(parse_config(compose(parse_words(words)))[1])


def test_a_choice_sets_both() -> None:
    arguments = parsed("optimizer=adam_adagrad")
    assert arguments["optimizer"] == "torch.optim.Adam"
    assert arguments["embedding_optimizer"] == "pme_lightning.optim.LazyAdagrad"
    said = GroupFiles().load("optimizer", "adam_adagrad")["embedding_optimizer"]["init_args"]
    assert said.items() <= arguments["embedding_optimizer_args"].items()
    assert parsed() == arguments, "it is what holds when nothing is said"
    assert parsed("optimizer=adam")["embedding_optimizer"] is None


@pytest.mark.parametrize("key", ["embedding_optimizer.lr", "--embedding_optimizer.init_args.lr"])
def test_the_arguments_are_set_apart(key: str) -> None:
    arguments = parsed("optimizer=adam_adagrad", f"{key}=0.5")
    assert arguments["embedding_optimizer_args"]["lr"] == 0.5
    assert arguments["optimizer_args"]["lr"] == 3e-3
    assert parsed("optimizer=adam_adagrad", "optimizer.lr=0.5")["embedding_optimizer_args"]["lr"] == 0.1


def test_a_class_is_named_without_a_choice() -> None:
    arguments = parsed("embedding_optimizer=torch.optim.Adagrad", "embedding_optimizer.lr=0.5")
    assert arguments["optimizer"] == "torch.optim.Adam"
    assert arguments["embedding_optimizer"] == "torch.optim.Adagrad"
    assert arguments["embedding_optimizer_args"]["lr"] == 0.5
    # Another class takes nothing over.
    arguments = parsed("optimizer=adam_adagrad", "embedding_optimizer=torch.optim.SGD")
    assert arguments["embedding_optimizer"] == "torch.optim.SGD"
    assert arguments["embedding_optimizer_args"]["weight_decay"] == 0.0
    assert parsed("optimizer=adam_adagrad", "embedding_optimizer=null")["embedding_optimizer"] is None


@pytest.mark.parametrize("choice", sorted(set(GroupFiles().choices("optimizer")) - {"adam_adagrad"}))
def test_switching_to_another_choice_leaves_nothing_behind(choice: str, tmp_path: Path) -> None:
    alone = compose(parse_words([f"optimizer={choice}"])).config
    before = compose(parse_words(["optimizer=adam_adagrad"])).config
    after = compose(parse_words([f"optimizer={choice}"]), base=before).config
    own = alone.get("embedding_optimizer")  # a choice may name an optimizer of the table itself
    assert after.get("embedding_optimizer") == own
    assert after["optimizer"] == alone["optimizer"]
    for text in (yaml.safe_dump(before), "groups: {optimizer: adam_adagrad}", "optimizer: adam_adagrad"):
        (tmp_path / "run.yaml").write_text(text)
        config = f"--config={tmp_path / 'run.yaml'}"
        assert parsed(config)["embedding_optimizer"] == "pme_lightning.optim.LazyAdagrad"
        assert parsed(config, f"optimizer={choice}")["embedding_optimizer"] == (own and own["class_path"])
    # And back: the choice is whole again, whatever was there.
    changed = before | {"embedding_optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 7.0}}}
    again = compose(parse_words(["optimizer=adam_adagrad"]), base=changed).config
    assert again["embedding_optimizer"] == before["embedding_optimizer"]


def test_a_config_file_may_set_an_argument_or_take_it_away(tmp_path: Path) -> None:
    config = f"--config={tmp_path / 'run.yaml'}"
    text = (
        "groups: {optimizer: adam_adagrad}\nembedding_optimizer: {class_path: pme_lightning.optim.LazyAdagrad, lr: 0.5}"
    )
    (tmp_path / "run.yaml").write_text(text)
    assert parsed(config)["embedding_optimizer_args"]["lr"] == 0.5
    assert parsed(config)["embedding_optimizer_args"]["weight_decay"] is None
    assert parsed(config, "embedding_optimizer.weight_decay=0.1")["embedding_optimizer_args"]["weight_decay"] == 0.1
    (tmp_path / "run.yaml").write_text("groups: {optimizer: adam_adagrad}\nembedding_optimizer: null")
    assert parsed(config)["embedding_optimizer"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("embedding_optimizer=torch.optim.Adagrd", "'torch.optim' has no class 'Adagrd': did you mean 'Adagrad'"),
        ("embedding_optimizer=torch.nn.Linear", "embedding_optimizer: import path torch.nn.Linear does not correspond"),
        ("embedding_optimizer=adagrad", "embedding_optimizer: expected the import path of a class (given: adagrad)"),
        ("optimizer=adam embedding_optimizer.lr=1", "embedding_optimizer is null; name its class as well"),
        ("embeding_optimizer.lr=1", "did you mean 'embedding_optimizer.lr'"),
        ("optimizer=adam_adagrad embedding_optimizer.lrr=1", "did you mean 'embedding_optimizer.lr'"),
        ("optimizer=adam_adagrad embedding_optimizer.lr=high", "embedding_optimizer.lr: expected a float"),
        (
            "optimizer=adam_adagrad embedding_optimizer.lr=-1",
            "embedding_optimizer: LazyAdagrad: lr is -1.0; it must be 0 or more",
        ),
        ("embedding_optimizer=torch.optim.LBFGS", "embedding_optimizer: LBFGS calls the model in its steps"),
        ("optimizer=adam_adagrd", "did you mean 'adam_adagrad'"),
    ],
)
def test_wrong_words_are_named(
    words: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(words.split())
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert not list(tmp_path.iterdir())


def saved(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def test_search_transfer_finetune_and_test_all_use_it(run: Run) -> None:
    pme = run(*FAST, "optimizer=adam_adagrad", "search.budget=0.3", "baseline=false")
    checkpoint = pme["folder"] / "checkpoints/finetune/best.ckpt"
    assert pme["embedding"]["fraction"] <= 0.3
    state = saved(checkpoint)
    assert state["hyper_parameters"]["embedding_optimizer"] == "pme_lightning.optim.LazyAdagrad"
    network, table = state["optimizer_states"][0]["param_groups"]
    assert (network["lr"], table["lr"]) == (3e-3, 0.1)
    assert table["weight_decay"] == 16 / pme["data"]["rows"]["train"]
    assert state["hyper_parameters"]["field_decays"] is not None
    values = state["optimizer_states"][0]["state"][table["params"][0]]
    assert values["sum"].shape == state["state_dict"]["embedding.values"].shape
    # It learns, and otherwise than with one optimizer.
    other = run(*FAST, "optimizer=adam", "search.budget=0.3", "baseline=false")
    assert pme["test"]["auc"] > 0.55
    assert pme["test"] != other["test"]
    tested = run("test", f"ckpt_path={checkpoint}", small=False)
    assert tested["test"] == pytest.approx(pme["test"], abs=1e-6)


def test_finetune_takes_it_over_from_the_search_and_the_command_line_may_switch(run: Run) -> None:
    searched = run("search", *FAST, "optimizer=adam_adagrad", "embedding_optimizer.lr=0.05", "search.budget=0.3")
    sizes = f"sizes={searched['folder']}/sizes.safetensors"

    def groups(*words: str) -> list[float]:
        summary = run("finetune", sizes, *words, small=False)
        state = saved(summary["folder"] / "checkpoints/finetune/best.ckpt")
        model = summary["folder"] / "checkpoints/finetune/best.ckpt"
        tested = run("test", f"ckpt_path={model}", small=False)
        assert tested["test"] == pytest.approx(summary["test"], abs=1e-6)
        return [group["lr"] for group in state["optimizer_states"][0]["param_groups"]]

    assert groups() == [3e-3, 0.05]
    assert groups("optimizer=adam") == [1e-3]
    # From the searched model's checkpoint too, whatever it was trained with.
    assert groups("transfer.init=warm", "optimizer=sgd", "embedding_optimizer=torch.optim.Adam") == [0.1, 1e-3]


def test_finetune_averages_as_the_run_of_its_sizes_did(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    searched = run("search", "averaging=ema", "averaging.decay=0.5", "search.budget=0.3")
    capsys.readouterr()
    main(["finetune", f"sizes={searched['folder']}/sizes.safetensors", "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["averaging"]["init_args"]["decay"] == 0.5


def test_a_training_that_diverges_names_both_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["fit", "backbone=fm", "optimizer=adam_adagrad", "embedding_optimizer=torch.optim.SGD"]
    with pytest.raises(SystemExit):
        main([*words, "embedding_optimizer.lr=1e30", "data.rows=6000", "data.tokens=600"])
    assert "lower the learning rate (now 0.003, of the embedding 1e+30)" in capsys.readouterr().err
