"""The served form of a model, against the model."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pme_lightning import BadInput, CTRModule, SearchResult
from pme_lightning.callbacks import TransferCallback
from pme_lightning.embedding import FullEmbedding, MultiSizeEmbedding, Shard
from pme_lightning.export import ServedModel

FIELD_TOKENS, D = [5, 1, 30], 4
V = sum(FIELD_TOKENS)
BACKBONES = {
    "FM": {},
    "DeepFM": {"hidden_units": [8]},
    "DCN": {"hidden_units": [8]},
    "DCNv2": {"hidden_units": [8]},
    "AutoInt": {"attention_dim": 4, "num_heads": 2, "num_layers": 1},
    "AutoIntPlus": {"attention_dim": 4, "num_heads": 2, "num_layers": 1, "hidden_units": [8]},
}


def module_of(backbone: str = "DeepFM") -> CTRModule:
    module = CTRModule(
        FIELD_TOKENS, f"pme_lightning.backbones.{backbone}", BACKBONES[backbone], D, embedding_init_std=1.0
    )
    linear = module.embedding.linear
    if linear is not None:
        torch.nn.init.normal_(linear)
    return module.eval()


def sizes_of(module: CTRModule, axes: str = "principal", sizes: Tensor | None = None) -> SearchResult:
    basis = torch.linalg.qr(torch.randn(len(FIELD_TOKENS), D, D)).Q
    return SearchResult(
        torch.randint(0, D + 1, (V,)) if sizes is None else sizes,
        torch.rand(V) < 0.5 if module.first_order else None,
        D,
        {"original": None, "principal": basis[0], "field": basis}[axes],
        budget="50%",
        criterion="mine",
    )


def rows(count: int = 7) -> Tensor:
    """Rows of the vocabulary's ids."""
    ends = torch.tensor(FIELD_TOKENS).cumsum(0)
    return torch.stack(
        [torch.randint(int(e) - n, int(e), (count,)) for n, e in zip(FIELD_TOKENS, ends, strict=True)], 1
    )


def transferred(module: CTRModule, sizes: SearchResult, renumbered: bool) -> CTRModule:
    TransferCallback(sizes, init="warm").rebuild(module, renumbered=renumbered)
    return module


def numbered(ids: Tensor, sizes: SearchResult, renumbered: bool) -> Tensor:
    return sizes.order().argsort()[ids] if renumbered else ids


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("axes", ["original", "principal", "field"])
@pytest.mark.parametrize("renumbered", [True, False])
def test_with_all_its_bits_it_says_what_the_model_says(backbone: str, axes: str, renumbered: bool) -> None:
    torch.manual_seed(len(backbone))
    full = module_of(backbone)
    sizes = sizes_of(full, axes)
    module = transferred(full, sizes, renumbered)
    served = ServedModel.of(module, sizes if renumbered else None, bits=32)
    ids = numbered(rows(), sizes, renumbered)
    with torch.no_grad():
        assert torch.allclose(served(ids), torch.sigmoid(module(ids)), atol=1e-6)
    assert served.embedding.num_bytes == 4 * module.embedding.num_parameters + module.embedding.index_bytes


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_full_size_model_is_served_too(backbone: str) -> None:
    torch.manual_seed(0)
    module, ids = module_of(backbone), rows()
    with torch.no_grad():
        assert torch.allclose(ServedModel.of(module, bits=32)(ids), torch.sigmoid(module(ids)), atol=1e-6)
        assert torch.allclose(ServedModel.of(module, bits=16)(ids), torch.sigmoid(module(ids)), atol=1e-2)


def test_what_a_search_put_before_the_values_is_read_through() -> None:
    torch.manual_seed(0)
    module, ids = module_of(), rows()
    table = module.embedding
    assert isinstance(table, FullEmbedding)
    table.rotate_(torch.linalg.qr(torch.randn(D, D)).Q)
    table.prune_(torch.rand(V, D) < 0.5, torch.rand(V) < 0.5)
    with torch.no_grad():
        assert torch.allclose(ServedModel.of(module, bits=32)(ids), torch.sigmoid(module(ids)), atol=1e-6)


@given(seed=st.integers(0, 10_000), bits=st.sampled_from([8, 4]), renumbered=st.booleans(), full=st.booleans())
def test_values_are_off_by_half_a_step_at_most_unless_they_are_cut(
    seed: int, bits: int, renumbered: bool, full: bool
) -> None:
    """Each value read is the nearest that the scale of its field and column has, cut at the ends."""
    torch.manual_seed(seed)
    module = module_of()
    sizes = sizes_of(module, "original")
    if not full:
        transferred(module, sizes, renumbered)
    served = ServedModel.of(module, sizes, bits, torch.randint(0, 50, (V,))).embedding
    vocabulary_ids = rows(20)
    ids = vocabulary_ids if full else numbered(vocabulary_ids, sizes, renumbered)
    with torch.no_grad():
        exact, exact_linear = module.embedding.lookup(ids)
        embeddings, linear = served(ids)
    assert exact_linear is not None
    assert linear is not None
    assert served.scales is not None
    off = torch.cat([(linear - exact_linear).unsqueeze(2), embeddings - exact], 2).abs()
    values = torch.cat([exact_linear.unsqueeze(2), exact], 2).abs()
    highest = served.scales * (127 if bits == 8 else 1)
    # The largest step between two of the sixteen levels is that from -1 to -0.7.
    half = served.scales * (0.5 if bits == 8 else 0.153)
    cut = values > highest
    assert ((off <= half + 1e-5) | cut).all()
    assert (off[cut] < values[cut]).all()
    if not full:
        assert (embeddings[exact == 0] == 0).all()


@pytest.mark.parametrize("bits", [32, 16, 8, 4])
def test_places_of_more_than_two_thousand_million_values_are_as_good(bits: int) -> None:
    """Where 32 bits do not reach, the same is worked out in 64."""
    module = module_of()
    sizes = sizes_of(module)
    transferred(module, sizes, renumbered=True)
    served = ServedModel.of(module, sizes, bits)
    ids = numbered(rows(), sizes, renumbered=True)
    assert served.embedding.class_places.dtype == torch.int32
    narrow = served(ids)
    served.embedding.class_places = served.embedding.class_places.long()
    assert served(ids).equal(narrow)


def test_few_bits_take_few_bytes() -> None:
    module = module_of()
    values, columns = V * (D + 1), D + 1
    scales = 4 * len(FIELD_TOKENS) * columns
    sizes = {bits: ServedModel.of(module, bits=bits).embedding.num_bytes for bits in (32, 16, 8, 4)}
    assert sizes == {32: 4 * values, 16: 2 * values, 8: values + scales, 4: values // 2 + scales}


def test_a_table_in_which_nobody_owns_anything_reads_as_zeros() -> None:
    module = module_of("DCN")
    sizes = sizes_of(module, sizes=torch.zeros(V, dtype=torch.long))
    transferred(module, sizes, renumbered=True)
    embeddings, linear = ServedModel.of(module, sizes, 4).embedding(rows())
    assert linear is None
    assert not embeddings.any()


def test_the_model_stays_as_it_is_and_the_served_one_does_not_train() -> None:
    module = module_of().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    served = ServedModel.of(module, bits=4)
    assert module.training
    assert not served.training
    assert not list(filter(lambda parameter: parameter.requires_grad, served.parameters()))
    assert all(value.equal(before[name]) for name, value in module.state_dict().items())
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_what_cannot_be_served_is_refused_in_one_line() -> None:
    module = module_of()
    with pytest.raises(BadInput, match="bits is 5; choose from: 32, 16, 8, 4"):
        ServedModel.of(module, bits=5)
    sizes, others = sizes_of(module), sizes_of(module)
    transferred(module, sizes, renumbered=True)
    with pytest.raises(BadInput, match="numbers tokens by size: give the sizes"):
        ServedModel.of(module)
    with pytest.raises(BadInput, match="built with other sizes"):
        ServedModel.of(module, others)
    assert isinstance(module.embedding, MultiSizeEmbedding)
    with torch.no_grad():
        module.embedding.values[0] = 1e6
    with pytest.raises(BadInput, match="16 bits do not reach"):
        ServedModel.of(module, sizes, bits=16)
    with torch.no_grad():
        module.embedding.values[0] = torch.nan
    with pytest.raises(BadInput, match="not finite: its training diverged"):
        ServedModel.of(module, sizes)
    with pytest.raises(BadInput, match="the model is on meta: export it from main memory"):
        ServedModel.of(module_of().to("meta"))
    split = CTRModule([40, 40], "pme_lightning.backbones.FM", embedding_dim=2, shard=Shard(0, 2))
    with pytest.raises(BadInput, match="split over processes"):
        ServedModel.of(split)
