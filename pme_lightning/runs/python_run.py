"""A whole run from Python: the ``pme`` command with objects in the place of words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback
from torch import nn

from pme_lightning.configuration.command_line import CommandLine
from pme_lightning.configuration.composition import compose
from pme_lightning.configuration.parser import parse_config
from pme_lightning.data import EncodedDataModule
from pme_lightning.errors import BadInput
from pme_lightning.export import ExportedModel, export_model
from pme_lightning.module import CTRModule
from pme_lightning.runs.checkpoints import load_module
from pme_lightning.runs.python_words import add_class, add_data, check_no_settings_of, settings_line, word
from pme_lightning.runs.runner import Runner
from pme_lightning.runs.undisturbed import undisturbed
from pme_lightning.search import SearchResult

# Of search_and_finetune; a setting of the name would be something else, or nothing.
_ARGUMENTS = ("data", "backbone", "search", "logger", "baseline", "run_dir", "seed")


@dataclass(frozen=True)
class Outcome:
    """What :func:`search_and_finetune` leaves.

    Attributes:
        summary: What ``summary.json`` holds.
        module: The fine-tuned multi-size model, with its best weights by validation.
        sizes: The size of every token.
        folder: The run folder.
        checkpoint: The file of the model.
        sizes_file: The file of the sizes.
    """

    summary: dict[str, Any]
    module: CTRModule
    _data: EncodedDataModule
    sizes: SearchResult
    folder: Path
    checkpoint: Path
    sizes_file: Path

    @property
    def data(self) -> EncodedDataModule:
        """The data module, its tokens numbered as the model has them: ``Trainer().test(module, data)`` works.

        Several outcomes may have one data module in common: the one that was asked last has it numbered its way.
        """
        self._data.renumber(self.sizes.order(), self.sizes.fingerprint())
        return self._data

    def export(self, folder: str | Path, bits: int = 8) -> ExportedModel:
        """Writes the model in the form in which it is served; see :func:`~pme_lightning.export.export_model`."""
        return export_model(self.module, self.data, folder, self.sizes, bits)

    def __repr__(self) -> str:
        test, embedding = self.summary["test"], self.summary["embedding"]
        auc = "-" if test["auc"] is None else f"{test['auc']:.4f}"
        return f"Outcome(test AUC {auc}, {embedding['fraction']:.1%} of the full-size bytes, in {self.folder})"


def search_and_finetune(
    data: Any = "synthetic",
    backbone: str | type[nn.Module] = "deepfm",
    budget: float | int | str | None = None,
    *,
    search: str | Callback = "pme",
    baseline: bool = True,
    backbone_args: Mapping[str, Any] | None = None,
    trainer: Mapping[str, Any] | None = None,
    logger: str | None = None,
    run_dir: str | Path | None = None,
    seed: int = 42,
    settings: Mapping[str, Any] | None = None,
) -> Outcome:
    """Searches the size of every token, rebuilds the model with those sizes, fine-tunes and tests it.

    It is ``python train.py pme`` from Python: the same phases, the same run folder, the same printed table.

    Args:
        data: A data module; a data frame of polars or pandas; the path of a file or folder, or the id of a Hugging
            Face data set; or a choice of the group ``data``. Frames and paths are split by fraction, and the label
            column is inferred, as far as ``settings`` do not say otherwise (``{"data.label": "clicked"}``).
        backbone: A choice of the group (``"dcnv2"``), a class, or the import path of one.
        budget: What the sizes may sum to: a fraction of the full-size per-token parameters (``0.1``), a parameter
            count (``2_000_000``) or bytes (``"20MB"``). ``None``: that of the search, 0.2 with ``search="pme"``.
        search: A choice of the group, or a callback such as
            :class:`~pme_lightning.callbacks.PruningCallback`, which brings its own budget.
        baseline: Whether to train the full-size model as well, to compare with.
        backbone_args: Further arguments of the backbone.
        trainer: Options of Lightning's Trainer, such as ``{"max_epochs": 3, "accelerator": "gpu"}``.
        logger: A choice of the group (``"csv"``, ``"wandb"``, ...), or ``None``.
        run_dir: The folder to write to; ``None``: a new one under ``runs/``.
        seed: Of everything random.
        settings: Whatever else the command line can set, such as ``{"optimizer.lr": 1e-3}``;
            ``python train.py explain KEY`` tells what a key does.

    Raises:
        BadInput: Something in the input is wrong, in one line.

    Examples:
        >>> from pme_lightning import SyntheticDataModule, search_and_finetune
        >>> data = SyntheticDataModule(rows=1_000, tokens=200, num_fields=3)
        >>> quick = {"search": "fisher", "baseline": False, "trainer": {"max_epochs": 1}}
        >>> outcome = search_and_finetune(data, "fm", budget=0.5, **quick)
        field    tokens
        ...
        run folder: runs/...
        >>> outcome.module.embedding.num_parameters <= 0.5 * outcome.module.full_parameters
        True
        >>> sorted(outcome.summary["test"])
        ['auc', 'logloss']
    """
    given: dict[str, Any] = {}
    line = settings_line(settings or {}, _ARGUMENTS)
    add_data(line, given, data)
    add_class(line, "backbone", backbone)
    if isinstance(search, Callback):
        _check_search(search, budget)
        given["search"] = search
    else:
        add_class(line, "search", search)
    if logger is not None:
        add_class(line, "logger", logger)
    check_no_settings_of(line, given)
    for name, options in (("trainer", trainer), ("backbone_args", backbone_args)):
        if options is not None and not isinstance(options, Mapping):
            raise BadInput(f"{name}: a mapping of options is needed, not a {type(options).__name__}")
    named = {f"backbone.{key}": value for key, value in (backbone_args or {}).items()}
    named |= {f"trainer.{key}": value for key, value in (trainer or {}).items()}
    named |= {"baseline": baseline, "run_dir": run_dir, "seed": seed}
    named |= {} if budget is None else {"search.budget": budget}
    line.overrides += [(key, word(key, value)) for key, value in named.items()]
    return _run(line, given)


def _check_search(search: Callback, budget: Any) -> None:
    if not hasattr(search, "num_steps"):
        raise BadInput(f"search: {type(search).__name__} is no search; such as PruningCallback are")
    if budget is not None:
        raise BadInput("budget: the search that is given as an object has one: leave budget out")


def _run(line: CommandLine, given: dict[str, Any]) -> Outcome:
    """Runs a command line, with some objects that are given in the place of those that it describes."""
    with undisturbed(), _seed_kept(given.get("data")):
        runner = Runner("pme", *parse_config(compose(line)), given=given)
        if runner.check() > 1:
            raise BadInput("trainer: several processes are started by the command line, or by torchrun, not from here")
        summary = runner.run()
        checkpoint = runner.folder.checkpoints("finetune") / "best.ckpt"
        sizes = SearchResult.load(runner.folder.sizes)
        runner.data.renumber(sizes.order(), sizes.fingerprint())
        module = load_module(checkpoint)
    return Outcome(summary, module, runner.data, sizes, runner.folder.path, checkpoint, runner.folder.sizes)


@contextmanager
def _seed_kept(data: EncodedDataModule | None) -> Iterator[None]:
    """Gives a data module its seed back: runs shuffle by one of their own."""
    if data is None:
        yield
        return
    seed = data.seed
    try:
        yield
    finally:
        data.seed = seed
