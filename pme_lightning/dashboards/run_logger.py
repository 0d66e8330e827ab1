"""The Weights & Biases logger of one phase: the phases of a command are one run, each with an x-axis of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from pme_lightning.errors import BadInput, did_you_mean

Kind = Literal["config", "vocabulary", "sizes", "summary", "model", "full_model"]
DEFAULT_ARTIFACTS: tuple[Kind, ...] = ("config", "vocabulary", "sizes", "summary", "model")
# The names of these arguments are those of `wandb.init`.
INIT_ARGUMENTS = ("project", "entity", "name", "group", "tags", "notes", "job_type", "id")


class RunLogger(WandbLogger):
    """Lightning's Weights & Biases logger for runs of several phases.

    Names stand behind their phase (``finetune/train_loss``) and are drawn over the steps of it (``finetune/step``).
    Steps begin at 0 in every phase, while those of a Weights & Biases run must rise: they are its own count of rows.

    Args:
        project: Where runs are kept; ``None``: ``WANDB_PROJECT``, or ``pme-lightning``.
        entity: The user or team that has the project; ``None``: ``WANDB_ENTITY``, or the key's own.
        name: The run's name; ``None``: ``WANDB_NAME``, or the name of the run folder.
        group: What the run is shown together with.
        tags: Words to find it by.
        notes: What is to be said of it.
        job_type: The kind of run; ``None``: the command.
        offline: Whether the run is kept on disk, for ``wandb sync`` to upload; one without a key always is.
        id: The run to write to; ``None``: a new one.
        artifacts: What is uploaded at the end of a run: ``config``, ``vocabulary``, ``sizes``, ``summary``, ``model``
            (the best checkpoint of the multi-size model, or of what else was trained; of an export, the program) and
            ``full_model`` (that of the full-size model beside it); ``None``: all but ``full_model``.
        save_dir: The folder that ``wandb/`` is made in.
        prefix: The phase.
        experiment: A run that is open.

    Raises:
        BadInput: An artifact is of no kind.
    """

    LOGGER_JOIN_CHAR = "/"

    def __init__(
        self,
        project: str | None = None,
        entity: str | None = None,
        name: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        notes: str | None = None,
        job_type: str | None = None,
        offline: bool = False,
        id: str | None = None,
        artifacts: list[Kind] | None = None,
        save_dir: str = ".",
        prefix: str = "",
        experiment: Any = None,
    ) -> None:
        for kind in artifacts or ():
            if kind not in get_args(Kind):
                raise BadInput(f"logger.artifacts: '{kind}' is none; {did_you_mean(str(kind), get_args(Kind))}")
        self.artifacts: tuple[Kind, ...] = DEFAULT_ARTIFACTS if artifacts is None else tuple(artifacts)
        more: dict[str, Any] = {"entity": entity, "group": group, "tags": tags, "notes": notes, "job_type": job_type}
        super().__init__(
            name=name,
            save_dir=save_dir,
            offline=offline,
            id=id,
            project=project,
            prefix=prefix,
            experiment=experiment,
            **more,
        )
        self._has_axis = not prefix

    @property
    def axis(self) -> str:
        """The name of the phase's steps."""
        return f"{self._prefix}/step" if self._prefix else "trainer/global_step"

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Writes figures of a step, under the phase."""
        if not self._has_axis:
            self.experiment.define_metric(self.axis, hidden=True)
            self.experiment.define_metric(f"{self._prefix}/*", step_metric=self.axis)
            self._has_axis = True
        named: dict[str, Any] = {f"{self._prefix}/{key}" if self._prefix else key: v for key, v in metrics.items()}
        self.experiment.log(named if step is None else {**named, self.axis: step})

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Uploads nothing yet: the best checkpoint is known when the run is done."""
