"""The panels that a project opens with, in their order, as plain data: what each shows of what runs log."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Curve:
    """Figures of a run over an axis: of a phase, its steps."""

    title: str
    x: str
    y: tuple[str, ...]
    log_y: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart that a run logs with its own data: ``kind`` is the preset that draws it, ``fields`` its columns."""

    title: str
    key: str
    kind: str
    fields: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True)
class Table:
    """A table that a run logs."""

    key: str


@dataclass(frozen=True)
class Scatter:
    """One point a run, from its summary."""

    title: str
    x: str
    y: str


Panel = Curve | Chart | Table | Scatter


@dataclass(frozen=True)
class Section:
    """Panels under one heading.

    Attributes:
        name: The heading.
        panels: The panels, in reading order.
        only: Which runs have them, where not every ``pme`` run does: ``"gpu"`` or ``"pareto"``.
    """

    name: str
    panels: tuple[Panel, ...]
    only: str | None = None


_LINES = (("step", "step"), ("lineKey", "lineKey"), ("lineVal", "lineVal"))


def _bar(title: str, key: str, label: str, value: str) -> Chart:
    return Chart(title, key, "wandb/bar/v0", (("label", label), ("value", value)))


def _line(title: str, key: str, x: str, y: str) -> Chart:
    return Chart(title, key, "wandb/line/v0", (("x", x), ("y", y), ("stroke", None)))


def _training(name: str, phase: str) -> Section:
    step = f"{phase}/step"
    return Section(
        name,
        (
            Curve("Validation AUC, and the best so far", step, (f"{phase}/valid_auc", f"{phase}/best_valid_auc")),
            Curve("Validation logloss", step, (f"{phase}/valid_logloss", f"{phase}/best_valid_logloss")),
            Curve("Training loss", step, (f"{phase}/train_loss",)),
            Curve("Learning rates", step, (f"{phase}/lr_network", f"{phase}/lr_embedding"), log_y=True),
            Curve("Rows per second", step, (f"{phase}/rows_per_second",)),
        ),
    )


SECTIONS = (
    Section(
        "Result",
        (
            Table("result/models"),
            _bar("Test AUC", "result/test_auc", "model", "test_auc"),
            _bar("Embedding bytes", "result/embedding_bytes", "model", "embedding_bytes"),
            Scatter("Test AUC over embedding bytes, one point a run", "embedding.bytes", "test.auc"),
        ),
    ),
    Section(
        "Sizes",
        (
            Chart("Sizes in each field: share of its tokens", "sizes/by_field", "wandb/lineseries/v0", _LINES),
            _bar("Kept fraction of each field", "sizes/kept_by_field", "field", "kept"),
            Chart("Size over popularity", "sizes/over_popularity", "wandb/lineseries/v0", _LINES),
            _line(
                "Score spectrum: what the best values hold of all score",
                "sizes/score_spectrum",
                "fraction of values",
                "share of score",
            ),
            _bar("Score of each embedding axis, all tokens", "sizes/score_by_axis", "axis", "score"),
            Table("sizes/fields"),
        ),
    ),
    Section(
        "Pareto",
        (
            Curve("Test AUC over kept fraction", "pareto/fraction", ("pareto/auc",)),
            Curve("Test logloss over kept fraction", "pareto/fraction", ("pareto/logloss",)),
            Table("curve/points"),
        ),
        only="pareto",
    ),
    Section(
        "Search",
        (
            Curve("Kept fraction along the schedule", "search/step", ("search/kept_fraction",)),
            Curve("Training loss", "search/step", ("search/train_loss",)),
            Curve("Learning rates", "search/step", ("search/lr_network", "search/lr_embedding"), log_y=True),
            Curve("Rows per second", "search/step", ("search/rows_per_second",)),
        ),
    ),
    _training("Fine-tune", "finetune"),
    _training("Full-size model", "full"),
    Section(
        "GPU memory",
        tuple(
            Curve(
                f"GPU memory, GiB: {phase}",
                f"{phase}/step",
                (f"{phase}/gpu_memory_gib", f"{phase}/gpu_memory_peak_gib"),
            )
            for phase in ("search", "finetune", "full")
        ),
        only="gpu",
    ),
)
