"""Runs a command: checks what it is given, opens its data and its run folder, and has its phases done in turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from pme_lightning import report
from pme_lightning.class_path import class_path
from pme_lightning.configuration.commands import USES_CHECKPOINT
from pme_lightning.configuration.config_text import config_text
from pme_lightning.configuration.objects import build
from pme_lightning.data import EncodedDataModule
from pme_lightning.embedding import Shard
from pme_lightning.errors import BadInput, cannot_write
from pme_lightning.export import ExportedModel
from pme_lightning.export.measured import measured
from pme_lightning.export.saved import write_exported
from pme_lightning.lightning_answers import interruptible, quiet_lightning
from pme_lightning.module import CTRModule
from pme_lightning.pages.run_page import write_run_page
from pme_lightning.processes.connection import ONE_PROCESS, join, missing_processes, part_at_exit, shard_of
from pme_lightning.processes.lost import ProcessLost, lost_process, telling_of_lost_processes
from pme_lightning.processes.ranks import is_main
from pme_lightning.processes.synchronization import (
    agree,
    first_on_each_machine,
    main_first,
    place_among_processes,
    wait_for_all,
)
from pme_lightning.runs import pareto
from pme_lightning.runs.batch_limits import check_batches
from pme_lightning.runs.checks import (
    check_labels,
    check_parts,
    check_paths,
)
from pme_lightning.runs.files import check_resumable, find_run_folder
from pme_lightning.runs.folder import RunFolder
from pme_lightning.runs.folder_lock import locked
from pme_lightning.runs.loggers import abandon_loggers, finish_loggers
from pme_lightning.runs.named_checkpoint import load_checkpoint, searched_checkpoint
from pme_lightning.runs.phases import Phases, full_size_module, starts_warm
from pme_lightning.runs.resuming import (
    check_no_other_folder,
    check_same_config,
    check_same_data,
    check_same_processes,
    data_facts,
)
from pme_lightning.search import SearchResult

# Options of a Trainer of one process.
_ONE: dict[str, Any] = {"devices": 1, "num_nodes": 1, "strategy": "auto"}


class Runner:
    """Runs one command of the command line.

    Args:
        command: One of :data:`pme_lightning.configuration.commands.COMMANDS`.
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
        if self.command == "finetune" and starts_warm(self.config) and not self.config.ckpt_path:
            searched_checkpoint(self.config.sizes)
        return 1 if self.command in ONE_PROCESS else missing_processes(self._checked)

    def run(self) -> dict[str, Any]:
        """Runs the command; prints and returns what ``summary.json`` holds.

        In a run of several processes each of them calls this, and the main one alone writes to the folder.

        Raises:
            BadInput: Something in the input is wrong.
            KeyboardInterrupt: The run was interrupted.
            ProcessLost: Another process of the run died. Whatever ended it, the folder stays if it holds a checkpoint,
                and is taken away again if it holds none.
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
            pareto.settle_budgets(self.config, full_size_module(self.config, self.data, self.shard))
        with self._opened_folder():
            return self._run_in_folder()

    def _run_in_folder(self) -> dict[str, Any]:
        try:
            if is_main():
                self.data.save_vocabulary(self.folder.vocabulary)
            summary = getattr(self, f"_{self.command}")()
            spent = self.folder.checkpoints("search")
            self.folder.complete(summary, spent if self.command == "pme" else spent / "resume.ckpt")
            if self.folder.writes:
                write_run_page(self.folder.path)
            finish_loggers(self.phases.logger, summary, self.folder)
        except BaseException as error:
            abandon_loggers(self.phases.logger)
            if not self.folder.has_checkpoint():
                self.folder.discard()
                raise
            told = self._with_what_is_kept(error)
            if told is None:
                raise
            raise told from (None if isinstance(told, KeyboardInterrupt) else error)
        show = pareto.print_curve if self.command == "pareto" else report.print_summary
        show(summary, self.folder.path)
        return summary

    def _with_what_is_kept(self, error: BaseException) -> BaseException | None:
        """Returns an error that tells, too, where what was done is kept; ``None``: it is to be raised as it is."""
        folder = report.shown(self.folder.path)
        kept = f"what was done so far is in {folder}"
        # What is wrong with the input will be so the next time, too.
        goes_on = self.command not in USES_CHECKPOINT and not isinstance(error, BadInput)
        if goes_on and not (self.folder.path / "summary.json").is_file():
            kept += f"; the same command with resume={folder} goes on"
        if isinstance(error, KeyboardInterrupt):
            return KeyboardInterrupt(kept)
        if isinstance(error, BadInput):
            return BadInput(f"{error} ({kept})")
        lost = lost_process(error)
        if lost is not None:
            return ProcessLost(f"{lost}; {kept}")
        told = cannot_write(error)
        return None if told is None else BadInput(f"{told} ({kept})")

    @contextmanager
    def _opened_folder(self) -> Iterator[None]:
        """Makes the folder of the run, the same for all of its processes, or opens the one to go on in.

        Raises:
            BadInput: The run there is another one, or another one is at work there.
        """
        _, processes = place_among_processes()
        with ExitStack() as held:
            if self.config.resume:
                self._reopen_folder(held, processes)
            else:
                self._create_folder(held)
            self.folder.finish("data", data_facts(self.data))
            self.folder.finish("processes", {"count": processes})
            self.phases = Phases(
                self.command,
                self.config,
                self._config_text,
                self.folder,
                self.data,
                self.shard,
                search=self.given.get("search"),
            )
            yield

    def _reopen_folder(self, held: ExitStack, processes: int) -> None:
        """Opens the folder of the run to go on with, if it is this run."""
        resume = self.config.resume
        with main_first():
            if is_main():
                held.enter_context(locked(check_resumable(resume)))
            self.folder = RunFolder.reopen(resume, writes=is_main())
            check_same_config(resume, self._config_text())
            check_same_data(resume, self.folder, self.data)
            check_same_processes(resume, self.folder, processes)
        wait_for_all()

    def _create_folder(self, held: ExitStack) -> None:
        """Makes a new folder, and tells the other processes of the run where it is."""
        with main_first():
            if is_main():
                self.folder.create()
                held.enter_context(locked(self.folder.path))
                self.folder.check_empty()
        path = agree(str(self.folder.path) if is_main() else None)
        if not is_main():
            self.folder = RunFolder(path, writes=False)
        # First of all files: with it a run that is killed can be gone on with.
        self.folder.write_text("config.yaml", self._config_text())

    # The commands.

    def _pme(self) -> dict[str, Any]:
        searched, result, module = self.phases.searched()
        multi_size = self.phases.trained("finetune", module, self.phases.transfer(result))
        return self.phases.summary(searched, multi_size, self.phases.baseline())

    def _pareto(self) -> dict[str, Any]:
        return pareto.run_pareto(self.phases)

    def _search(self) -> dict[str, Any]:
        searched, result, module = self.phases.searched()
        values, shared, value_bytes = result.parameters, result.projection_parameters, module.embedding.dtype.itemsize
        found = report.embedding_facts(
            module.full_parameters,
            values + shared,
            values * value_bytes + shared * report.BYTES_PER_PARAMETER,
            bits=8 * value_bytes,
        )
        return self.phases.summary(searched, {"embedding": found})

    def _finetune(self) -> dict[str, Any]:
        assert self.sizes is not None
        transfer = self.phases.transfer(self.sizes)
        module = self._to_finetune()
        self.phases.keep_sizes(self.sizes)
        return self.phases.summary(None, self.phases.trained("finetune", module, transfer))

    def _to_finetune(self) -> CTRModule:
        """Returns the model to start from: that of the checkpoint, the one that was searched, or a fresh one."""
        if self.config.ckpt_path:
            return self._load()
        if not starts_warm(self.config):
            return self.phases.module()
        self.config.ckpt_path = searched_checkpoint(self.config.sizes)
        try:
            return self._load()
        except BadInput as error:
            raise BadInput(
                f"{error} (it is the model that was searched, from which fine-tunes start: transfer.init=scratch "
                "starts from nothing)"
            ) from error

    def _fit(self) -> dict[str, Any]:
        return self.phases.summary(None, self.phases.trained("full", self.phases.module()))

    def _validate(self) -> dict[str, Any]:
        return self.phases.summary(None, self._validated(self._load()))

    def _test(self) -> dict[str, Any]:
        module = self._load()
        trainer = self.phases.trainer("test", [])
        with interruptible(trainer):
            found = trainer.test(module, datamodule=self.data, verbose=False)[0]
        return self.phases.summary(None, report.block(module, None, found))

    def _predict(self) -> dict[str, Any]:
        module = self._load()
        trainer = self.phases.trainer("predict", [], **_ONE)
        with interruptible(trainer):
            batches = trainer.predict(module, datamodule=self.data)
        assert batches is not None
        report.write_predictions(torch.cat(batches), self.folder.path / "predictions.parquet")  # type: ignore[arg-type]
        return self.phases.summary(None, report.block(module, None, None))

    def _export(self) -> dict[str, Any]:
        module, sizes = load_checkpoint(self.command, self.config, self.data, self.shard)
        write_exported(module, self.data, self.folder.path, sizes, self.config.bits)
        exported = ExportedModel.load(self.folder.path)
        # Both by the rows that choices are made by: how many bits to take is one.
        block = self._validated(module, **_ONE)
        self.data.renumber(torch.tensor(exported.ids).argsort())
        now = measured(exported.program, self.data.val_dataloader())
        block["exported"] = report.exported_block(block["embedding"], exported.facts, now)
        return self.phases.summary(None, block)

    # The parts.

    def _load(self) -> CTRModule:
        """Loads the checkpoint that was named, and numbers the tokens as it does."""
        return load_checkpoint(self.command, self.config, self.data, self.shard)[0]

    def _validated(self, module: CTRModule, **options: Any) -> dict[str, Any]:
        """Measures a model on the validation split; returns its blocks of ``summary.json``."""
        trainer = self.phases.trainer("validate", [], **options)
        with interruptible(trainer):
            found = trainer.validate(module, datamodule=self.data, verbose=False)[0]
        return report.block(module, None, found, split="valid")

    def _data(self) -> EncodedDataModule:
        """Reads the splits that the command needs, and checks them."""
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

    def _config_text(self) -> str:
        """Returns what ``config.yaml`` holds; of objects that were given, their class and that they were."""
        text = config_text(self.parser, self.config, self.command)
        if not self.given:
            return text
        told = {key: f"{class_path(type(value))} (an object of a program)" for key, value in self.given.items()}
        return yaml.safe_dump(yaml.safe_load(text) | told, sort_keys=False, width=100)

    def _label(self) -> str:
        return f"{self.command}-{self.config.backbone.class_path.rpartition('.')[2].lower()}"
