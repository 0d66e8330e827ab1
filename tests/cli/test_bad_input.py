"""Wrong input through the real command line: one clear line, exit code 2, nothing left behind."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import polars as pl
import pytest
import torch
from lightning_utilities.core.imports import RequirementCache

import pme_lightning.cli
from pme_lightning.cli import main
from pme_lightning.data import SyntheticDataModule
from pme_lightning.runs.folder_lock import locked
from pme_lightning.runs.phases import Phases

SMALL = ["data.rows=6000", "data.tokens=600", "data.num_fields=4", "model.embedding_dim=8"]
CASES = [
    # an unknown choice, a misspelt key, a value of the wrong type
    ("backbone=deepfn", "no such choice; did you mean 'deepfm'"),
    ("optimiser=adam", "did you mean 'optimizer'"),
    ("backbone.droput=0.2", "did you mean 'backbone.dropout'"),
    ("trainer.max_epchs=2", "did you mean 'trainer.max_epochs'"),
    ("model.embeding_dim=3", "did you mean 'model.embedding_dim'"),
    ("serch", "did you mean 'search'"),
    ("data.path=clicks.tsv", "for data of yours say of which kind they are, data=csv data.path=clicks.tsv"),
    ("data.label=clicked", "data=parquet data.path=FILE"),
    ("data=ads/clicks.csv.gz", "data=csv data.path=ads/clicks.csv.gz"),
    ("data=clicks.pq", "data=parquet data.path=clicks.pq"),
    ("model.along_axes=true", "unknown key 'model.along_axes'"),
    ("trainer.max_epochs=many", "trainer.max_epochs: expected a int (given: many)"),
    ("optimizer.lr=high", "optimizer.lr: expected a float"),
    ("search.criterion.axes=up", "expected one of 'auto', 'nested', 'principal', 'field', 'original'"),
    ("seed=abc", "seed: expected a int"),
    # a null where there is none
    ("transfer.init=null", "transfer.init: expected scratch or warm, not null"),
    ("optimizer.lr=null", "optimizer.lr: expected number or Tensor, not null"),
    ("optimizer.amsgrad=null", "optimizer.amsgrad: expected true or false, not null"),
    ("data.rows=null", "data.rows: expected whole number, not null"),
    ("search.criterion=null", "search.criterion: expected Criterion, not null"),
    ("search.schedule.epochs=null", "search.schedule.epochs: expected number, not null"),
    ("early_stopping=null", "early_stopping: expected settings below it, early_stopping.KEY=VALUE (given: null)"),
    # values out of range
    ("optimizer.lr=-1", "Invalid learning rate"),
    ("backbone.dropout=1.5", "dropout must be"),
    ("data.batch_size=0", "data.batch_size must be at least 1"),
    ("model.embedding_dim=0", "embedding_dim is 0"),
    ("search.schedule.epochs=-1", "epochs is -1"),
    ("transfer.init=cold", "'scratch', 'warm'"),
    ("trainer.max_epochs=0", "there is nothing to train"),
    ("trainer.fast_dev_run=true", "trainer.limit_train_batches=10"),
    ("trainer.barebones=true", "trainer.barebones keeps no checkpoint"),
    ("trainer.check_val_every_n_epoch=99", "is above trainer.max_epochs"),
    ("trainer.accumulate_grad_batches=0", "accumulate_grad_batches: 0 is below 1"),
    ("trainer.gradient_clip_val=-1", "gradient_clip_val: -1 is below 0; null for no clipping"),
    ("logger=csv logger.flush_logs_every_n_steps=0", "flush_logs_every_n_steps: 0 is below 1"),
    ("logger=tensorboard logger.purge_step=5", "unknown key 'logger.purge_step'"),
    ("optimizer=torch.optim.SparseAdam", "embedding_optimizer=torch.optim.SparseAdam"),
    ("early_stopping.monitor=nonsense", "early_stopping.monitor: 'nonsense' is not measured"),
    ("checkpoint.monitor=valid_logloss", "write checkpoint.mode=min"),
    ("model.embedding_init_std=-1", "embedding_init_std is -1"),
    ("model.embedding_bits=8", "model.embedding_bits is 8; choose 32 or 16"),
    ("model.embedding_bits=16 optimizer=adam", "torch.optim.Adam rounds to the nearest"),
    ("trainer.precision=bf16-true", "use bf16-mixed or 32-true, model.embedding_bits=16 for a table of half the bytes"),
    ("fit trainer.precision=64-true", "64-true would turn the embedding table into other numbers"),
    ("seed=-1", "seed: -1 is outside"),
    ("fit ckpt_path=x.ckpt", "fit starts from nothing"),
    ("pme sizes=x.safetensors", "pme takes no sizes"),
    ("trainer.accelerator=gpu", "trainer: No supported gpu backend"),
    (
        'trainer.callbacks=[{"class_path":"lightning.pytorch.callbacks.EMAWeightAveraging"}]',
        "give it use_buffers: false",
    ),
    (
        'trainer.callbacks=[{"class_path":"lightning.pytorch.callbacks.EMAWeightAveraging",'
        '"init_args":{"use_buffers":false}}] checkpoint.save_weights_only=true',
        "leave checkpoint.save_weights_only false",
    ),
    (
        'trainer.callbacks=[{"class_path":"lightning.pytorch.callbacks.EMAWeightAveraging",'
        '"init_args":{"use_buffers":false}}] model.embedding_bits=16',
        "would lose most of its small steps in values of 16 bits: model.embedding_bits=32",
    ),
    ("averaging=ema averaging.use_buffers=true", "averaging: EMAWeightAveraging averages whole numbers too"),
    ("averaging=ema model.embedding_bits=16", "averaging: EMAWeightAveraging would lose most of its small steps"),
    ("averaging=swa", "averaging=swa: no such choice"),
    (
        'averaging=ema trainer.callbacks=[{"class_path":"lightning.pytorch.callbacks.WeightAveraging",'
        '"init_args":{"use_buffers":false}}]',
        "averaging, trainer.callbacks: WeightAveraging and EMAWeightAveraging would both put their averages in",
    ),
    (
        'averaging=ema trainer.callbacks=[{"class_path":"lightning.pytorch.callbacks.EMAWeightAveraging",'
        '"init_args":{"use_buffers":false}}]',
        "trainer.callbacks: Found more than one stateful callback of type `EMAWeightAveraging`",
    ),
    (
        'trainer.callbacks=[{"class_path":"lightning.pytorch.callbacks.StochasticWeightAveraging",'
        '"init_args":{"swa_lrs":0.01}}]',
        "StochasticWeightAveraging puts its averages in after the last validation",
    ),
    (
        "trainer.callbacks=[lightning.pytorch.callbacks.LearningRateFinder]",
        "LearningRateFinder sets one learning rate, and the network and the table have one each",
    ),
    (
        "trainer.callbacks=[lightning.pytorch.callbacks.LearningRateMonitor]",
        "LearningRateMonitor writes to a logger, and there is none: logger=csv",
    ),
    (
        'trainer.callbacks=[{"class_path":"lightning.pytorch.callbacks.ModelPruning",'
        '"init_args":{"pruning_fn":"l1_unstructured"}}]',
        "ModelPruning masks weights by what no other phase knows of",
    ),
    ("trainer.val_check_interval=0", "trainer.val_check_interval: 0 is no interval"),
    ("optimizer.foreach=true", "Adam: `fused` and `foreach` cannot be `True` together"),
    # classes
    ("backbone=nowhere.Net", "no module 'nowhere'"),
    ("backbone=pme_lightning.backbones.DeepFn", "did you mean 'DeepFM'"),
    ("search.criterion=pme_lightning.search.Fishr", "did you mean 'Fisher'"),
    # budgets
    ("search.budget=0", "is not a budget"),
    ("search.budget=20XB", "is not a budget"),
    ("search.budget=0.001", "a budget that nothing fits"),
    # files
    ("test", "test needs a checkpoint: ckpt_path=PATH"),
    ("test ckpt_path=nowhere.ckpt", "there is no file 'nowhere.ckpt'"),
    ("finetune", "finetune needs sizes"),
    ("finetune sizes=nowhere.safetensors", "sizes: there is no file 'nowhere.safetensors'"),
    ("--config=nowhere.yaml", "config file 'nowhere.yaml' does not exist"),
    ("config_dir=nowhere", "there is no folder 'nowhere'"),
]


def fails(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Runs the words, which must be refused as bad input; returns what was said."""
    with pytest.raises(SystemExit) as stop:
        main(words)
    said = capsys.readouterr().err
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert stop.value.code == 2
    assert len(errors) == 1
    assert said.rstrip().endswith(errors[0]), "something was printed after the error"
    assert "Traceback" not in said
    return errors[0]


@pytest.mark.parametrize(("words", "said"), CASES, ids=[case[0] for case in CASES])
def test_bad_words(
    words: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in fails([*SMALL, *words.split()], capsys)
    assert not list(tmp_path.iterdir()), "something was left behind"


@pytest.mark.parametrize("words", ["model.embedding_dim=0", "model.embedding_init_std=-1", "model.embedding_bits=8"])
def test_a_table_that_cannot_be_is_refused_before_data_is_read(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(SyntheticDataModule, "prepare_data", lambda _: pytest.fail("data was read"))
    assert words.partition("=")[0] in fails([*SMALL, words], capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("backbone.dropout=1.5", "DeepFM: dropout must be"),
        ("backbone=fm --backbone=pme_lightning.backbones.AutoInt backbone.num_heads=3", "num_heads must divide"),
    ],
)
def test_a_backbone_of_ours_is_built_before_data_is_read(
    words: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(SyntheticDataModule, "prepare_data", lambda _: pytest.fail("data was read"))
    assert said in fails([*SMALL, *words.split()], capsys)


def test_a_package_that_a_logger_lacks_is_told_before_data_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(SyntheticDataModule, "prepare_data", lambda _: pytest.fail("data was read"))
    for package in ("_TENSORBOARD_AVAILABLE", "_TENSORBOARDX_AVAILABLE"):
        monkeypatch.setattr(f"lightning.fabric.loggers.tensorboard.{package}", RequirementCache("not-there"))
    assert "logger TensorBoardLogger needs a package" in fails([*SMALL, "logger=tensorboard"], capsys)
    monkeypatch.setattr("pme_lightning.runs.loggers._MLFLOW_AVAILABLE", RequirementCache("not-there"))
    mlflow = "--logger=lightning.pytorch.loggers.MLFlowLogger"
    assert "logger MLFlowLogger needs a package" in fails([*SMALL, mlflow], capsys)


def test_a_package_that_a_callback_lacks_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lightning.pytorch.callbacks.device_stats_monitor._PSUTIL_AVAILABLE", False)
    words = ["fit", *SMALL, "logger=csv", "trainer.callbacks=[lightning.pytorch.callbacks.DeviceStatsMonitor]"]
    assert "trainer: `DeviceStatsMonitor` cannot log CPU stats as `psutil` is not installed" in fails(words, capsys)


def test_batch_norm_of_single_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["fit", "data.rows=300", "data.tokens=60", "data.num_fields=3", "data.batch_size=1"]
    assert "data.batch_size: batch norm needs two rows" in fails([*words, "backbone.batch_norm=true"], capsys)


def test_a_scheduler_that_lightning_cannot_work_with_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"NTASKS": 2, "JOB_NAME": "ctr", "JOB_ID": 1, "PROCID": 0, "LOCALID": 0, "NODEID": 0}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE", raising=False)
    assert "trainer: You set `--ntasks=2` in your SLURM bash script" in fails(SMALL, capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("trainer.limit_val_batches=0.5", "trainer.limit_val_batches: 0.5 of 1 batches is none"),
        ("trainer.overfit_batches=0.5", "trainer.overfit_batches: 0.5 of 1 batches is none; write how many"),
        ("trainer.overfit_batches=2 trainer.val_check_interval=5", "5 is above the 2 batches of an epoch"),
        ("trainer.limit_test_batches=0.1", "write how many, trainer.limit_test_batches=1"),
        ("trainer.val_check_interval=1000", "1000 is above the 19 batches of an epoch"),
        ("trainer.val_check_interval=10 trainer.limit_train_batches=5", "10 is above the 5 batches of an epoch"),
        ("trainer.max_steps=18", "max_steps: 18 is reached before the first validation, after 19 steps"),
        ("trainer.max_steps=28 trainer.check_val_every_n_epoch=2", "the first validation, after 38 steps"),
        ("trainer.max_steps=4 trainer.accumulate_grad_batches=4", "the first validation, after 5 steps"),
        (
            "trainer.max_epochs=2 trainer.val_check_interval=39 trainer.check_val_every_n_epoch=null",
            "with 38 batches, and the first validation after 39",
        ),
    ],
)
def test_validations_that_cannot_be_are_refused_before_the_search(
    words: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Phases, "searched", lambda _: pytest.fail("it searched"))
    assert said in fails(["data.rows=6000", "data.batch_size=256", "data.num_fields=4", *words.split()], capsys)
    assert not list(tmp_path.iterdir()), "something was left behind"


def parquet(folder: Path, **columns: list) -> str:
    path = folder / "clicks.parquet"
    pl.DataFrame(columns).write_parquet(path)
    return str(path)


DATA_CASES = [
    (["data.label=clik"], {}, "did you mean 'click'"),
    (["data.categorical=[user, itm]"], {}, "did you mean 'item'"),
    (["data.fractions=[1.0, 0.0, 0.0]"], {}, "fractions"),
    (["data.label=item"], {}, "label"),
    ([], {"click": [0, 1, 2, 0] * 25}, "2"),
    ([], {"click": [0, 1, None, 0] * 25}, "click"),
    (["data.split=column", "data.split_column=item"], {}, "item"),
    (["data.split=time", "data.time_column=when"], {}, "when"),
]


@pytest.mark.parametrize(
    ("words", "columns", "said"), DATA_CASES, ids=[" ".join(c[0]) or str(c[2]) for c in DATA_CASES]
)
def test_bad_data(
    words: list[str],
    columns: dict,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    good = {"click": [0, 1] * 50, "user": list(range(100)), "item": ["a", "b", "c", "d"] * 25}
    path = parquet(tmp_path, **good | columns)
    error = fails(["data=parquet", f"data.path={path}", *words], capsys)
    assert said in error
    assert [p.name for p in tmp_path.iterdir()] == ["clicks.parquet"]


@pytest.mark.parametrize("path", ["clicks.parqet", "./nowhere", "clicks.csv"])
def test_a_missing_data_file(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    parquet(tmp_path, click=[0, 1] * 50, user=list(range(100)))
    assert path.removeprefix("./") in fails(["data=parquet", f"data.path={path}"], capsys)
    assert fails(["data=parquet"], capsys).startswith("error: data.path is needed")


def test_broken_files(
    pme_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = (pme_run / "checkpoints/finetune/best.ckpt").read_bytes()
    Path("cut.ckpt").write_bytes(whole[: len(whole) // 2])
    Path("text.ckpt").write_text("no checkpoint")
    torch.save({"foreign": 1}, "foreign.ckpt")
    Path("cut.safetensors").write_bytes((pme_run / "sizes.safetensors").read_bytes()[:100])
    Path("broken.yaml").write_text("a: [1")
    for name in ("cut", "text", "foreign"):
        assert f"{name}.ckpt' cannot be read as a checkpoint" in fails(
            [*SMALL, "test", f"ckpt_path={name}.ckpt"], capsys
        )
    assert "not a whole safetensors file" in fails([*SMALL, "finetune", "sizes=cut.safetensors"], capsys)
    assert "not valid YAML" in fails(["--config=broken.yaml"], capsys)
    assert not Path("runs").exists()


def test_a_checkpoint_of_other_data(
    pme_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["test", f"ckpt_path={pme_run}/checkpoints/finetune/best.ckpt"]
    said = fails([*words, "data.tokens=700"], capsys)
    assert "tokens" in said
    assert not Path("runs").exists()


def test_a_folder_that_holds_a_run_already(pme_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in pme_run.rglob("*")}
    assert "holds files already" in fails([*SMALL, f"run_dir={pme_run}"], capsys)
    assert {path: path.stat().st_mtime_ns for path in pme_run.rglob("*")} == before


def test_another_separator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clicks.csv").write_text("click;user\n" + "0;a\n1;b\n" * 20)
    said = fails(["data=csv", "data.path=clicks.csv"], capsys)
    assert "and there is one column alone: is data.separator=';'?" in said


def test_a_folder_in_place_of_a_file(pme_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = fails(["test", f"ckpt_path={pme_run}"], capsys)
    assert f"ckpt_path: there is no file '{pme_run}': it is a folder, with checkpoints/finetune/best.ckpt" in said
    said = fails(["finetune", f"sizes={pme_run}"], capsys)
    assert f"sizes: there is no file '{pme_run}': it is a folder, with sizes.safetensors" in said


def test_parts_of_another_clone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = Path(pme_lightning.cli.__file__).parents[1]
    monkeypatch.setattr(pme_lightning.cli, "__file__", str(tmp_path / "pme_lightning" / "cli.py"))
    said = fails(["list"], capsys)
    assert f"pme_lightning is that of '{tmp_path}', its backbones are those of '{here}': install" in said


def test_as_a_process(shell: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    done = shell("backbone=deepfn")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: backbone=deepfn: no such choice; did you mean 'deepfm'?\n"
    assert not list(tmp_path.iterdir())


def test_a_split_with_one_label_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folds = ["train"] * 60 + ["valid"] * 20 + ["test"] * 20
    clicks = [0, 1] * 30 + [1] * 20 + [0, 1] * 10
    path = parquet(tmp_path, click=clicks, user=list(range(100)), fold=folds)
    said = fails(["data=parquet", f"data.path={path}", "data.split_column=fold"], capsys)
    assert "the valid split of 'clicks' has only rows with label 1" in said


@pytest.mark.parametrize("streaming", ["false", "true"])
def test_rows_of_one_label_can_be_tested_on(
    streaming: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "clicks"
    folder.mkdir()
    for split, labels in (("train", [0, 1] * 30), ("valid", [0, 1] * 10), ("test", [0, 1] * 10)):
        rows = pl.DataFrame({"click": labels, "user": [str(number % 9) for number in range(len(labels))]})
        rows.write_parquet(folder / f"{split}.parquet")
    main(["fit", "data=parquet", "data.path=clicks", "backbone=fm", "trainer.max_epochs=1", "run_dir=fitted"])
    rows.with_columns(click=pl.lit(1)).write_parquet(folder / "test.parquet")
    words = ["data=parquet", "data.path=clicks", f"data.streaming={streaming}"]
    (checkpoint,) = (tmp_path / "fitted").rglob("best.ckpt")
    main(["test", f"ckpt_path={checkpoint}", *words, "run_dir=tested"])
    assert json.loads((tmp_path / "tested" / "summary.json").read_text())["test"]["logloss"] > 0
    assert "the test split of 'clicks' has only rows with label 1" in fails(["fit", *words], capsys)


def test_limits_that_leave_one_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folds = ["train"] * 60 + ["valid"] * 20 + ["test"] * 20
    clicks = [0, 1] * 30 + [0] * 10 + [1] * 10 + [0, 1] * 10
    path = parquet(tmp_path, click=clicks, user=list(range(100)), fold=folds)
    words = ["data=parquet", f"data.path={path}", "data.split_column=fold", "data.eval_batch_size=5"]
    said = fails([*words, "trainer.limit_val_batches=0.5"], capsys)
    assert "trainer.limit_val_batches: the first 2 batches of the valid split have only rows with label 0: AUC" in said
    assert not (tmp_path / "runs").exists()


def test_a_training_that_diverges_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    said = fails([*SMALL, "fit", "backbone=fm", "optimizer=sgd", "optimizer.lr=1e30"], capsys)
    assert "training diverged" in said
    # It diverged in its first epoch: there is nothing to keep.
    assert "what was done so far" not in said
    assert not (tmp_path / "runs").exists()


def test_a_module_that_cannot_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_backbone.py").write_text("class Net(")
    assert "importing 'broken_backbone' fails: SyntaxError" in fails(["backbone=broken_backbone.Net"], capsys)


def test_a_checkpoint_is_not_measured_as_another_model(
    pme_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["test", f"ckpt_path={pme_run}/checkpoints/finetune/best.ckpt"]
    assert "leave backbone and model out" in fails([*words, "backbone=fm"], capsys)
    assert "embedding_dim 8, not 4" in fails([*words, "model.embedding_dim=4"], capsys)
    assert "there is no file" in fails(["predict", "ckpt_path=typo.ckpt", "data.predict_path=x.csv"], capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("trainer.max_time=00:00:00:00", "no checkpoint was kept: valid_auc was not measured before the end"),
    ],
)
def test_a_fit_that_measures_nothing(
    words: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    told = fails(["fit", "backbone=fm", *SMALL, "data.batch_size=256", "trainer.max_epochs=1", *words.split()], capsys)
    assert said in told
    assert "goes on" not in told, "it would only fail again"


@pytest.mark.parametrize("path", ["data.path=", "data.path=[]"])
def test_no_path_at_all(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "data.path is empty" in fails(["fit", "data=parquet", path], capsys)


def test_a_cache_that_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = parquet(tmp_path, click=[0, 1] * 50, user=list(range(100)))
    told = fails(["fit", "data=parquet", f"data.path={path}", "data.label=click", f"data.cache_dir={path}"], capsys)
    assert "cannot be written" in told
    assert "data.cache_dir=FOLDER moves it" in told


def test_a_folder_that_another_run_is_at_work_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pme_lightning.runs.runner.locked", partial(locked, patience=0.0))
    (tmp_path / "out").mkdir()
    words = ["fit", "backbone=fm", *SMALL, "trainer.max_epochs=1", "run_dir=out"]
    with locked(tmp_path / "out"):
        assert f"another run is writing to '{tmp_path}/out'" in fails(words, capsys)
    assert not list((tmp_path / "out").iterdir())
    main(words)
    assert (tmp_path / "out" / "summary.json").is_file()
