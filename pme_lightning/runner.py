"""Runs a command: builds each phase from the configuration, with a Trainer of its own, and gathers the facts."""

from __future__ import annotations

import gc
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import Logger

from pme_lightning import pareto, report
from pme_lightning.arguments import (
    backbone_arguments,
    build,
    init_args,
    listed,
    optimizer_arguments,
    print_config,
    trainer_options,
)
from pme_lightning.averages import too_slow_for, without_averages
from pme_lightning.class_path import class_path, instantiate
from pme_lightning.composition import USES_CHECKPOINT
from pme_lightning.data import EncodedDataModule
from pme_lightning.embedding import MultiSizeEmbedding, Shard
from pme_lightning.errors import BadInput
from pme_lightning.export import ExportedModel
from pme_lightning.export.measured import measured
from pme_lightning.export.saved import write_exported
from pme_lightning.findings import Findings
from pme_lightning.folder_lock import locked
from pme_lightning.lightning_answers import interruptible, interrupts_held_back, quiet_lightning
from pme_lightning.live_figures import live_figures
from pme_lightning.loggers import abandon_loggers, finish_loggers, log_sizes, phase_logger
from pme_lightning.module import CTRModule
from pme_lightning.pages.run_page import write_run_page
from pme_lightning.processes import (
    ONE_PROCESS,
    ProcessLost,
    agree,
    check_processes,
    first_on_each_machine,
    join,
    missing_processes,
    part_at_exit,
    shard_of,
    telling_of_lost_processes,
    wait_for_all,
)
from pme_lightning.progress import phase_progress
from pme_lightning.ranks import is_main
from pme_lightning.resume_point import ResumePoint
from pme_lightning.resuming import (
    check_no_other_folder,
    check_same_config,
    check_same_data,
    data_facts,
    load_module,
    searched_model,
)
from pme_lightning.run_checks import (
    build_trainer,
    check_batches,
    check_labels,
    check_parts,
    check_paths,
    check_same_model,
    check_unseen,
    limited,
)
from pme_lightning.run_folder import RunFolder, check_resumable, find_run_folder, find_sizes, sizes_files
from pme_lightning.search import SearchResult
from pme_lightning.throughput import Throughput
from pme_lightning.training_curve import TrainingCurve
from pme_lightning.whole_files import WholeCheckpoints

# Options of a Trainer of one process.
_ONE: dict[str, Any] = {"devices": 1, "num_nodes": 1, "strategy": "auto"}


@dataclass
class Fitted:
    """A trained model and what its training took.

    Attributes:
        module: The module, with its best weights after :meth:`Runner.test`.
        trainer: The phase's Trainer.
        best: The best checkpoint by validation.
        facts: The ``finetune`` block of ``summary.json``.
    """

    module: CTRModule
    trainer: Trainer
    best: Path
    facts: dict[str, Any]


class Runner:
    """Runs one command of the command line.

    Args:
        command: One of :data:`pme_lightning.composition.COMMANDS`.
        parser: The parser that checked the configuration; it builds what the configuration names.
        config: The whole configuration.
        given: Objects to use in the place of those that ``data`` and ``search`` of the configuration describe.
    """

    def __init__(
        self,
        command: str,
        parser: LightningArgumentParser,
        config: Namespace,
        given: Mapping[str, Any] | None = None,
    ) -> None:
        self.command = command
        self.parser = parser
        self.config = config
        self.given = dict(given or {})
        self.sizes: SearchResult | None = None
        self._numbered_by: SearchResult | None = None
        self._logger: Logger | None = None
        self._checked: Trainer | None = None

    def check(self) -> int:
        """Checks what can be checked before any data is read; returns how many processes are still to be started.

        Raises:
            BadInput: Something in the input is wrong.
        """
        quiet_lightning()
        check_paths(self.command, self.config)
        self._checked = check_parts(self.command, self.config)
        if self.config.resume:
            check_resumable(self.config.resume)
            check_no_other_folder(self.config)
            settled_later = pareto.SETTLED if self.command == "pareto" else ()
            check_same_config(self.config.resume, self._config_text(), settled_later)
        if self.config.sizes:
            self.sizes = SearchResult.load(self.config.sizes)
        if self.command == "finetune" and self.warm and not self.config.ckpt_path:
            self._searched_model()
        return 1 if self.command in ONE_PROCESS else missing_processes(self._checked)

    def run(self) -> dict[str, Any]:
        """Runs the command; prints and returns what ``summary.json`` holds.

        In a run of several processes each of them calls this, and the main one alone writes to the folder.

        Raises:
            BadInput: Something in the input is wrong; the run folder is taken away again.
            KeyboardInterrupt: The run was interrupted; the folder stays if it holds a checkpoint.
            ProcessLost: Another process of the run died.
        """
        if self._checked is None:
            self.check()
        assert self._checked is not None
        if self.command not in ONE_PROCESS:
            join(self._checked)
        with telling_of_lost_processes():
            summary = self._run()
        part_at_exit()
        return summary

    def _run(self) -> dict[str, Any]:
        if is_main() and not self.config.resume:
            self.folder = RunFolder(self.config.run_dir, self._label())
        with first_on_each_machine():
            self.data = self._data()
        if self.command == "pareto":
            pareto.settle_budgets(self.config, self.module())
        with self._opened_folder():
            return self._run_in_folder()

    def _run_in_folder(self) -> dict[str, Any]:
        try:
            if not self.folder.reopened:
                self.folder.write_text("config.yaml", self._config_text())
            if is_main():
                self.data.save_vocabulary(self.folder.vocabulary)
            summary = getattr(self, f"_{self.command}")()
            spent = self.folder.checkpoints("search")
            self.folder.complete(summary, spent if self.command == "pme" else spent / "resume.ckpt")
            if self.folder.writes:
                write_run_page(self.folder.path)
            finish_loggers(self._logger, summary, self.folder)
        except BaseException as error:
            abandon_loggers(self._logger)
            if not self.folder.has_checkpoint():
                self.folder.discard()
                raise
            folder = report.shown(self.folder.path)
            kept = f"what was done so far is in {folder}"
            # What is wrong with the input will be so the next time, too.
            goes_on = self.command not in USES_CHECKPOINT and not isinstance(error, BadInput)
            if goes_on and not (self.folder.path / "summary.json").is_file():
                kept += f"; the same command with resume={folder} goes on"
            if isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt(kept) from None
            if isinstance(error, BadInput):
                raise BadInput(f"{error} ({kept})") from error
            if isinstance(error, ProcessLost):
                raise ProcessLost(f"{error}; {kept}") from error
            raise
        (pareto.print_curve if self.command == "pareto" else report.print_summary)(summary, self.folder.path)
        return summary

    @contextmanager
    def _opened_folder(self) -> Iterator[None]:
        """Makes the folder of the run, the same for all of its processes, or opens the one to go on in.

        Raises:
            BadInput: The run there is another one, or another one is at work there.
        """
        with ExitStack() as held:
            if self.config.resume:
                if is_main():
                    held.enter_context(locked(check_resumable(self.config.resume)))
                self.folder = RunFolder.reopen(self.config.resume, writes=is_main())
                check_same_config(self.config.resume, self._config_text())
                check_same_data(self.config.resume, self.folder, self.data)
                wait_for_all()
            else:
                if is_main():
                    self.folder.create()
                    held.enter_context(locked(self.folder.path))
                    self.folder.check_empty()
                path = agree(str(self.folder.path) if is_main() else None)
                if not is_main():
                    self.folder = RunFolder(path, writes=False)
            self.folder.finish("data", data_facts(self.data))
            self.findings = Findings(self.folder, self.data)
            yield

    # The commands.

    def _pme(self) -> dict[str, Any]:
        searched, result, module = self.searched()
        multi_size = self.trained("finetune", module, self.transfer(result))
        return self.summary(searched, multi_size, self.baseline())

    def _pareto(self) -> dict[str, Any]:
        return pareto.run_pareto(self)

    def _search(self) -> dict[str, Any]:
        searched, result, module = self.searched()
        values, shared, value_bytes = result.parameters, result.projection_parameters, module.embedding.dtype.itemsize
        found = report.embedding_facts(
            module.full_parameters,
            values + shared,
            values * value_bytes + shared * report.BYTES_PER_PARAMETER,
            bits=8 * value_bytes,
        )
        return self.summary(searched, {"embedding": found})

    def _finetune(self) -> dict[str, Any]:
        assert self.sizes is not None
        transfer = self.transfer(self.sizes)
        module = self._to_finetune()
        self.keep_sizes(self.sizes)
        return self.summary(None, self.trained("finetune", module, transfer))

    def _to_finetune(self) -> CTRModule:
        """Returns the model to start from: that of the checkpoint, the one that was searched, or a fresh one."""
        if self.config.ckpt_path or not self.warm:
            return self._load() if self.config.ckpt_path else self.module()
        self.config.ckpt_path = self._searched_model()
        try:
            return self._load()
        except BadInput as error:
            raise BadInput(
                f"{error} (it is the model that was searched, from which fine-tunes start: transfer.init=scratch "
                "starts from nothing)"
            ) from error

    def _fit(self) -> dict[str, Any]:
        return self.summary(None, self.trained("full", self.module()))

    def _validate(self) -> dict[str, Any]:
        module = self._load()
        trainer = self._trainer("validate", [])
        with interruptible(trainer):
            found = trainer.validate(module, datamodule=self.data, verbose=False)[0]
        return self.summary(None, report.block(module, None, found, split="valid"))

    def _test(self) -> dict[str, Any]:
        module = self._load()
        trainer = self._trainer("test", [])
        with interruptible(trainer):
            found = trainer.test(module, datamodule=self.data, verbose=False)[0]
        return self.summary(None, report.block(module, None, found))

    def _predict(self) -> dict[str, Any]:
        module = self._load()
        trainer = self._trainer("predict", [], **_ONE)
        with interruptible(trainer):
            batches = trainer.predict(module, datamodule=self.data)
        assert batches is not None
        report.write_predictions(torch.cat(batches), self.folder.path / "predictions.parquet")  # type: ignore[arg-type]
        return self.summary(None, report.block(module, None, None))

    def _export(self) -> dict[str, Any]:
        module = self._load()
        write_exported(module, self.data, self.folder.path, self._numbered_by, self.config.bits)
        exported = ExportedModel.load(self.folder.path)
        # Both by the rows that choices are made by: how many bits to take is one.
        trainer = self._trainer("validate", [], **_ONE)
        with interruptible(trainer):
            found = trainer.validate(module, datamodule=self.data, verbose=False)[0]
        self.data.renumber(torch.tensor(exported.ids).argsort())
        now = measured(exported.program, self.data.val_dataloader())
        block = report.block(module, None, found, split="valid")
        return self.summary(None, block | {"exported": report.exported_block(block["embedding"], exported.facts, now)})

    # The phases.

    def searched(self, save: Callable[[Any], None] | None = None) -> tuple[dict[str, Any], SearchResult, CTRModule]:
        """Searches, and returns what it took, the sizes, and the module to go on with.

        Args:
            save: Gets the callback of the search, to save the sizes it found; ``None`` saves those of its own budget.
        """
        done = self.folder.finished("search")
        if done is not None:
            report.say("search: was done before")
            keeps_model = self.warm or self.command != "pme"
            module = searched_model(self.folder, self.shard) if keeps_model else self.module()
            return done, SearchResult.load(sizes_files(self.folder.path)[0]), module
        module = self.module()
        callback = self.given.get("search") or build(self.config.search)
        report.say(f"search: {type(callback).__name__}, {callback.num_steps(self._steps_per_epoch())} steps")
        point = self._resume_point(self.folder.checkpoints("search") / "resume.ckpt", at_end=False)
        curve = TrainingCurve()
        # The search ends the fit when it is done. It looks at training rows alone: the validation split stays for
        # choosing among models.
        lasting: dict[str, Any] = {"max_epochs": -1, "max_steps": -1, "min_epochs": None, "min_steps": None}
        trainer = self._trainer("search", [point, callback, curve], limit_val_batches=0, **lasting)
        self._fit_on(trainer, module, point)
        result: SearchResult | None = callback.result
        if result is None:
            raise BadInput("the search ended before it had pruned: do trainer.max_time or a callback stop it early?")
        if save is None:
            self.keep_sizes(result)
        else:
            save(callback)
        self.findings.add_search(callback)
        self.findings.add_curve("search", curve)
        wait_for_all()
        if self.warm or self.command != "pme":
            trainer.save_checkpoint(self.folder.checkpoints("search") / "last.ckpt", weights_only=True)
        facts = {
            "seconds": point.seconds,
            "epochs": trainer.global_step / self._steps_per_epoch(trainer.num_training_batches),
            "criterion": result.criterion,
            "axes": result.axes,
            "budget": result.budget,
            "kept": result.parameters,
        }
        self.folder.finish("search", facts)
        log_sizes(self._logger, callback, self.data)
        return facts, result, module if self.warm or self.command != "pme" else self.module()

    def _steps_per_epoch(self, batches: float | None = None) -> int:
        """Returns the optimizer steps of an epoch of so many batches; of those that the limits leave if None."""
        if batches is None:
            batches = limited("train", len(self.data.train_dataloader()), self.config.trainer)
        return max(1, math.ceil(batches / self.config.trainer.accumulate_grad_batches))

    def fit(self, phase: str, module: CTRModule, *callbacks: Callback) -> Fitted:
        """Trains a module until validation says enough, and keeps its best checkpoint.

        Args:
            phase: Name of the phase, for the folder of its checkpoints and its curves.
            module: The module.
            callbacks: What else takes part, such as the transfer.
        """
        seed_everything(self.config.seed, workers=True, verbose=False)
        # A fine-tune goes on where the search ended: not with the same rows in the same order once more.
        self.data.seed = self.config.seed + (phase != "full")
        checkpoint = ModelCheckpoint(
            self.folder.checkpoints(phase), "best", enable_version_counter=False, **self.config.checkpoint.as_dict()
        )
        throughput, curve = Throughput(), TrainingCurve()
        # Where nothing was measured there is no checkpoint either: what to do about it is said below.
        stopping = EarlyStopping(**self.config.early_stopping.as_dict() | {"strict": False})
        point = self._resume_point(self.folder.checkpoints(phase) / "last.ckpt")
        own = [point, *callbacks, stopping, checkpoint, throughput, curve]
        trainer = self._trainer(phase, own, first=1 + len(callbacks))
        most = trainer.max_epochs or -1
        until = "until validation says enough" if most < 0 else f"at most {most} epoch{'' if most == 1 else 's'}"
        report.say(f"{'fine-tune' if callbacks else 'full-size model'}: {until}")
        if self.config.averaging is not None and most > 0:
            told = too_slow_for(self.config.averaging, most * self._steps_per_epoch())
            if told is not None:
                report.say(f"  {told}")
        self._fit_on(trainer, module, point)
        self.findings.add_curve(phase, curve)
        if not checkpoint.best_model_path:
            raise BadInput(
                f"no checkpoint was kept: {checkpoint.monitor} was not measured before the end; "
                "let the training last longer (trainer.max_steps, trainer.max_time) or validate more often "
                "(trainer.val_check_interval)"
            )
        best = torch.load(checkpoint.best_model_path, map_location="cpu", weights_only=True, mmap=True)
        facts = {
            "seconds": point.seconds,
            "epochs": trainer.current_epoch,
            "best_epoch": best["epoch"] + 1,
            "rows_per_second": throughput.rows_per_second,
        }
        return Fitted(module, trainer, Path(checkpoint.best_model_path), facts)

    def _resume_point(self, path: Path, at_end: bool = True) -> ResumePoint:
        steps, minutes = self.config.checkpoint_every_n_steps, self.config.checkpoint_every_n_minutes
        return ResumePoint(path, steps, minutes, at_end, resumes=self.folder.reopened and path.is_file())

    def _fit_on(self, trainer: Trainer, module: CTRModule, point: ResumePoint) -> None:
        """Fits from where the run was interrupted, if it was, or from the beginning."""
        if point.resumes:
            report.say(f"goes on from {report.shown(point.path)}")
        checkpoint = str(point.path) if point.resumes else None
        # A Trainer is in a cycle with much that it has: what the phase before left would go at some time only.
        module.trainer = self.data.trainer = None
        with interrupts_held_back():
            gc.collect()
        # As it connects processes Lightning would rewind the random numbers, and they would draw others than one alone.
        os.environ.pop("PL_GLOBAL_SEED", None)
        with interruptible(trainer):
            trainer.fit(module, datamodule=self.data, ckpt_path=checkpoint, weights_only=True)

    def test(self, fitted: Fitted) -> dict[str, float]:
        """Measures the best checkpoint on the test split, once."""
        trainer = fitted.trainer
        trainer.callbacks = without_averages(trainer.callbacks)  # type: ignore[attr-defined]
        with interruptible(trainer), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*callbacks used to create the checkpoint need to be provided.*")
            found = trainer.test(
                fitted.module, datamodule=self.data, ckpt_path=str(fitted.best), verbose=False, weights_only=True
            )
        return dict(found[0])

    def trained(self, phase: str, module: CTRModule, *callbacks: Callback) -> dict[str, Any]:
        """Trains and tests a module, as :meth:`fit` says; returns its blocks of ``summary.json``."""
        done = self.folder.finished(phase)
        if done is not None:
            report.say(f"{phase}: was done before")
            return done
        fitted = self.fit(phase, module, *callbacks)
        block = report.block(fitted.module, fitted.facts, self.test(fitted))
        self.folder.finish(phase, block)
        return block

    def baseline(self) -> dict[str, Any] | None:
        """Trains and tests the full-size model; returns its blocks, or ``None`` if it is not asked for."""
        if not self.config.baseline:
            return None
        self.data.renumber(None)
        return self.trained("full", self.module())

    def summary(
        self, search: dict[str, Any] | None, model: dict[str, Any], baseline: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Returns the whole of ``summary.json``."""
        return report.summary(self.command, self.config.seed, self.data, search, model, baseline)

    # The parts.

    def keep_sizes(self, result: SearchResult, budget: str | None = None) -> None:
        """Writes sizes to the run folder, and notes what they say; ``budget``: the name of one of several."""
        self.folder.save_sizes(result, None if budget is None else self.folder.sizes_of(budget))
        self.findings.add_sizes(result, budget)

    def module(self) -> CTRModule:
        """Builds a fresh full-size module; the same one each time, as all is drawn from the seed."""
        seed_everything(self.config.seed, workers=True, verbose=False)
        return CTRModule(
            self.data.field_tokens,
            backbone=self.config.backbone.class_path,
            backbone_args=backbone_arguments(self.config),
            **optimizer_arguments(self.config),
            **self.config.model.as_dict(),
            shard=self.shard,
        )

    def _load(self) -> CTRModule:
        """Loads the checkpoint that was named, and numbers the tokens as it does."""
        path = self.config.ckpt_path
        try:
            module = load_module(path, self.shard)
        except BadInput:
            raise
        except Exception as error:
            raise BadInput(
                f"ckpt_path: '{path}' cannot be read as a checkpoint of ours: it is damaged, or something else "
                f"({type(error).__name__})"
            ) from error
        check_same_model(path, module, self.config)
        # How to train on is the command's to say.
        module.set_optimizers(**optimizer_arguments(self.config))
        if module.field_tokens != self.data.field_tokens:
            raise BadInput(
                f"ckpt_path: '{path}' was trained on {len(module.field_tokens)} fields and "
                f"{sum(module.field_tokens)} tokens; the data has {len(self.data.field_tokens)} and "
                f"{self.data.num_tokens}: is it the data of that run?"
            )
        check_unseen(self.command, self.data)
        if isinstance(module.embedding, MultiSizeEmbedding) and module.embedding.index is None:
            sizes = find_sizes(path, module.hparams["sizes_fingerprint"], self.config.sizes)
            self.data.renumber(sizes.order(), sizes.fingerprint())
            self._numbered_by = sizes
        return module

    def _data(self) -> EncodedDataModule:
        data = self.given.get("data") or build(self.config.data)
        data.seed = self.config.seed
        file = self.config.ckpt_path or self.config.sizes
        folder = find_run_folder(file) if file else None
        if folder is not None:
            data.use_vocabulary(folder / "vocabulary")
        data.prepare_data()
        # Commands that use a checkpoint need their own rows only: those it was trained on may be gone.
        needed = USES_CHECKPOINT.get(self.command)
        for stage in ("fit", "test") if needed is None else (needed,):
            data.setup(stage)
        # A run before this one may have left the data module of a program numbered by its sizes.
        data.renumber(None)
        report.print_data(data)
        if self.command not in ("test", "predict"):
            check_labels(data)
        if needed is None and self.command != "search":
            check_batches(data, self.config.trainer)
        return data

    @property
    def shard(self) -> Shard | None:
        """The rows of tables that this process holds; where there is one alone, it holds them all."""
        assert self._checked is not None
        return None if self.command in ONE_PROCESS else shard_of(self._checked)

    def transfer(self, result: SearchResult) -> Callback:
        """Builds what gives a module these sizes."""
        return instantiate(self.config.transfer.class_path, sizes=result, **init_args(self.config.transfer))

    @property
    def warm(self) -> bool:
        """Whether fine-tunes start from the searched rows."""
        return init_args(self.config.transfer).get("init") == "warm"

    def _searched_model(self) -> str:
        """Returns the checkpoint of the model that the sizes were searched with."""
        folder = find_run_folder(self.config.sizes)
        path = folder and folder / "checkpoints" / "search" / "last.ckpt"
        if path is None or not path.is_file():
            raise BadInput(
                "transfer.init=warm needs the model that was searched: ckpt_path=PATH of its checkpoint "
                "(the search command keeps one in checkpoints/search/last.ckpt)"
            )
        return str(path)

    def _trainer(self, phase: str, callbacks: Sequence[Callback], first: int = 1, **arguments: Any) -> Trainer:
        """Builds the phase's own Trainer: a second fit on a spent one would do nothing.

        Args:
            phase: Name of the phase.
            callbacks: Those of ours.
            first: How many of them go before the user's. A resume point looks at a batch before anything is done with
                it, and a transfer rebuilds the model before anybody makes a copy of it.
            arguments: Of the Trainer, in place of what the configuration says.
        """
        options = check_processes(self.command, trainer_options(self.config)) | arguments
        resolved = yaml.safe_load(self._config_text())
        logged = next((each.logged_steps() for each in callbacks if isinstance(each, ResumePoint)), None)
        self._logger = phase_logger(self.config.logger, self.folder, phase, resolved, logged)
        given = listed(options.get("callbacks"))
        if phase == "search":
            # It ends when it is done, and has no validation that it could be stopped by.
            given = [each for each in without_averages(given) if not isinstance(each, EarlyStopping)]
        options["callbacks"] = [*callbacks[:first], *given, *callbacks[first:]]
        if self._logger is not None:
            options["callbacks"] += live_figures(callbacks)
        # Lightning would add a checkpoint callback of its own.
        options["enable_checkpointing"] = any(isinstance(each, ModelCheckpoint) for each in options["callbacks"])
        options["plugins"] = [*listed(options.get("plugins")), WholeCheckpoints()]
        options["logger"] = self._logger or False
        options["default_root_dir"] = str(self.folder.path)
        options["enable_model_summary"] = bool(options.get("enable_model_summary"))
        options["num_sanity_val_steps"] = options.get("num_sanity_val_steps") or 0
        bars = any(isinstance(each, ProgressBar) for each in options["callbacks"])
        if options.get("enable_progress_bar") is not False and not bars:
            options["callbacks"].append(phase_progress(phase))
        # Lightning would add a bar of its own.
        options["enable_progress_bar"] = bars
        return build_trainer(options)

    def _config_text(self) -> str:
        """Returns what ``config.yaml`` holds; of objects that were given, their class and that they were."""
        text = print_config(self.parser, self.config, self.command)
        if not self.given:
            return text
        told = {key: f"{class_path(type(value))} (an object of a program)" for key, value in self.given.items()}
        return yaml.safe_dump(yaml.safe_load(text) | told, sort_keys=False, width=100)

    def _label(self) -> str:
        return f"{self.command}-{self.config.backbone.class_path.rpartition('.')[2].lower()}"
