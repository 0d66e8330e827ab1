"""The result of a search, and its file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pme_lightning.embedding.size_classes import size_classes, size_order, size_ranks
from pme_lightning.errors import BadInput, first_line
from pme_lightning.written_whole import written_whole

_FORMAT = "pme_lightning.sizes"
_VERSION = "1"
# Rounding leaves axes far nearer to orthogonal than this.
_NOT_ORTHOGONAL = 1e-3


@dataclass(eq=False)
class SearchResult:
    """The sizes that a search found, in the order of the vocabulary's token ids.

    Attributes:
        sizes: ``(V,)`` int64 in [0, D]: embedding values of each token.
        linear: ``(V,)`` bool: whether the token's first-order weight is kept; None for a model without them.
        embedding_dim: D.
        basis: ``(D, D)`` orthogonal, whose columns are the axes that sizes count along, or ``(F, D, D)``, one for each
            field; None for the original axes.
        budget: the budget as text: ``20%``, ``1000000``, ``20MB``.
        criterion: the name of the criterion.
        spectrum: ``(F, D)``: the expected mean squares, after training, of the values of each field's tokens along the
            axes; None if the search expects none.

    Raises:
        BadInput: the parts do not fit together.

    Examples:
        >>> sizes = torch.tensor([0, 2, 1, 2])
        >>> result = SearchResult(sizes, None, embedding_dim=4, basis=None, budget="30%", criterion="mine")
        >>> result.parameters
        5
        >>> result.order()  # token ids by falling size: the numbering in which no index is needed
        tensor([1, 3, 2, 0])
    """

    sizes: Tensor
    linear: Tensor | None
    embedding_dim: int
    basis: Tensor | None
    budget: str
    criterion: str
    spectrum: Tensor | None = None

    def __post_init__(self) -> None:
        if self.sizes.is_floating_point() and bool((self.sizes != self.sizes.round()).any()):
            raise BadInput("sizes are whole numbers of values; some of these are not")
        self.sizes = self.sizes.to("cpu", torch.int64)
        if self.sizes.ndim != 1:
            raise BadInput(f"sizes have shape {tuple(self.sizes.shape)}; one number a token is needed")
        if len(self.sizes):
            low, high = (int(bound) for bound in torch.aminmax(self.sizes))
            if low < 0 or high > self.embedding_dim:
                raise BadInput(f"sizes reach from {low} to {high}; they must lie in 0 ... {self.embedding_dim}")
        if self.linear is not None:
            self.linear = self.linear.to("cpu", torch.bool)
            if self.linear.shape != self.sizes.shape:
                raise BadInput(
                    f"there are {len(self.sizes)} sizes, the first-order weights have shape {tuple(self.linear.shape)}"
                )
        if self.basis is not None:
            self.basis = self.basis.detach().to("cpu", torch.float32)
            square = (self.embedding_dim, self.embedding_dim)
            if self.basis.ndim not in (2, 3) or self.basis.shape[-2:] != square:
                raise BadInput(
                    f"basis has shape {tuple(self.basis.shape)}; it must be {square}, or one such for each field"
                )
            off = float((self.basis.mT @ self.basis - torch.eye(self.embedding_dim)).abs().max())
            if not off < _NOT_ORTHOGONAL:
                raise BadInput(f"basis is not orthogonal: QᵀQ is {off:.2g} off the identity; it must turn, no more")
        if self.spectrum is not None:
            self.spectrum = self.spectrum.detach().to("cpu", torch.float32)
            if self.spectrum.ndim != 2 or self.spectrum.shape[1] != self.embedding_dim:
                raise BadInput(
                    f"spectrum has shape {tuple(self.spectrum.shape)}; it must have {self.embedding_dim} values a field"
                )
            if not bool(((self.spectrum >= 0) & self.spectrum.isfinite()).all()):
                raise BadInput("spectrum has values that are negative or not finite; it holds mean squares")

    @property
    def parameters(self) -> int:
        """Per-token values kept: the sum of the sizes and of the first-order weights."""
        return int(self.sizes.sum()) + (0 if self.linear is None else int(self.linear.sum()))

    @property
    def axes(self) -> str:
        """The axes that sizes count along: ``original``, ``shared`` by all fields, or separate for each ``field``."""
        if self.basis is None:
            return "original"
        return "shared" if self.basis.ndim == 2 else "field"

    @property
    def projection_parameters(self) -> int:
        """Number of parameters besides per-token values: of a ``D x D`` projection, or one for each field."""
        return self.embedding_dim**2 if self.basis is None else self.basis.numel()

    def order(self) -> Tensor:
        """Returns ``(V,)`` token ids by falling size, those with a first-order weight first, then by id."""
        return size_order(self._ranks())

    def classes(self) -> list[tuple[int, bool, int]]:
        """Returns ``(size, has a first-order weight, number of tokens)`` of each class, in :meth:`order`."""
        return [(c.size, c.linear, c.count) for c in size_classes(self._ranks())]

    def fingerprint(self) -> str:
        """Returns a short hash of the sizes, by which a checkpoint identifies the sizes it was built with."""
        return hashlib.sha256(self._ranks().to(torch.int32).numpy().tobytes()).hexdigest()[:16]

    def save(self, path: str | Path) -> None:
        """Writes one safetensors file; it appears under its name only when complete."""
        path = Path(path)
        small = next(
            dtype for dtype in (torch.uint8, torch.int16, torch.int32) if self.embedding_dim <= torch.iinfo(dtype).max
        )
        tensors = {"sizes": self.sizes.to(small)}
        if self.linear is not None:
            tensors["linear"] = self.linear.contiguous()
        if self.basis is not None:
            tensors["basis"] = self.basis.contiguous()
        if self.spectrum is not None:
            tensors["spectrum"] = self.spectrum.contiguous()
        metadata = {
            "format": _FORMAT,
            "version": _VERSION,
            "embedding_dim": str(self.embedding_dim),
            "budget": self.budget,
            "criterion": self.criterion,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as partial:
            save_file(tensors, partial, metadata)

    @classmethod
    def load(cls, path: str | Path) -> SearchResult:
        """Reads a file written by :meth:`save`; ``~`` is the home folder.

        Raises:
            BadInput: there is no such file, or it is damaged, or not the result of a search.
        """
        path = Path(path).expanduser()
        if not path.is_file():
            raise BadInput(f"sizes={path}: there is no such file; give the sizes.safetensors of a search")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            reason = first_line(error)
            raise BadInput(f"sizes={path}: not a whole safetensors file ({reason}); search again") from error
        if metadata.get("format") != _FORMAT or "sizes" not in tensors:
            raise BadInput(f"sizes={path}: not the result of a search; give the sizes.safetensors of a search")
        if metadata.get("version") != _VERSION:
            raise BadInput(
                f"sizes={path}: written in version {metadata.get('version')} of its format, "
                f"this program reads version {_VERSION}; search again"
            )
        try:
            return cls(
                sizes=tensors["sizes"],
                linear=tensors.get("linear"),
                embedding_dim=int(metadata["embedding_dim"]),
                basis=tensors.get("basis"),
                budget=metadata["budget"],
                criterion=metadata["criterion"],
                spectrum=tensors.get("spectrum"),
            )
        except (KeyError, ValueError) as error:
            raise BadInput(f"sizes={path}: its parts do not fit together ({error}); search again") from error

    def _ranks(self) -> Tensor:
        return size_ranks(self.sizes, self.linear)
