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
from pme_lightning.export.packed import LEVELS
from pme_lightning.export.packed_table import PackedTable

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


def asked(served: ServedModel, ids: Tensor) -> Tensor:
    """What a served model says of rows of the vocabulary's ids."""
    return served(served.numbering[ids].long())


def says(module: CTRModule, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.sigmoid(module(ids))


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("axes", ["original", "principal", "field"])
@pytest.mark.parametrize("renumbered", [True, False])
def test_with_all_its_bits_it_says_what_the_model_says(backbone: str, axes: str, renumbered: bool) -> None:
    torch.manual_seed(len(backbone))
    full = module_of(backbone)
    sizes = sizes_of(full, axes)
    module = transferred(full, sizes, renumbered)
    served = ServedModel.of(module, sizes if renumbered else None, bits=32)
    ids = rows()
    with torch.no_grad():
        assert torch.allclose(asked(served, ids), says(module, numbered(ids, sizes, renumbered)), atol=1e-6)
    # In a numbering of its own it needs no index.
    assert served.embedding.num_bytes == 4 * module.embedding.num_parameters


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_full_size_model_is_served_too(backbone: str) -> None:
    torch.manual_seed(0)
    module, ids = module_of(backbone), rows()
    with torch.no_grad():
        assert torch.allclose(asked(ServedModel.of(module, bits=32), ids), says(module, ids), atol=1e-6)
        assert torch.allclose(asked(ServedModel.of(module, bits=16), ids), says(module, ids), atol=1e-2)


def test_what_a_search_put_before_the_values_is_read_through() -> None:
    torch.manual_seed(0)
    module, ids = module_of(), rows()
    table = module.embedding
    assert isinstance(table, FullEmbedding)
    table.rotate_(torch.linalg.qr(torch.randn(D, D)).Q)
    table.prune_(torch.rand(V, D) < 0.5, torch.rand(V) < 0.5)
    with torch.no_grad():
        assert torch.allclose(asked(ServedModel.of(module, bits=32), ids), says(module, ids), atol=1e-6)


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
    served = ServedModel.of(module, sizes, bits, torch.randint(0, 50, (V,)))
    vocabulary_ids = rows(20)
    ids = vocabulary_ids if full else numbered(vocabulary_ids, sizes, renumbered)
    with torch.no_grad():
        exact, exact_linear = module.embedding.lookup(ids)
        embeddings, linear = served.embedding(served.numbering[vocabulary_ids].long())
    assert exact_linear is not None
    assert linear is not None
    off = torch.cat([(linear - exact_linear).unsqueeze(2), embeddings - exact], 2).abs()
    values = torch.cat([exact_linear.unsqueeze(2), exact], 2).abs()
    seen = torch.zeros_like(vocabulary_ids, dtype=torch.bool)
    for table in served.embedding.tables:
        assert isinstance(table, PackedTable)
        assert table.scales is not None
        here = served.numbering[vocabulary_ids] - table.begin
        here = (here >= 0) & (here < table.count)
        assert not (here & seen).any()
        seen |= here
        # The largest step between two of the sixteen levels is that from -1 to -0.7.
        half = table.scales * (0.5 if table.bits == 8 else 0.153)
        cut = values > table.scales * (127 if table.bits == 8 else 1)
        assert ((off <= half + 1e-5) | cut | ~here.unsqueeze(2)).all()
        assert (off < values)[cut & here.unsqueeze(2)].all()
    assert seen.all()
    if not full:
        assert (embeddings[exact == 0] == 0).all()


@pytest.mark.parametrize("bits", [32, 16, 8, 4])
def test_places_of_more_than_two_thousand_million_values_are_as_good(bits: int) -> None:
    """Where 32 bits do not reach, the same is worked out in 64."""
    module = module_of()
    sizes = sizes_of(module)
    transferred(module, sizes, renumbered=True)
    served = ServedModel.of(module, sizes, bits)
    ids = rows()
    narrow = asked(served, ids)
    for table in served.embedding.tables:
        assert isinstance(table, PackedTable)
        assert table.class_places.dtype == torch.int32
        table.class_places = table.class_places.long()
    assert asked(served, ids).equal(narrow)


def test_few_bits_take_few_bytes() -> None:
    module = module_of()
    values, columns = V * (D + 1), D + 1
    scales = 4 * len(FIELD_TOKENS) * columns
    sizes = {bits: ServedModel.of(module, bits=bits).embedding.num_bytes for bits in (32, 16, 8, 4)}
    assert sizes[32] == 4 * values
    assert sizes[16] == 2 * values
    assert sizes[8] == values + scales
    # A tenth of the tokens, three of 36, have 8 bits, and there are scales for both kinds.
    assert sizes[4] == 3 * (D + 1) + -(-33 * (D + 1) // 2) + 2 * scales


def test_of_four_bits_the_tokens_that_need_them_have_eight() -> None:
    """Those that are frequent, and whose values lie between the levels."""
    module = module_of()
    table = module.embedding
    assert isinstance(table, FullEmbedding)
    with torch.no_grad():
        # Of the last field, all rows but four are made of levels; of these, two are never seen.
        table.weight[6:] = LEVELS[torch.randint(0, 16, (30, D))]
        table.weight[6, :] = 1.0
        assert table.linear is not None
        table.linear[6:, 0] = LEVELS[torch.randint(0, 16, (30,))]
        table.linear[6, 0] = 1.0
        table.weight[:6] = table.linear[:6] = 1.0
        table.weight[[10, 20, 30, 35]] += 0.04
    frequencies = torch.ones(V, dtype=torch.long)
    frequencies[[20, 35]] = 1000
    served = ServedModel.of(module, None, 4, frequencies)
    fine, coarse = served.embedding.tables
    assert isinstance(fine, PackedTable)
    assert isinstance(coarse, PackedTable)
    assert (fine.bits, coarse.bits) == (8, 4)
    assert {20, 35} <= set(served.order()[: fine.count].tolist())
    assert fine.count + coarse.count == V


def test_a_table_in_which_nobody_owns_anything_reads_as_zeros() -> None:
    module = module_of("DCN")
    sizes = sizes_of(module, sizes=torch.zeros(V, dtype=torch.long))
    transferred(module, sizes, renumbered=True)
    embeddings, linear = ServedModel.of(module, sizes, 4).embedding(rows())  # any numbering will do
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
    with pytest.raises(BadInput, match=r"the model.s backbone\.\S+ is float64: export it in 32 bits"):
        ServedModel.of(module_of().double())
    split = CTRModule([40, 40], "pme_lightning.backbones.FM", embedding_dim=2, shard=Shard(0, 2))
    with pytest.raises(BadInput, match="split over processes"):
        ServedModel.of(split)
