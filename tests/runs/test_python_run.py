"""Whole runs from Python: what they return, and that they are the runs of the command line."""

from __future__ import annotations

import json
import logging
import os
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
import yaml
from lightning.pytorch import LightningDataModule
from lightning.pytorch.callbacks import ModelSummary
from torch import Tensor, nn

from pme_lightning import BadInput, Outcome, SearchResult, search_and_finetune
from pme_lightning.callbacks import PruningCallback
from pme_lightning.cli import main
from pme_lightning.data.frames import frame_file
from pme_lightning.search import AfterWarmup, Fisher, Prefix

QUICK: dict[str, Any] = {"search": "popularity", "trainer": {"max_epochs": 1}, "baseline": False}


class Towers(nn.Module):
    """A backbone of the user's own."""

    def __init__(self, num_fields: int, embedding_dim: int, width: int = 8) -> None:
        super().__init__()
        self.hidden = nn.Linear(num_fields * embedding_dim, width)
        self.out = nn.Linear(width, 1)

    def forward(self, embeddings: Tensor) -> Tensor:
        return self.out(self.hidden(embeddings.flatten(1)).relu()).squeeze(1)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def clicks(rows: int = 2000) -> pl.DataFrame:
    numbers = range(rows)
    columns = {"click": [i * 7 % 3 % 2 for i in numbers], "user": [i % 90 for i in numbers]}
    return pl.DataFrame(columns | {"item": [f"item {i * 7 % 50}" for i in numbers]})


def measured(outcome: Outcome, make_trainer: Any) -> dict[str, float]:
    """What a Trainer of the user's finds with what was returned."""
    found = make_trainer().test(outcome.module, outcome.data, verbose=False)[0]
    return {name.removeprefix("test_"): value for name, value in found.items()}


def test_it_is_the_run_of_the_command_line(tmp_path: Path) -> None:
    settings = {"data.rows": 3000, "data.tokens": 300, "data.num_fields": 3, "optimizer.lr": 0.01}
    outcome = search_and_finetune("synthetic", "fm", 0.3, run_dir=tmp_path / "python", settings=settings, **QUICK)
    assert outcome.folder == tmp_path / "python"
    words = ["backbone=fm", "search=popularity", "search.budget=0.3", "trainer.max_epochs=1", "baseline=false"]
    main([*words, "run_dir=words", *(f"{key}={value}" for key, value in settings.items())])
    configs = [(tmp_path / folder / "config.yaml").read_text() for folder in ("python", "words")]
    assert configs[0] == configs[1]
    summary = json.loads((tmp_path / "words" / "summary.json").read_text())
    assert outcome.summary["test"] == summary["test"]
    assert outcome.summary["embedding"] == summary["embedding"]
    assert json.loads((outcome.folder / "summary.json").read_text()) == outcome.summary


def test_a_data_module_and_a_backbone_of_the_users_own(tiny: Any, make_trainer: Any) -> None:
    outcome = search_and_finetune(tiny, Towers, 0.5, backbone_args={"width": 3}, **QUICK)
    assert outcome.data is tiny
    assert type(outcome.module.backbone) is Towers
    assert outcome.module.backbone.hidden.out_features == 3
    assert measured(outcome, make_trainer) == pytest.approx(outcome.summary["test"])
    assert outcome.sizes.fingerprint() == SearchResult.load(outcome.sizes_file).fingerprint()
    assert outcome.checkpoint.is_file()
    assert repr(outcome).startswith(f"Outcome(test AUC {outcome.summary['test']['auc']:.4f}, ")
    config = yaml.safe_load((outcome.folder / "config.yaml").read_text())
    assert config["data"] == f"{type(tiny).__module__}.TinyClicks (an object of a program)"
    assert config["backbone"]["class_path"] == f"{__name__}.Towers"


def test_the_baseline_leaves_the_data_numbered_for_the_model(tiny: Any, make_trainer: Any) -> None:
    outcome = search_and_finetune(tiny, Towers, 0.5, **QUICK | {"baseline": True})
    assert outcome.summary["baseline"]["embedding"]["fraction"] == 1.0
    assert measured(outcome, make_trainer) == pytest.approx(outcome.summary["test"])


def test_a_data_module_keeps_its_seed(tiny: Any) -> None:
    tiny.seed = 7
    search_and_finetune(tiny, "fm", budget=0.5, **QUICK)
    assert tiny.seed == 7


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_whatever_numbers_torch_makes_by_default(tiny: Any, dtype: torch.dtype) -> None:
    expected = search_and_finetune(tiny, "fm", budget=0.5, **QUICK).summary["test"]
    torch.set_default_dtype(dtype)
    try:
        with torch.no_grad():
            assert search_and_finetune(tiny, "fm", budget=0.5, **QUICK).summary["test"] == expected
            assert not torch.is_grad_enabled()
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)


def test_one_data_module_serves_several_runs(tiny: Any, make_trainer: Any) -> None:
    settings = QUICK | {"search": "pme", "settings": {"model.embedding_dim": 4}}
    first = search_and_finetune(tiny, "fm", 0.6, **settings)
    other = search_and_finetune(tiny, "fm", 0.4, **settings)
    again = search_and_finetune(tiny, "fm", 0.6, **settings)
    assert again.sizes.fingerprint() == first.sizes.fingerprint() != other.sizes.fingerprint()
    assert again.summary["test"] == first.summary["test"]
    for outcome in (first, other):
        assert measured(outcome, make_trainer) == pytest.approx(outcome.summary["test"])


def test_a_search_of_the_users_own(tiny: Any) -> None:
    search = PruningCallback(Fisher(), AfterWarmup(epochs=1), Prefix(), budget=0.6)
    outcome = search_and_finetune(tiny, "fm", search=search, trainer={"max_epochs": 1}, baseline=False)
    assert outcome.summary["search"]["criterion"] == "Fisher"
    assert outcome.summary["search"]["budget"] == "60%"
    assert search.result is not None
    assert search.result.fingerprint() == outcome.sizes.fingerprint()


def test_a_data_frame_becomes_a_file_that_repeats_the_run(tmp_path: Path) -> None:
    outcome = search_and_finetune(clicks(), "fm", 0.5, settings={"data.min_count": 2}, **QUICK)
    assert outcome.summary["data"]["name"] == "frame"
    assert outcome.data.fields == ["user", "item"]
    main([f"--config={outcome.folder / 'config.yaml'}", "run_dir=again"])
    again = json.loads((tmp_path / "again" / "summary.json").read_text())
    assert again["test"] == outcome.summary["test"]


def test_the_same_frame_is_the_same_file() -> None:
    frame = clicks(100)
    first = frame_file(frame)
    assert frame_file(frame.clone()) == first
    assert frame_file(frame.head(99)) != first
    assert pl.read_parquet(first).equals(frame)
    of_pandas = frame_file(pd.DataFrame(frame.to_dict(as_series=False)))
    assert pl.read_parquet(of_pandas).equals(frame)
    assert not list(first.parent.glob(".*"))


def test_a_path_is_read_like_any_other() -> None:
    clicks().write_parquet("clicks.parquet")
    outcome = search_and_finetune(Path("clicks.parquet"), "fm", 0.5, settings={"data.label": "click"}, **QUICK)
    assert outcome.summary["data"]["name"] == "clicks"


def test_pieces_are_set_by_the_keys_of_the_command_line(tiny: Any) -> None:
    settings = {"search.criterion.alpha": 1.0, "search.allocator.allowed_sizes": [2, 8]}
    outcome = search_and_finetune(tiny, Towers, 0.5, settings=settings, **QUICK)
    assert set(outcome.sizes.sizes.tolist()) <= {0, 2, 8}


class Plain(LightningDataModule):
    """A data module that knows nothing of tokens."""


CASES: list[tuple[dict[str, Any], str]] = [
    ({"data": 3}, "a data module, a data frame, a path or a choice is needed, not int"),
    ({"data": Plain()}, "Plain is no pme_lightning.data.EncodedDataModule"),
    ({"data": pl.DataFrame({"click": []})}, "the data frame has no rows"),
    ({"data": pl.DataFrame({"click": [object()]})}, "cannot be written as Parquet"),
    ({"data": "nowhere.parquet"}, "'nowhere.parquet' does not exist"),
    ({"backbone": "deepfn"}, "backbone: 'deepfn' is no choice; did you mean 'deepfm'?"),
    ({"backbone": "my.Net"}, "there is no module 'my'"),
    ({"backbone": nn.Linear(2, 2)}, "not an object of Linear"),
    ({"backbone_args": {"droput": 0.1}}, "did you mean 'backbone.dropout'?"),
    ({"search": "pne"}, "search: 'pne' is no choice; did you mean 'pme'?"),
    ({"logger": "cvs"}, "did you mean 'csv'?"),
    ({"budget": 0}, "is not a budget"),
    ({"trainer": {"max_epoch": 1}}, "did you mean 'trainer.max_epochs'?"),
    ({"trainer": {"devices": 2}}, "several processes are started by the command line"),
    ({"settings": {"optimiser.lr": 0.1}}, "did you mean 'optimizer"),
    ({"settings": {"ckpt_path": "x.ckpt"}}, "pme starts from nothing"),
]


@pytest.mark.parametrize(("given", "said"), CASES, ids=[said for _, said in CASES])
def test_bad_input_is_one_line(given: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        search_and_finetune(**given)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_what_is_given_as_an_object_is_set_there(tiny: Any) -> None:
    with pytest.raises(BadInput, match=r"settings: data\.batch_size: data is an object of yours: set it there"):
        search_and_finetune(tiny, settings={"data.batch_size": 3})
    search = PruningCallback(Fisher(), AfterWarmup(epochs=1), Prefix(), budget=0.4)
    with pytest.raises(BadInput, match="leave budget out"):
        search_and_finetune(tiny, budget=0.2, search=search)


def test_a_class_within_a_function_has_no_name_to_be_found_by(tiny: Any) -> None:
    class Hidden(Towers):
        pass

    with pytest.raises(BadInput, match="defined within a function"):
        search_and_finetune(tiny, Hidden)


class Activated(Towers):
    """A backbone with an object for a default, and one that any text names."""

    def __init__(
        self, num_fields: int, embedding_dim: int, activation: type[nn.Module] = nn.ReLU, kind: object = None
    ) -> None:
        super().__init__(num_fields, embedding_dim)
        self.activation = activation()


class Masked(Towers):
    """A backbone whose first-order weights are not its second parameter."""

    def forward(self, embeddings: Tensor, mask: Tensor | None = None, *, linear: Tensor) -> Tensor:
        assert mask is None
        return super().forward(embeddings) + linear.sum(1)


class Asking(Towers):
    """A backbone that asks for what nobody gives it."""

    def forward(self, embeddings: Tensor, first_order: Tensor) -> Tensor:
        return super().forward(embeddings) + first_order.sum(1)


Lost = type("Masked", (Towers,), {"__module__": __name__})


class Outer:
    """Holds a class."""

    class Inner(Towers):
        """A class that no import path names."""


def test_what_is_an_object_by_default_stays_with_the_class(tiny: Any) -> None:
    outcome = search_and_finetune(tiny, Activated, 0.5, **QUICK)
    assert type(outcome.module.backbone.activation) is nn.ReLU
    assert outcome.module.hparams["backbone_args"] == {"kind": None}


def test_first_order_weights_are_given_by_name(tiny: Any, make_trainer: Any) -> None:
    outcome = search_and_finetune(tiny, Masked, 0.5, **QUICK | {"search": "pme"})
    assert outcome.module.first_order
    assert measured(outcome, make_trainer) == pytest.approx(outcome.summary["test"])
    outcome.export("served")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"backbone": Asking}, r"Asking.forward asks for 'first_order'; it is given the embeddings"),
        ({"backbone": Lost}, "Masked is another class by now"),
        ({"backbone": Outer.Inner}, "defined within another class"),
        (
            {"backbone": type("Note", (Towers,), {"__module__": "builtins"})},
            "no builtins.Note to be found by this name",
        ),
        ({"backbone": Activated, "backbone_args": {"activation": nn.GELU}}, "a checkpoint holds numbers, texts"),
        ({"backbone": Activated, "backbone_args": {"kind": nn.GELU()}}, "an object of GELU cannot be given here"),
        ({"trainer": "gpu"}, "trainer: a mapping of options is needed, not a str"),
        ({"trainer": {"callbacks": [ModelSummary()]}}, r"name its class, {'class_path': 'module.Class'"),
        ({"settings": {"seed": 5}}, "settings: seed has an argument of its own"),
        ({"settings": {"experiment": "nothing"}}, "experiment=nothing: no such choice"),
        ({"search": ModelSummary()}, "search: ModelSummary is no search"),
    ],
)
def test_what_cannot_be_run_is_named(tiny: Any, given: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        search_and_finetune(tiny, **{"backbone": "fm", "budget": 0.5} | QUICK | given)
    assert not Path("runs").exists()


def test_settings_are_those_of_the_command_line(tiny: Any) -> None:
    settings = {"optimizer": "adam", "optimizer.lr": np.float32(0.5), "model.embedding_dim": np.int64(4)}
    outcome = search_and_finetune(tiny, "fm", np.float64(0.75), settings=settings, **QUICK)
    assert outcome.module.optimizer_class == "torch.optim.Adam"
    assert outcome.module.embedding_optimizer_class is None
    assert outcome.module.optimizer_args["lr"] == 0.5
    assert outcome.module.embedding.embedding_dim == 4
    Path("mine/backbone").mkdir(parents=True)
    (Path("mine/backbone") / "towers.yaml").write_text(
        f"backbone: {{class_path: {__name__}.Towers, init_args: {{width: 3}}}}"
    )
    outcome = search_and_finetune(tiny, "fm", 0.5, settings={"config_dir": "mine"}, **QUICK)
    assert type(outcome.module.backbone).__name__ == "FM"


def test_the_process_is_left_as_it_was(tiny: Any) -> None:
    def state() -> list[Any]:
        names = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
        seeds = [os.environ.get(name) for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")]
        levels = [logging.getLogger(name).level for name in names]
        return [levels, list(warnings.filters), seeds, torch.are_deterministic_algorithms_enabled()]

    def drawn() -> list[float]:
        return [random.random(), np.random.random(), float(torch.rand(()))]

    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(1)
    expected, before = [drawn(), drawn()], state()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(1)
    found = [drawn()]
    search_and_finetune(tiny, "fm", 0.5, **QUICK | {"trainer": {"max_epochs": 1, "deterministic": True}})
    assert [*found, drawn()] == expected
    assert state() == before


def test_a_model_of_other_sizes_is_refused(tiny: Any, make_trainer: Any) -> None:
    settings = QUICK | {"settings": {"model.embedding_dim": 4}}
    first = search_and_finetune(tiny, "fm", 0.6, **settings)
    other = search_and_finetune(tiny, "fm", 0.4, **settings)
    data = first.data
    assert other.data is data is tiny
    with pytest.raises(BadInput, match=r"by its sizes .* those of another model .*: call data.renumber"):
        make_trainer().test(first.module, data, verbose=False)
    tiny.renumber(first.sizes.order(), first.sizes.fingerprint())
    assert make_trainer().test(first.module, data, verbose=False)[0]["test_auc"] == first.summary["test"]["auc"]


def test_a_frame_is_kept_in_the_cache_that_is_named(tmp_path: Path) -> None:
    cache = tmp_path / "own cache"
    search_and_finetune(clicks(), "fm", 0.5, settings={"data.cache_dir": str(cache)}, **QUICK)
    assert len(list((cache / "frames").iterdir())) == 1
