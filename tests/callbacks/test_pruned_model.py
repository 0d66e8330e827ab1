"""What rows tell of a pruned model, against the same model with its values set to zero."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pme_lightning.backbones import DCN, FM, DeepFM
from pme_lightning.callbacks.pruned_model import PrunedModel
from pme_lightning.errors import BadInput
from pme_lightning.module import CTRModule
from pme_lightning.search import RowInformation
from pme_lightning.search.in_turn import InTurn
from pme_lightning.search.use import use_sums

FIELDS, D = [5, 4, 3], 4
V = sum(FIELDS)
OFTEN = torch.tensor([1, 2, 3, 4, 50, 9, 9, 9, 9, 1, 1000, 0])


def model(backbone: type, **arguments: object) -> CTRModule:
    torch.manual_seed(2)
    module = CTRModule(FIELDS, backbone, arguments, embedding_dim=D, embedding_init_std=0.5)
    if module.embedding.linear is not None:
        torch.nn.init.normal_(module.embedding.linear)
    return module


def batches(count: int, rows: int = 7) -> list[tuple[Tensor, Tensor]]:
    starts = torch.tensor([0, *FIELDS]).cumsum(0)[:-1]
    return [
        (torch.stack([torch.randint(0, n, (rows,)) for n in FIELDS], 1) + starts, torch.randint(0, 2, (rows,)).float())
        for _ in range(count)
    ]


def basis_of(axes: str) -> Tensor | None:
    if axes == "original":
        return None
    return torch.linalg.qr(torch.randn(D, D) if axes == "principal" else torch.randn(len(FIELDS), D, D)).Q


def masked(module: CTRModule, kept: Tensor, basis: Tensor | None) -> Tensor:
    """Returns the table's rows along each token's axes, and zero where they are not kept."""
    each = torch.eye(D).expand(len(FIELDS), D, D) if basis is None else basis.expand(len(FIELDS), D, D)
    of_fields = module.embedding.weight.detach().split(FIELDS)
    return torch.cat([rows @ axes for rows, axes in zip(of_fields, each, strict=True)]) * kept


@pytest.mark.parametrize("backbone", [FM, DCN])
@pytest.mark.parametrize("axes", ["original", "principal", "field"])
def test_it_is_what_the_gradients_of_each_row_tell(backbone: type, axes: str) -> None:
    module, data = model(backbone), batches(2)
    basis = basis_of(axes)
    kept, kept_linear = torch.rand(V, D) < 0.5, torch.rand(V) < 0.5
    has_linear = module.embedding.linear is not None
    found = PrunedModel(module, data, OFTEN).information(kept, kept_linear if has_linear else None, basis)
    back = (torch.eye(D) if basis is None else basis).expand(len(FIELDS), D, D).transpose(1, 2)
    rows = masked(module, kept, basis)
    squares, firsts, products = torch.zeros(3, D, D).double(), torch.zeros(3), torch.zeros(3, D)
    popular, popular_rows = torch.zeros(3), torch.zeros(3)  # of tokens with 8 to 15 rows
    whole, seen = masked(module, torch.ones(V, D), basis), []
    for ids, labels in data:
        for row, label in zip(ids, labels, strict=True):
            values = rows[row].clone().requires_grad_()
            inputs = [values]
            if has_linear:
                inputs.append((module.embedding.linear.detach()[row, 0] * kept_linear[row]).requires_grad_())  # type: ignore[union-attr]
            embeddings = torch.stack([value @ turn for value, turn in zip(values, back, strict=True)])
            logits = module.backbone(embeddings[None], *(each[None] for each in inputs[1:]))
            gradients = torch.autograd.grad(F.binary_cross_entropy_with_logits(logits, label[None]), inputs)
            squares += gradients[0].double()[:, :, None] * gradients[0].double()[:, None]
            seen.append((whole[row], kept[row], gradients[0]))
            alike = (OFTEN[row] >= 8) & (OFTEN[row] < 16)
            popular += gradients[0].square().sum(1) * alike
            popular_rows += alike
            if has_linear:
                firsts += gradients[1].square()
                products += gradients[0] * gradients[1][:, None]
    in_turn = InTurn.of(squares / 14)
    torch.testing.assert_close(found.table, in_turn.told, rtol=1e-3, atol=1e-7)
    mean = squares.diagonal(dim1=1, dim2=2).sum(1).float() / 14
    ratio = (popular + 64 * mean) / (popular_rows + 64) / mean
    assert int(popular_rows[1]) > 0, "otherwise nothing is compared"
    told = torch.stack([found.of_tokens(field, torch.tensor([9]))[0] for field in range(3)])
    torch.testing.assert_close(told.float(), in_turn.told.float() * ratio.unsqueeze(1), rtol=1e-3, atol=1e-7)
    uses = use_sums(*(torch.stack(each) for each in zip(*seen, strict=True)))
    expected = RowInformation.of_sums(torch.tensor([14.0]).double(), squares, uses=uses).use
    torch.testing.assert_close(found.use, expected, rtol=1e-3, atol=1e-3, equal_nan=True)
    if has_linear:
        torch.testing.assert_close(found.linear.float(), firsts / 14, rtol=1e-4, atol=1e-7)  # type: ignore[union-attr]
        beyond = torch.stack([in_turn.gradients(field, products[field][None])[0] for field in range(3)])
        shared = beyond.square() / (14 * in_turn.told * firsts[:, None]).clamp(min=1e-30)
        torch.testing.assert_close(found.shared, shared, rtol=1e-2, atol=1e-4)


def test_a_factorization_machine_tells_nothing_along_axes_that_no_partner_keeps() -> None:
    module, data = model(FM), batches(3)
    kept = torch.ones(V, D, dtype=torch.bool)
    kept[5:, 2:] = False  # of the other two fields, the first two axes are left
    found = PrunedModel(module, data, OFTEN).information(kept, torch.ones(V, dtype=torch.bool))
    assert (found.table[0, 2:] < 1e-9 * found.table[0, :2].min()).all(), "but for rounding"
    assert (found.table[1:] > 0).all(), "the first field has all of its values"


def test_the_model_stays_as_it_is_and_is_refused_once_it_has_changed() -> None:
    module, data = model(DeepFM, hidden_units=[8], dropout=0.5, batch_norm=True), batches(2)
    module.train()
    module.backbone.eval()
    modes = [part.training for part in module.modules()]
    before = {name: value.clone() for name, value in module.state_dict().items()}
    pruned = PrunedModel(module, data, OFTEN)
    kept = torch.rand(V, D) < 0.5
    one, other = (pruned.information(kept, torch.ones(V, dtype=torch.bool)) for _ in range(2))
    assert torch.equal(one.table, other.table), "no dropout"
    assert [part.training for part in module.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    with torch.no_grad():
        module.embedding.weight[0] += 1
    with pytest.raises(BadInput, match="trained or rebuilt since: ask for the sizes of all budgets first"):
        pruned.information(kept, torch.ones(V, dtype=torch.bool))
    with pytest.raises(BadInput, match="trained or rebuilt since"):
        pruned.loss(kept, torch.ones(V, dtype=torch.bool))


@pytest.mark.parametrize("axes", ["original", "principal", "field"])
def test_its_loss_is_that_of_a_model_whose_table_is_cut(axes: str) -> None:
    module, data, basis = model(DeepFM, hidden_units=[8], dropout=0.5), batches(2), basis_of(axes)
    kept, kept_linear = torch.rand(V, D) < 0.5, torch.rand(V) < 0.5
    pruned = PrunedModel(module, data, OFTEN)
    whole, cut = pruned.loss(), pruned.loss(kept, kept_linear, basis)
    other = model(DeepFM, hidden_units=[8], dropout=0.5)
    ids, labels = (torch.cat(parts) for parts in zip(*data, strict=True))

    def loss() -> float:
        with torch.no_grad():
            return float(F.binary_cross_entropy_with_logits(other.eval()(ids), labels))

    assert whole == pytest.approx(loss(), rel=1e-5)
    with torch.no_grad():
        back = torch.eye(D).expand(3, D, D) if basis is None else basis.expand(3, D, D).transpose(1, 2)
        rows = masked(other, kept, basis).split(FIELDS)
        other.embedding.weight.copy_(torch.cat([own @ turn for own, turn in zip(rows, back, strict=True)]))
        other.embedding.linear.mul_(kept_linear[:, None])  # type: ignore[union-attr]
    assert cut == pytest.approx(loss(), rel=1e-5)
    assert cut != pytest.approx(whole, rel=1e-3)
