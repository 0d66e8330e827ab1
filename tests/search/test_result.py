"""The file of a search's result: round trip, damage, and the order of tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pme_lightning.errors import BadInput
from pme_lightning.search import SearchResult


def result(embedding_dim: int = 4, linear: bool = True, basis: bool = True) -> SearchResult:
    return SearchResult(
        sizes=torch.tensor([0, 2, 4, 2, 0, 4]),
        linear=torch.tensor([True, False, True, True, False, True]) if linear else None,
        embedding_dim=embedding_dim,
        basis=torch.linalg.qr(torch.randn(embedding_dim, embedding_dim)).Q if basis else None,
        budget="20%",
        criterion="Fisher",
        spectrum=torch.rand(2, embedding_dim) if basis else None,
    )


@pytest.mark.parametrize(("embedding_dim", "stored"), [(4, torch.uint8), (255, torch.uint8), (256, torch.int16)])
@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("basis", [True, False])
def test_round_trip(tmp_path: Path, embedding_dim: int, stored: torch.dtype, linear: bool, basis: bool) -> None:
    saved = result(embedding_dim, linear, basis)
    path = tmp_path / "run" / "sizes.safetensors"
    saved.save(path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert load_file(path)["sizes"].dtype == stored

    loaded = SearchResult.load(path)
    assert loaded.sizes.dtype == torch.int64
    for name in ("sizes", "linear", "basis", "spectrum"):
        before, after = getattr(saved, name), getattr(loaded, name)
        assert (before is None) == (after is None)
        assert before is None or torch.equal(before, after)
    assert (loaded.embedding_dim, loaded.budget, loaded.criterion) == (embedding_dim, "20%", "Fisher")


def test_the_home_folder_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    result().save(tmp_path / "sizes.safetensors")
    assert SearchResult.load("~/sizes.safetensors").parameters == result().parameters


def test_parameters_order_and_classes() -> None:
    found = result()
    assert found.parameters == 12 + 4
    assert found.order().tolist() == [2, 5, 3, 1, 0, 4]
    assert found.classes() == [(4, True, 2), (2, True, 1), (2, False, 1), (0, True, 1), (0, False, 1)]
    without = result(linear=False)
    assert without.parameters == 12
    assert without.order().tolist() == [2, 5, 1, 3, 0, 4]
    assert without.classes() == [(4, False, 2), (2, False, 2), (0, False, 2)]


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sizes.safetensors"
    result().save(path)
    before = path.read_bytes()

    def half_written(*arguments: Path) -> None:
        _, target, _ = arguments
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("pme_lightning.search.result.save_file", half_written)
    with pytest.raises(OSError, match="disk full"):
        result().save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        SearchResult.load(tmp_path / "sizes.safetensors")
    with pytest.raises(BadInput, match="no such file"):
        SearchResult.load(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 30, 0.5, 0.9, -1])
def test_cut_off_file(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "sizes.safetensors"
    result().save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if 0 < keep < 1 else int(keep)])
    with pytest.raises(BadInput, match="not a whole safetensors file") as error:
        SearchResult.load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "sizes.safetensors"
    save_file({"sizes": torch.zeros(3)}, path)
    with pytest.raises(BadInput, match="not the result of a search"):
        SearchResult.load(path)
    path.write_text("sizes: [1, 2, 3]\n" * 10)
    with pytest.raises(BadInput, match="not a whole safetensors file"):
        SearchResult.load(path)
    save_file({"sizes": torch.zeros(3)}, path, {"format": "pme_lightning.sizes", "version": "99"})
    with pytest.raises(BadInput, match="version 99"):
        SearchResult.load(path)


@pytest.mark.parametrize("embedding_dim", ["3", "x", None])
def test_a_file_that_contradicts_itself(tmp_path: Path, embedding_dim: str | None) -> None:
    path = tmp_path / "sizes.safetensors"
    metadata = {"format": "pme_lightning.sizes", "version": "1", "budget": "20%", "criterion": "Fisher"}
    if embedding_dim is not None:
        metadata["embedding_dim"] = embedding_dim
    save_file({"sizes": torch.tensor([4, 0], dtype=torch.uint8)}, path, metadata)
    with pytest.raises(BadInput, match="parts do not fit together"):
        SearchResult.load(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sizes": torch.tensor([0, 5])}, "0 ... 4"),
        ({"sizes": torch.tensor([-1, 4])}, "0 ... 4"),
        ({"sizes": torch.zeros(2, 2)}, "one number a token"),
        ({"linear": torch.ones(3, dtype=torch.bool)}, "first-order"),
        ({"basis": torch.eye(3)}, "basis has shape"),
        ({"basis": torch.ones(4)}, "basis has shape"),
        ({"basis": torch.ones(2, 4, 3)}, "basis has shape"),
        ({"spectrum": torch.ones(2, 3)}, "spectrum has shape"),
        ({"spectrum": torch.full((2, 4), -1.0)}, "spectrum has values that are negative"),
        ({"spectrum": torch.full((2, 4), torch.inf)}, "spectrum has values that are negative or not finite"),
    ],
)
def test_parts_that_do_not_fit(change: dict[str, torch.Tensor], says: str) -> None:
    parts = {"sizes": torch.tensor([0, 4]), "linear": None, "basis": None, **change}
    with pytest.raises(BadInput, match=says):
        SearchResult(embedding_dim=4, budget="20%", criterion="Fisher", **parts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("basis", "axes", "parameters"),
    [(None, "original", 16), (torch.eye(4), "shared", 16), (torch.eye(4).repeat(3, 1, 1), "field", 48)],
)
def test_the_projection_is_one_or_one_a_field(
    tmp_path: Path, basis: torch.Tensor | None, axes: str, parameters: int
) -> None:
    result = SearchResult(torch.tensor([0, 4]), None, embedding_dim=4, basis=basis, budget="20%", criterion="mine")
    result.save(tmp_path / "sizes.safetensors")
    for each in (result, SearchResult.load(tmp_path / "sizes.safetensors")):
        assert (each.axes, each.projection_parameters) == (axes, parameters)


@pytest.mark.parametrize("basis", [2 * torch.eye(3), torch.full((3, 3), torch.nan), torch.ones(2, 3, 3)])
def test_axes_that_do_more_than_turn_are_refused(basis: torch.Tensor) -> None:
    with pytest.raises(BadInput, match="basis is not orthogonal"):
        SearchResult(torch.tensor([1, 2]), None, 3, basis, "50%", "mine")
