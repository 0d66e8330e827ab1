"""The folder that every run writes: what is in it, and how it is written."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from pme_lightning.errors import BadInput
from pme_lightning.runs.files import check_resumable, sizes_files
from pme_lightning.search import SearchResult
from pme_lightning.written_whole import PARTIAL, written_whole


class RunFolder:
    """The folder of one run.

    It holds ``config.yaml``, ``vocabulary/``, ``sizes.safetensors`` (of several budgets ``sizes/BUDGET.safetensors``),
    ``checkpoints/PHASE/{best,last}.ckpt``, ``logs/``, ``findings.json`` (what the report draws) and, when the run is
    done, ``summary.json`` and ``report.html``. Until then ``progress.json`` tells which phases are done, and
    ``checkpoints/search/resume.ckpt`` how far a search has come.
    Files appear under their name only when they are whole; those that loggers write grow as training goes on.

    Args:
        path: Where to; ``None`` takes a new folder under ``runs/`` in the current folder, named by time and ``label``.
        label: What the run is about, for the name of a new folder.
        writes: Whether this process writes to the folder: one of those that a run spans does, the others look on.

    Raises:
        BadInput: The folder is not empty, or is a file.
    """

    def __init__(self, path: str | Path | None, label: str = "run", writes: bool = True) -> None:
        self.writes = writes
        self._new = path is None
        path = path or Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{label}"
        self.path = Path(path).expanduser().absolute()
        self._made: list[Path] = []
        self._finished: dict[str, Any] = {}
        self.reopened = False
        if writes and not self._new:
            self.check_empty()

    @classmethod
    def reopen(cls, path: str | Path, writes: bool = True) -> RunFolder:
        """Returns the folder of a run that was interrupted, to go on in it.

        Args:
            path: The folder.
            writes: As in the class.

        Raises:
            BadInput: It is no folder of a run, or the run is complete.
        """
        check_resumable(path)
        folder = cls(path, writes=False)
        folder.writes, folder.reopened = writes, True
        progress = folder.path / "progress.json"
        if progress.is_file():
            folder._finished = json.loads(progress.read_text(encoding="utf-8"))
        for unfinished in folder.path.rglob(f".*{PARTIAL}") if writes else ():
            unfinished.unlink(missing_ok=True)
        return folder

    def check_empty(self) -> None:
        """Checks that nothing is in the folder, if there is one.

        Raises:
            BadInput: Something is, or it is a file.
        """
        try:
            taken = self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir()))
        except OSError as error:
            raise BadInput(f"run_dir: '{self.path}' cannot be used: {error.strerror}") from error
        if taken:
            what = "holds files already" if self.path.is_dir() else "is a file"
            raise BadInput(f"run_dir: '{self.path}' {what}; name a new or empty folder, or leave run_dir out")

    def create(self) -> None:
        """Makes the folder; one named by time gets a number if another run of this second has that name.

        Raises:
            BadInput: That is not possible here.
        """
        if self.reopened:
            return
        parents = [folder for folder in self.path.parents if not folder.exists()]
        name, attempt = self.path.name, 1
        existed = self.path.exists() and not self._new
        while True:
            try:
                self.path.mkdir(parents=True, exist_ok=not self._new)
                break
            except FileExistsError:
                attempt += 1
                self.path = self.path.with_name(f"{name}-{attempt}")
            except OSError as error:
                raise BadInput(f"run_dir: cannot make the folder '{self.path}': {error.strerror}") from error
        self._made = parents if existed else [self.path, *parents]

    def discard(self) -> None:
        """Takes away what this run wrote, and the folders made for it if nobody else uses them."""
        if not self.writes or self.reopened:
            return
        for item in self.path.iterdir() if self.path.is_dir() else ():
            if item.is_dir() and not item.is_symlink():
                shutil.rmtree(item, ignore_errors=True)
            else:
                item.unlink(missing_ok=True)
        for folder in self._made:
            try:
                folder.rmdir()
            except OSError:
                break  # somebody else's run is in it

    def checkpoints(self, phase: str) -> Path:
        """Returns the folder of a phase's checkpoints."""
        return self.path / "checkpoints" / phase

    def has_checkpoint(self) -> bool:
        """Whether anything in the folder is worth keeping after an interruption."""
        return any(self.path.glob("checkpoints/*/*.ckpt")) or bool(sizes_files(self.path))

    def finished(self, phase: str) -> dict[str, Any] | None:
        """Returns what is known of a phase that is done; ``None`` if it is not."""
        return self._finished.get(phase)

    def finish(self, phase: str, facts: dict[str, Any]) -> None:
        """Notes that a phase is done, and what a run that goes on needs to know of it."""
        self._finished[phase] = facts
        self.write_text("progress.json", json.dumps(self._finished, indent=2, allow_nan=False) + "\n")

    def complete(self, summary: dict[str, Any], *spent: Path) -> None:
        """Writes the summary, and takes away what only a run that goes on needs.

        Args:
            summary: What ``summary.json`` holds.
            spent: Folders and files that nobody needs now.
        """
        self.write_summary(summary)
        for path in (self.path / "progress.json", *spent) if self.writes else ():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    @property
    def sizes(self) -> Path:
        """The file of the searched sizes."""
        return self.path / "sizes.safetensors"

    def sizes_of(self, budget: str) -> Path:
        """Returns the file of the sizes of one of several budgets, by the budget's name."""
        return self.path / "sizes" / f"{budget}.safetensors"

    @property
    def vocabulary(self) -> Path:
        """The folder of the vocabulary."""
        return self.path / "vocabulary"

    def write_text(self, name: str, text: str) -> Path:
        """Writes a file as a whole or not at all."""
        target = self.path / name
        if not self.writes:
            return target
        with written_whole(target) as partial:
            partial.write_text(text, encoding="utf-8")
        return target

    def save_sizes(self, result: SearchResult, path: Path | None = None) -> None:
        """Writes the sizes of a search; ``path``: those of one of several budgets."""
        if self.writes:
            result.save(path or self.sizes)

    def write_summary(self, summary: dict[str, Any]) -> Path:
        """Writes ``summary.json``."""
        return self.write_text("summary.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")
