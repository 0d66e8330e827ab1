"""What is shown while a phase runs: a bar on a terminal, plain lines in a file."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer
from rich.console import Console
from torch.utils.data import DataLoader, IterableDataset

from pme_lightning import CTRModule
from pme_lightning.callbacks import PruningCallback, TransferCallback
from pme_lightning.data.batches import keep
from pme_lightning.progress import phase_bar, phase_lines
from pme_lightning.progress.display import phase_progress
from pme_lightning.progress.phase_bar import PhaseBar
from pme_lightning.progress.phase_lines import PhaseLines
from pme_lightning.search import AfterWarmup, Fisher, Gradual, NoTraining, Prefix, Uniform

MakeTrainer = Callable[..., Trainer]


def model(data: Any) -> CTRModule:
    return CTRModule(data.field_tokens, embedding_dim=4, backbone_args={"hidden_units": [4]})


def search(schedule: Any, criterion: Any = None) -> PruningCallback:
    return PruningCallback(criterion or Fisher(), schedule, Prefix(), budget=0.5)


def test_a_line_an_epoch_tells_loss_metrics_and_speed(
    tiny: Any, make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make_trainer(max_epochs=2, callbacks=[PhaseLines("full")], limit_val_batches=None)
    trainer.fit(model(tiny), datamodule=tiny)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for number, line in enumerate(lines, start=1):
        pattern = (
            rf"  full: epoch {number}, loss 0\.\d{{4}}, AUC 0\.\d{{4}}, logloss 0\.\d{{4}}, [\d,]+ rows/s, [\d.]+ s"
        )
        assert re.fullmatch(pattern, line)


def test_an_epoch_without_a_validation_tells_none(
    tiny: Any, make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make_trainer(
        max_epochs=3, callbacks=[PhaseLines("full")], limit_val_batches=None, check_val_every_n_epoch=2
    )
    trainer.fit(model(tiny), datamodule=tiny)
    assert ["AUC" in line for line in capsys.readouterr().out.splitlines()] == [False, True, False]


@pytest.mark.parametrize("batches_of_a_step", [1, 3])
def test_the_loss_of_a_line_is_the_mean_over_the_epoch(
    batches_of_a_step: int, tiny: Any, make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    class Noting(Callback):
        def __init__(self) -> None:
            self.losses: list[float] = []

        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *rest: Any) -> None:
            self.losses.append(float(pl_module.batch_loss))

    noting = Noting()
    trainer = make_trainer(
        max_epochs=1, callbacks=[noting, PhaseLines("full")], accumulate_grad_batches=batches_of_a_step
    )
    trainer.fit(model(tiny), datamodule=tiny)
    mean = sum(noting.losses) / len(noting.losses)
    assert f"loss {mean:.4f}," in capsys.readouterr().out


def test_a_search_tells_how_far_it_has_pruned_and_what_it_found(
    tiny: Any, make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    callback = search(Gradual(epochs=2.0))
    make_trainer(max_epochs=-1, callbacks=[callback, PhaseLines("search")]).fit(model(tiny), datamodule=tiny)
    first, second, found = capsys.readouterr().out.splitlines()
    kept = float(re.search(r"kept ([\d.]+)%", first)[1])  # type: ignore[index]
    assert 50 < kept < 100
    assert "kept" not in second
    result = callback.result
    assert result is not None
    share, mean = result.parameters / (33 * 5), result.sizes.double().mean()
    assert found.startswith(f"  search: kept {result.parameters} values ({share:.1%}): sizes 0 to ")
    assert f", mean {mean:.2f}, " in found


def test_a_rule_tells_what_it_found_without_an_epoch(
    tiny: Any, make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    callbacks = [search(NoTraining(), Uniform()), PhaseLines("search")]
    make_trainer(max_epochs=-1, callbacks=callbacks).fit(model(tiny), datamodule=tiny)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("  search: kept ")


def test_a_long_epoch_gets_a_line_a_tenth_and_no_more(
    tiny: Any, make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phase_lines, "_SECONDS_BETWEEN_LINES", 0.0)
    tiny.batch_size = 8  # 40 batches
    make_trainer(max_epochs=1, callbacks=[PhaseLines("full")]).fit(model(tiny), datamodule=tiny)
    *within, last = capsys.readouterr().out.splitlines()
    assert [re.search(r"(\d+)% of it", line)[1] for line in within] == [f"{10 * k}" for k in range(1, 10)]  # type: ignore
    assert "of it" not in last


def test_a_search_of_many_short_epochs_gets_ten_lines(
    tiny: Any, make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    callbacks = [search(AfterWarmup(epochs=40.0)), PhaseLines("search")]
    tiny.batch_size = 320
    make_trainer(max_epochs=-1, callbacks=callbacks).fit(model(tiny), datamodule=tiny)
    *lines, found = capsys.readouterr().out.splitlines()
    assert [re.search(r"(\d+)% of the search", line)[1] for line in lines] == [f"{10 * k}" for k in range(1, 11)]  # type: ignore
    assert "kept" in found


def bar(phase: str) -> tuple[PhaseBar, io.StringIO]:
    out = io.StringIO()
    return PhaseBar(phase, Console(file=out, force_terminal=True, width=80)), out


def plain(text: str) -> list[str]:
    return [line.rstrip() for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)) if line.strip()]


def test_the_bar_of_a_search_is_that_of_the_whole_search(
    tiny: Any, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phase_bar, "_SECONDS_BETWEEN_LOOKS", 0.0)
    shown, out = bar("search")
    make_trainer(max_epochs=-1, callbacks=[search(AfterWarmup(epochs=2.0)), shown]).fit(model(tiny), datamodule=tiny)
    lines = plain(out.getvalue())
    assert any(re.match(r"search ━+ +0%", line) for line in lines)
    assert any(re.match(r"search ━+ 100% 0:00 left +[\d,]+ rows/s  loss 0\.\d{4}  kept \d\d%", line) for line in lines)
    assert sum("epoch" in line for line in lines) == 2
    assert max(map(len, lines)) <= 100


def test_the_bar_of_a_fine_tune_tells_the_auc_and_what_is_kept(
    tiny: Any, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phase_bar, "_SECONDS_BETWEEN_LOOKS", 0.0)
    searched = search(NoTraining(), Uniform())
    make_trainer(max_epochs=-1, callbacks=[searched]).fit(model(tiny), datamodule=tiny)
    assert searched.result is not None
    shown, out = bar("finetune")
    callbacks = [TransferCallback(searched.result), shown]
    trainer = make_trainer(max_epochs=2, callbacks=callbacks, limit_val_batches=None)
    module = model(tiny)
    trainer.fit(module, datamodule=tiny)
    text = "\n".join(plain(out.getvalue()))
    assert "finetune 1/2" in text
    assert "finetune: validation" in text
    kept = module.embedding.num_parameters / module.full_parameters
    assert re.search(rf"finetune 2/2 .* AUC 0\.\d{{4}}  kept {kept:.0%}", text)
    assert "\x1b[?25h" in out.getvalue()  # the cursor is given back


class Endless(IterableDataset):
    """Batches of which nobody knows how many there are."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __iter__(self) -> Iterator[Any]:
        return iter(self.data.train_dataloader())


@pytest.mark.parametrize("kind", [PhaseLines, PhaseBar])
def test_rows_without_a_known_end_are_shown_too(
    kind: type,
    tiny: Any,
    make_trainer: MakeTrainer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(phase_bar, "_SECONDS_BETWEEN_LOOKS", 0.0)
    monkeypatch.setattr(phase_lines, "_SECONDS_BETWEEN_LINES", 0.0)
    out = io.StringIO()
    shown = (
        PhaseLines("full") if kind is PhaseLines else PhaseBar("full", Console(file=out, force_terminal=True, width=80))
    )
    loader = DataLoader(Endless(tiny), batch_size=None, collate_fn=keep)
    trainer = make_trainer(max_epochs=2, callbacks=[shown])
    trainer.fit(model(tiny), train_dataloaders=loader)
    assert trainer.num_training_batches == float("inf")
    lines = plain(capsys.readouterr().out + out.getvalue())
    assert sum("full: epoch" in line for line in lines) == 2


@pytest.mark.parametrize(
    ("tty", "term", "kind"), [(True, "xterm", PhaseBar), (True, "dumb", PhaseLines), (False, "xterm", PhaseLines)]
)
def test_bars_are_for_terminals_alone(tty: bool, term: str, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: tty, raising=False)
    monkeypatch.setenv("TERM", term)
    assert type(phase_progress("full")) is kind
