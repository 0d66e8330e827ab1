"""The folder of an exported model: what is in it, and that it needs nothing else."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from pme_lightning import BadInput, CTRModule, ExportedModel, SyntheticDataModule, export_model, search_and_finetune
from pme_lightning.runs.python_run import Outcome

# A server's program: torch and numpy are all there is.
SERVER = """
import sys
for name in ("pme_lightning", "lightning", "torchmetrics", "polars"):
    sys.modules[name] = None
import numpy, torch
folder, file, out = sys.argv[1:]
program = torch.export.load(folder + "/model.pt2").module()
ids = numpy.load(folder + "/ids.npy")[numpy.load(file)]
numpy.save(out, program(torch.from_numpy(ids).long()).numpy())
"""


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    rows = range(3000)
    users, items = [f"u{i % 300}" for i in rows], [i * 7 % 100 for i in rows]
    return pl.DataFrame({"click": [i % 3 % 2 for i in rows], "user": users, "item": items})


@pytest.fixture(scope="module")
def outcome(frame: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A trained multi-size model on values, not ids."""
    folder = tmp_path_factory.mktemp("outcome")
    quick = {"search.schedule.min_steps": 1, "data.label": "click", "data.cache_dir": str(folder / "cache")}
    quick |= {"backbone.hidden_units": [8]}
    trainer = {"max_epochs": 1, "accelerator": "cpu"}
    run_dir = folder / "run"
    return search_and_finetune(frame, "deepfm", 0.3, baseline=False, trainer=trainer, settings=quick, run_dir=run_dir)


@pytest.fixture(scope="module")
def exported(outcome: Outcome, tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    folder = tmp_path_factory.mktemp("exported") / "served"
    return outcome.export(folder)


def probabilities(outcome: Outcome, ids: np.ndarray) -> Tensor:
    """What the model itself says of rows of the vocabulary's ids."""
    position = outcome.sizes.order().argsort()
    with torch.no_grad():
        return torch.sigmoid(outcome.module.eval()(position[torch.from_numpy(ids).long()]))


def test_the_folder_is_as_documented(exported: ExportedModel, outcome: Outcome) -> None:
    assert {path.name for path in exported.folder.iterdir()} == {"model.pt2", "ids.npy", "vocabulary"}
    assert exported.facts["fields"] == ["user", "item"]
    assert exported.facts["tokens"] == outcome.module.num_tokens
    assert exported.facts["bits"] == 8
    assert 0 < exported.facts["embedding_bytes"] < outcome.summary["embedding"]["bytes"] / 2
    assert sorted(exported.ids) == list(range(outcome.module.num_tokens))


def test_rows_of_values_are_predicted_as_the_model_would(
    exported: ExportedModel, outcome: Outcome, frame: pl.DataFrame
) -> None:
    found = exported.predict(frame)
    vocabulary = outcome.data.vocabulary
    assert vocabulary is not None
    expected = probabilities(outcome, vocabulary.encode_fields(frame))
    assert found.dtype == np.float32
    assert found == pytest.approx(expected.numpy(), abs=2e-3)
    assert found.std() > 0
    assert exported.predict(frame.to_pandas()).tolist() == found.tolist()
    # Another order of columns, and more of them, make no difference; neither does what is asked for at once.
    assert exported.predict(frame.select(pl.lit(1).alias("more"), "item", "user"))[5:8] == pytest.approx(found[5:8])
    assert exported.predict(frame[5:8]) == pytest.approx(found[5:8])
    assert exported.predict(frame[:0]).shape == (0,)


def test_what_was_never_seen_is_out_of_vocabulary(exported: ExportedModel) -> None:
    strange = exported.predict(pl.DataFrame({"user": ["nobody", "no one"], "item": [-1, 12345]}))
    assert strange[0] == strange[1]
    with pytest.raises(BadInput, match="column 'item' is missing"):
        exported.predict(pl.DataFrame({"user": ["u1"]}))
    with pytest.raises(BadInput, match="data frame of polars or pandas, not a dict"):
        exported.predict({"user": ["u1"], "item": [1]})


def test_other_columns_of_pandas_may_hold_anything(exported: ExportedModel, frame: pl.DataFrame) -> None:
    rows = frame.to_pandas()
    expected = exported.predict(rows).tolist()
    more = rows.assign(mixed=[1, "a"] * (len(rows) // 2), objects=[object()] * len(rows))
    assert exported.predict(pd.concat([more, more[["mixed"]]], axis=1)).tolist() == expected
    wrong = {
        "the data frame cannot be read: .*more than one|non-unique": pd.concat([rows, rows[["user"]]], axis=1),
        "the data frame cannot be read: Could not convert": more.assign(item=more["mixed"]),
        "column 'item' is missing in the data: choose from: user": rows[["user"]],
        "column 'user' is missing in the data: did you mean 'users'": rows[:0].rename(columns={"user": "users"}),
    }
    for message, each in wrong.items():
        with pytest.raises(BadInput, match=message) as error:
            exported.predict(each)
        assert "\n" not in str(error.value)


def test_other_processes_are_handed_a_model(exported: ExportedModel, frame: pl.DataFrame) -> None:
    again = pickle.loads(pickle.dumps(exported))
    assert np.array_equal(again.predict(frame), exported.predict(frame))


def test_ids_that_the_vocabulary_does_not_have_are_refused(exported: ExportedModel) -> None:
    tokens = exported.facts["tokens"]
    with pytest.raises(BadInput, match=f"reach from 0 to {tokens}; the model's reach from 0 to {tokens - 1}"):
        exported.predict_ids(np.array([[0, tokens]]))
    with pytest.raises(BadInput, match="reach from -1"):
        exported.predict_ids(np.array([[0, -1]]))
    first = exported.facts["field_tokens"][0]
    with pytest.raises(BadInput, match=f"of field 'user' reach from 0 to {first}; its tokens' from 0 to {first - 1}"):
        exported.predict_ids(np.array([[0, first], [first, first]]))
    with pytest.raises(BadInput, match=r"shape \(1, 3\); the model needs a column for each of its 2 fields"):
        exported.predict_ids(np.array([[0, 1, 2]]))
    with pytest.raises(BadInput, match="whole numbers, not of type float64"):
        exported.predict_ids(np.array([[0.0, 1.0]]))
    with pytest.raises(BadInput, match="a data frame of polars or pandas, not a Series"):
        exported.predict(pd.Series([1, 2]))


def test_a_server_needs_torch_alone(exported: ExportedModel, frame: pl.DataFrame, tmp_path: Path) -> None:
    ids = exported.vocabulary.encode_fields(frame)
    np.save(tmp_path / "rows.npy", ids)
    (tmp_path / "server.py").write_text(SERVER)
    words = [sys.executable, "server.py", str(exported.folder), "rows.npy", "out.npy"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "out.npy") == pytest.approx(exported.predict(frame), abs=1e-6)


def test_predicting_takes_no_lightning(exported: ExportedModel) -> None:
    program = f"import sys, pme_lightning; pme_lightning.ExportedModel.load({str(exported.folder)!r})"
    program += "; print([name for name in ('lightning', 'torchmetrics', 'jsonargparse') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("bits", [32, 4])
def test_any_bits_come_back_from_the_file(exported: ExportedModel, outcome: Outcome, tmp_path: Path, bits: int) -> None:
    # In the place of another one.
    folder = copy_of(exported, tmp_path)
    exported = export_model(outcome.module, outcome.data, folder, outcome.sizes, bits)
    assert exported.facts["bits"] == bits
    assert {path.name for path in folder.iterdir()} == {"model.pt2", "ids.npy", "vocabulary"}
    ids = np.random.default_rng(0).integers(0, [301, 401], (50, 2), dtype=np.int32)
    ids[:, 1] = ids[:, 1] % 100 + 301
    expected = probabilities(outcome, ids).numpy()
    assert exported.predict_ids(ids) == pytest.approx(expected, abs=1e-6 if bits == 32 else 0.05)


def copy_of(exported: ExportedModel, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported.folder, tmp_path / "copy"))


def test_a_damaged_folder_is_told_in_one_line(exported: ExportedModel, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"there is no model\.pt2; name the run_dir of an export"):
        ExportedModel.load(tmp_path)
    folder = copy_of(exported, tmp_path)
    whole = (folder / "model.pt2").read_bytes()
    middle = len(whole) // 2
    for damaged in (
        b"",
        b"nonsense",
        whole[:middle],
        whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :],
    ):
        (folder / "model.pt2").write_bytes(damaged)
        with pytest.raises(BadInput, match="cannot be read") as caught:
            ExportedModel.load(folder)
        assert "\n" not in str(caught.value)
    (folder / "model.pt2").write_bytes(whole)
    np.save(folder / "ids.npy", np.arange(3))
    with pytest.raises(BadInput, match=r"ids\.npy' has shape \(3,\)"):
        ExportedModel.load(folder)
    (folder / "ids.npy").write_bytes(b"")
    with pytest.raises(BadInput, match="cannot be read"):
        ExportedModel.load(folder)


def test_another_version_is_refused(exported: ExportedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pme_lightning.export.loaded.VERSION", 2)
    with pytest.raises(BadInput, match="has version 1, this program reads 2"):
        ExportedModel.load(exported.folder)


class Fickle(nn.Module):
    """A backbone whose way depends on what it reads: nothing that a program of fixed operations could say."""

    def __init__(self, num_fields: int, embedding_dim: int) -> None:
        super().__init__()
        self.weight = nn.Linear(num_fields * embedding_dim, 1)

    def forward(self, embeddings: Tensor) -> Tensor:
        logits = self.weight(embeddings.flatten(1)).squeeze(1)
        return logits if logits.sum() > 0 else -logits


def test_a_backbone_that_cannot_be_exported_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    data = SyntheticDataModule(rows=500, tokens=50, num_fields=3)
    data.setup()
    module = CTRModule(data.field_tokens, Fickle, embedding_dim=2)
    with pytest.raises(BadInput, match="cannot take the backbone Fickle: ") as caught:
        export_model(module, data, tmp_path / "served")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "served").glob("*model*"))


class Squeezes(nn.Module):
    """Gives one row no dimension at all."""

    def __init__(self, num_fields: int, embedding_dim: int) -> None:
        super().__init__()
        self.out = nn.Linear(num_fields * embedding_dim, 1)

    def forward(self, embeddings: Tensor) -> Tensor:
        return self.out(embeddings.flatten(1)).squeeze()


def test_a_backbone_that_squeezes_one_row_away_is_refused(tmp_path: Path) -> None:
    data = SyntheticDataModule(rows=200, tokens=40, num_fields=3)
    data.setup()
    with pytest.raises(BadInput, match=r"backbone Squeezes returns \(\) for one row.*does it squeeze the rows away"):
        export_model(CTRModule(data.field_tokens, Squeezes, embedding_dim=4), data, tmp_path)
    assert not (tmp_path / "model.pt2").exists()


def test_made_data_have_ids_alone(tmp_path: Path) -> None:
    data = SyntheticDataModule(rows=500, tokens=50, num_fields=3)
    data.setup()
    exported = export_model(CTRModule(data.field_tokens, embedding_dim=2), data, tmp_path)
    assert exported.ids.tolist() == list(range(50))
    assert exported.predict_ids(data.data.splits["test"][0]).shape == (50,)
    with pytest.raises(BadInput, match="no vocabulary: its data were ids"):
        exported.predict(pl.DataFrame({"field_1": [1]}))
    with pytest.raises(BadInput, match="the model has 2 fields and 9 tokens, the data 3 and 50"):
        export_model(CTRModule([4, 5], embedding_dim=2), data, tmp_path)


def test_facts_are_within_the_program(exported: ExportedModel) -> None:
    texts = {"pme_lightning.json": ""}
    torch.export.load(exported.folder / "model.pt2", extra_files=texts)
    assert json.loads(texts["pme_lightning.json"]) == exported.facts
