"""What the command line says about itself: --help, list and explain."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pme_lightning.cli import main
from pme_lightning.configuration.commands import COMMANDS, QUESTIONS
from pme_lightning.configuration.group_files import GROUPS, GroupFiles
from pme_lightning.help.overview import help_text

Shell = Callable[..., "subprocess.CompletedProcess[str]"]


def test_help_lists_commands_groups_and_choices_on_two_screens() -> None:
    text = help_text(GroupFiles())
    lines = text.splitlines()
    assert len(lines) <= 2 * 40
    assert max(map(len, lines)) <= 100
    for command in COMMANDS:
        assert f"  {command} " in text
    for group in GROUPS:
        for choice in GroupFiles().choices(group):
            assert choice in text


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    main(list(words))
    return capsys.readouterr().out


def test_list_shows_every_choice_with_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    text, files = told(capsys, "list"), GroupFiles()
    for group in GROUPS:
        assert f"{group}=NAME: " in text
        for choice in files.choices(group):
            assert re.search(rf"^  {choice}  +{re.escape(files.description(group, choice)[:20])}", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 80


def test_list_shows_choices_of_the_users_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "backbone").mkdir()
    (tmp_path / "backbone" / "mine.yaml").write_text("# Two towers\nbackbone:\n  class_path: my.Towers\n")
    text = told(capsys, "list", "backbone", f"config_dir={tmp_path}")
    assert re.search(r"^  mine  +Two towers$", text, re.MULTILINE)
    assert "  deepfm" in text
    assert "optimizer=NAME" not in text


def test_list_answers_without_torch(shell: Shell) -> None:
    code = "import sys; from pme_lightning.cli import main; main(['list']); assert 'torch' not in sys.modules"
    done = shell(code, program="-c")
    assert done.returncode == 0, done.stderr


def test_help_names_the_questions(capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, "--help")
    for command in {**COMMANDS, **QUESTIONS}:
        assert re.search(rf"^  {command}  ", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["search.budget"],
            ["a fraction of the full-size per-token parameters", "bytes", "0.2, from search=pme", "PruningCallback"],
        ),
        (
            ["search.budget", "search.budget=20MB"],
            ["20MB, from the command line (search.budget=20MB)", "default     0.2"],
        ),
        (["search.budget", "--backbone=FM"], ["0.2, from search=pme"]),
        (["trainer.max_epochs"], ["Stop training once", "10, from trainer=cpu", "whole number or null"]),
        (["optimizer.lr"], ["learning rate", "0.003, from optimizer=adam_adagrad", "0.001 in Adam"]),
        (["optimizer.lr", "optimizer=sgd"], ["learning rate", "from optimizer=sgd", "in SGD"]),
        (["data.batch_size", "experiment=goodbooks_deepfm"], ["training rows per batch", "4096, from experiment="]),
        (["early_stopping.patience"], ["1, from defaults.yaml", "EarlyStopping"]),
        (["seed"], ["42, from ", "Seed of everything random"]),
        (["search.criterion"], ["pme_lightning.search.Fisher", "search.criterion.axes", "from search=pme"]),
        (["search.criterion.axes"], ["auto", "auto, nested, principal, field or original"]),
        (["search.init_args.budget"], ["0.2, from search=pme"]),
        (["backbone"], ["  dcnv2  ", "backbone.dropout", "now: pme_lightning.backbones.DeepFM, from backbone=deepfm"]),
        (["backbone", "backbone=fm"], ["now: pme_lightning.backbones.FM, from backbone=fm"]),
        (["experiment"], ["goodbooks_deepfm"]),
        (["logger"], ["tensorboard", "now: null, from logger=none"]),
        (["trainer"], ["trainer.max_epochs", "trainer.precision"]),
        (["transfer"], ["now: pme_lightning.callbacks.TransferCallback, from defaults.yaml", "transfer.init=warm"]),
        (
            ["embedding_optimizer"],
            ["LazyAdagrad, from optimizer=adam_adagrad", "embedding_optimizer.decay_interval=64"],
        ),
        (["embedding_optimizer", "optimizer=sgd"], ["now: null, from "]),
        (["pareto"], ["pareto (a command): search once"]),
        (["seed", "baseline"], ["Seed of everything", "full-size model"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_explain_says_what_it_is_and_where_its_value_comes_from(
    words: list[str], said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = told(capsys, "explain", *words)
    for part in said:
        assert part in re.sub(r"\s*\n\s+", " ", text) or part in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("list backbon", "list: 'backbon' is no group; did you mean 'backbone'?"),
        ("explain", "explain what?"),
        ("explain serch.budget", "did you mean 'search.budget'?"),
        ("explain trainer.max_epoch", "did you mean 'trainer.max_epochs'?"),
        ("explain nothing.at.all", "unknown key 'nothing.at.all'"),
        (
            "explain averaging.decay",
            "there is no averaging (null, from averaging=none), so nothing is to be set of it; name one: "
            "explain averaging.decay averaging=CHOICE",
        ),
        ("lst", "did you mean 'list'?"),
    ],
)
def test_questions_that_cannot_be_answered(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 2
    complaint = capsys.readouterr().err
    assert said in complaint
    assert len(complaint.splitlines()) == 1


def test_a_configuration_file_cannot_ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "asks.yaml").write_text("command: explain\n")
    with pytest.raises(SystemExit):
        main([f"--config={tmp_path / 'asks.yaml'}"])
    assert "command 'explain' is unknown" in capsys.readouterr().err
