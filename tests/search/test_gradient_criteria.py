"""Criteria of gradients, and of magnitudes, against values computed by hand and against the formulas written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pme_lightning.errors import BadInput
from pme_lightning.search import Criterion, Fisher, Magnitude, Saliency

GRADIENT_CRITERIA = [
    Saliency(power=1),
    Saliency(power=2),
    Fisher(axes="original"),
    Fisher(axes="principal"),
]
WEIGHT = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
LINEAR = torch.tensor([[2.0], [-1.0]])
FREQUENCIES = torch.tensor([10, 0])
# Two batches of (table, first-order) gradients; the first-order ones cancel at token 0.
BATCHES = [
    (torch.tensor([[1.0, 1.0], [0.0, 2.0]]), torch.tensor([[3.0], [0.0]])),
    (torch.tensor([[2.0, -3.0], [0.0, 4.0]]), torch.tensor([[-3.0], [5.0]])),
]


def random_problem(num_tokens: int = 50, embedding_dim: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(embedding_dim, embedding_dim, generator=generator)
    weight = torch.randn(num_tokens, embedding_dim, generator=generator) @ mixing
    linear = torch.randn(num_tokens, 1, generator=generator)
    return weight, linear, torch.randint(0, 100, (num_tokens,), generator=generator)


def sparse_grads(num_tokens: int, embedding_dim: int, batches: int = 3) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    grads = []
    for _ in range(batches):
        # Ids repeat, as they do when a token occurs more than once in a batch.
        ids = torch.randint(0, num_tokens, (1, 30), generator=generator)
        table = torch.sparse_coo_tensor(
            ids,
            torch.randn(30, embedding_dim, generator=generator),
            (num_tokens, embedding_dim),
            check_invariants=True,
        )
        linear = torch.sparse_coo_tensor(
            ids, torch.randn(30, 1, generator=generator), (num_tokens, 1), check_invariants=True
        )
        grads.append((table, linear))
    return grads


@pytest.mark.parametrize(
    ("criterion", "table", "linear"),
    [
        # |w * sum g|
        (Saliency(power=1), [[3.0, 4.0], [0.0, 3.0]], [0.0, 5.0]),
        # w^2 * sum g^2
        (Saliency(power=2), [[5.0, 40.0], [0.0, 5.0]], [72.0, 25.0]),
        (Fisher(axes="original"), [[5.0, 40.0], [0.0, 5.0]], [72.0, 25.0]),
    ],
)
def test_values_by_hand(criterion: Criterion, table: list[list[float]], linear: list[float]) -> None:
    criterion.start(WEIGHT, LINEAR, FREQUENCIES)
    for grads in BATCHES:
        criterion.update(*grads)
    scores = criterion.scores(WEIGHT, LINEAR, FREQUENCIES)
    assert scores.table.tolist() == table
    assert scores.linear is not None
    assert scores.linear.tolist() == linear
    assert scores.basis is None


def test_magnitude_by_hand() -> None:
    scores = Magnitude().scores(WEIGHT, LINEAR, FREQUENCIES)
    assert scores.table.tolist() == [[1.0, 4.0], [9.0, 0.25]]
    assert scores.linear is not None
    assert scores.linear.tolist() == [4.0, 1.0]
    assert Magnitude().scores(WEIGHT, None, FREQUENCIES).linear is None


def test_fisher_in_principal_axes_is_the_formula() -> None:
    weight, linear, frequencies = random_problem()
    criterion = Fisher(axes="principal")
    criterion.start(weight, linear, frequencies)
    grads = [(table.to_dense(), column.to_dense()) for table, column in sparse_grads(50, 4)]
    for pair in grads:
        criterion.update(*pair)
    later = weight + 0.1  # the axes stay those of the start of the window
    scores = criterion.scores(later, linear, frequencies)

    energies, axes = torch.linalg.eigh(weight.double().T @ (frequencies.double().unsqueeze(1) * weight.double()))
    axes = axes[:, energies.argsort(descending=True)].float()
    expected = (later @ axes) ** 2 * sum((table @ axes) ** 2 for table, _ in grads)
    torch.testing.assert_close(scores.table, expected, rtol=1e-4, atol=1e-5)
    assert scores.linear is not None
    torch.testing.assert_close(scores.linear, (linear**2 * sum(column**2 for _, column in grads)).squeeze(1))
    assert scores.basis is criterion.basis
    assert criterion.state()["table"].shape == weight.shape


def test_magnitude_in_principal_axes_is_the_formula() -> None:
    weight, linear, frequencies = random_problem()
    scores = Magnitude(axes="principal").scores(weight, linear, frequencies)
    assert scores.basis is not None
    torch.testing.assert_close(scores.table, (weight @ scores.basis) ** 2)


@pytest.mark.parametrize("criterion", GRADIENT_CRITERIA)
def test_sparse_gradients_equal_dense(criterion: Criterion) -> None:
    weight, linear, frequencies = random_problem()
    results = []
    for dense in (False, True):
        criterion.start(weight, linear, frequencies)
        for table, column in sparse_grads(50, 4):
            criterion.update(table.to_dense() if dense else table, column.to_dense() if dense else column)
        results.append(criterion.scores(weight, linear, frequencies))
    torch.testing.assert_close(results[0].table, results[1].table)
    torch.testing.assert_close(results[0].linear, results[1].linear)
    assert results[0].table.abs().sum() > 0


@pytest.mark.parametrize("dense", [True, False])
def test_a_table_of_many_chunks(dense: bool) -> None:
    weight = torch.randn(70_000, 3, generator=torch.Generator().manual_seed(0))
    grad = weight.flip(0)
    frequencies = torch.arange(70_000)
    criterion = Fisher(axes="principal")
    criterion.start(weight, None, frequencies)
    criterion.update(grad if dense else grad.to_sparse(1))
    scores = criterion.scores(weight, None, frequencies)
    assert scores.basis is not None
    torch.testing.assert_close(scores.table, (weight @ scores.basis) ** 2 * (grad @ scores.basis) ** 2)


@pytest.mark.parametrize("criterion", GRADIENT_CRITERIA)
def test_states_add_up_over_processes(criterion: Criterion) -> None:
    weight, linear, frequencies = random_problem()
    batches = sparse_grads(50, 4, batches=4)
    states = []
    for part in (batches[:1], batches[1:], batches):
        criterion.start(weight, linear, frequencies)
        for grads in part:
            criterion.update(*grads)
        states.append(criterion.state())
    assert set(states[0]) == {"table", "linear"}
    expected = criterion.scores(weight, linear, frequencies)
    criterion.start(weight, linear, frequencies)
    criterion.load_state({name: states[0][name] + states[1][name] for name in states[0]})
    found = criterion.scores(weight, linear, frequencies)
    torch.testing.assert_close(found.table, expected.table)
    torch.testing.assert_close(found.linear, expected.linear)


@pytest.mark.parametrize("criterion", GRADIENT_CRITERIA)
def test_start_forgets(criterion: Criterion) -> None:
    weight, _, frequencies = random_problem()
    criterion.start(weight, None, frequencies)
    criterion.update(weight)
    criterion.start(weight, None, frequencies)
    assert not criterion.scores(weight, None, frequencies).table.any()


def test_wrong_input() -> None:
    with pytest.raises(BadInput, match="must be 1 or 2"):
        Saliency(power=3)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="did you mean 'principal'"):
        Fisher(axes="principle")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="Magnitude: axes"):
        Magnitude(axes="xyz")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="diverged"):
        Fisher().start(torch.full((2, 2), torch.nan), None, FREQUENCIES)


def test_misuse_is_told() -> None:
    with pytest.raises(RuntimeError, match="before start"):
        Fisher().update(WEIGHT)
    with pytest.raises(RuntimeError, match="before start"):
        Fisher().scores(WEIGHT, None, FREQUENCIES)
    with pytest.raises(RuntimeError, match="no gradients"):
        Magnitude().update(WEIGHT)
    criterion = Saliency()
    criterion.start(WEIGHT, LINEAR, FREQUENCIES)
    with pytest.raises(ValueError, match="first-order"):
        criterion.update(WEIGHT)
    with pytest.raises(ValueError, match="first-order"):
        criterion.scores(WEIGHT, None, FREQUENCIES)
    with pytest.raises(ValueError, match="accumulator"):
        criterion.load_state({"tables": WEIGHT})
