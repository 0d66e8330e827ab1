"""Offline runs of the real command line, read back from the file that `wandb sync` uploads."""

from __future__ import annotations

import json
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from wandb.proto import wandb_internal_pb2

from pme_lightning.cli import main

SMALL = ["data.rows=6000", "data.tokens=600", "data.num_fields=4", "data.batch_size=256", "model.embedding_dim=8"]
SMALL += ["backbone.hidden_units=[8]", "trainer.max_epochs=2", "trainer.log_every_n_steps=5"]


@dataclass
class OfflineRun:
    """What a run holds.

    Attributes:
        name: Its name.
        project: Its project.
        group: Its group.
        job_type: Its type of job.
        notes: Its notes.
        id: Its id.
        tags: Its tags.
        config: Its configuration.
        history: One mapping a call of ``log``, in order.
        summary: Its summary.
        axes: The x-axis of every metric, or pattern of metrics, that has one.
        artifacts: What is uploaded, by name: aliases, metadata and the files' names.
        exit_code: How it ended; ``None``: it did not.
        files: Where the media files are.
    """

    name: str = ""
    project: str = ""
    group: str = ""
    job_type: str = ""
    notes: str = ""
    id: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, str] = field(default_factory=dict)
    artifacts: dict[str, dict[str, Any]] = field(default_factory=dict)
    exit_code: int | None = None
    files: Path = Path()

    @property
    def keys(self) -> set[str]:
        """All keys that were logged."""
        return {key for row in self.history for key in row}

    def series(self, key: str) -> list[Any]:
        """What was logged under a key, in order."""
        return [row[key] for row in self.history if key in row]

    def curve(self, key: str) -> list[tuple[Any, Any]]:
        """Pairs of x and y, as a dashboard draws the key."""
        pattern = next(p for p in sorted(self.axes, key=len, reverse=True) if matches(p, key))
        axis = self.axes[pattern]
        return [(row[axis], row[key]) for row in self.history if key in row]

    def table(self, key: str) -> list[dict[str, Any]]:
        """The rows of a table, or of the data of a chart."""
        logged = self.series(key)[-1]
        content = json.loads((self.files / logged["path"]).read_text())
        return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]

    def chart(self, key: str) -> dict[str, Any]:
        """What a chart is drawn with: its kind, its fields, its words."""
        return self.config["_wandb"]["visualize"][key]["panel_config"]


def matches(pattern: str, key: str) -> bool:
    """Whether a pattern of ``define_metric`` means a key."""
    return key.startswith(pattern[:-1]) if pattern.endswith("*") else key == pattern


def read_run(folder: Path) -> OfflineRun:
    """Reads the one offline run in a run folder."""
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    return read_file(file)


def read_file(file: Path, patience: float = 30.0) -> OfflineRun:
    """Reads the file of an offline run, once its end is in it: a process of its own writes it, and a little later."""
    until = time.monotonic() + patience
    while (run := _read_now(file)).exit_code is None and time.monotonic() < until:
        time.sleep(0.1)
    return run


def _read_now(file: Path) -> OfflineRun:
    run = OfflineRun(files=file.parent / "files")
    for data in _records(file):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            told = record.run
            run.name, run.project, run.group, run.id = told.display_name, told.project, told.run_group, told.run_id
            run.job_type, run.notes, run.tags = told.job_type, told.notes, list(told.tags)
            _update(run.config, told.config.update)
        elif kind == "config":
            _update(run.config, record.config.update)
        elif kind == "history":
            run.history.append({})
            _update(run.history[-1], record.history.item)
        elif kind == "summary":
            _update(run.summary, record.summary.update)
        elif kind == "metric" and record.metric.step_metric:
            run.axes[record.metric.name or record.metric.glob_name] = record.metric.step_metric
        elif kind == "artifact":
            artifact = record.artifact
            run.artifacts[artifact.name] = {
                "type": artifact.type,
                "aliases": list(artifact.aliases),
                "metadata": json.loads(artifact.metadata or "{}"),
                "description": artifact.description,
                "files": {entry.path: entry.local_path for entry in artifact.manifest.contents},
            }
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def _key(item: Any) -> list[str]:
    return [item.key] if item.key else list(item.nested_key)


def _update(target: dict[str, Any], items: Any) -> None:
    for item in items:
        *above, last = _key(item)
        node = target
        for key in above:
            node = node.setdefault(key, {})
        node[last] = json.loads(item.value_json)


def _records(file: Path) -> Iterator[bytes]:
    """The records of the file so far: LevelDB's log format, 32 KiB blocks of checksummed fragments.

    Its writer may be at work: what ends in the middle of a fragment has the records before it.
    """
    content, position, record = file.read_bytes(), 7, b""
    assert content.startswith(b":W&B")
    while position + 7 <= len(content):
        room = 32768 - position % 32768
        if room < 7:
            position += room
            continue
        checksum, length, kind = struct.unpack("<IHB", content[position : position + 7])
        fragment = content[position + 7 : position + 7 + length]
        if kind == 0 or zlib.crc32(fragment, zlib.crc32(bytes([kind]))) != checksum:  # not written, or not to its end
            break
        record += fragment
        position += 7 + length
        if kind in (1, 4):  # whole, or the last fragment
            yield record
            record = b""


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps what Weights & Biases stages, and any key, out of the tests."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    _keyless(monkeypatch, tmp_path_factory.getbasetemp())


def _keyless(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setenv("NETRC", str(folder / "no-netrc"))
    patch.setenv("WANDB_DATA_DIR", str(folder / "wandb-data"))
    patch.setenv("WANDB_CACHE_DIR", str(folder / "wandb-cache"))
    patch.setenv("WANDB_CONFIG_DIR", str(folder / "wandb-config"))
    patch.setenv("WANDB_SILENT", "true")


@pytest.fixture
def small() -> list[str]:
    """Words that make a run small."""
    return SMALL


@pytest.fixture
def read() -> Callable[[Path], OfflineRun]:
    """Reads the one offline run in a run folder."""
    return read_run


@pytest.fixture
def read_part() -> Callable[[Path], OfflineRun]:
    """Reads the file of an offline run as it is now, without waiting for its end."""
    return _read_now


@pytest.fixture
def read_all() -> Callable[[Path], list[OfflineRun]]:
    """Reads all offline runs in a run folder, the earliest first."""
    return lambda folder: [read_file(file) for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))]


def _run_once(factory: pytest.TempPathFactory, name: str, *words: str) -> Path:
    folder = factory.mktemp(name) / "run"
    with pytest.MonkeyPatch.context() as patch:
        _keyless(patch, factory.getbasetemp())
        patch.setenv("PME_CACHE_DIR", str(factory.getbasetemp() / "cache"))
        main([*words, "logger=wandb", f"run_dir={folder}", *SMALL])
    return folder


@pytest.fixture(scope="session")
def pme_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a `pme` run without a key, for tests that only look at it."""
    named = ["logger.name=first", "logger.group=trials", "logger.tags=[small,cpu]", "logger.notes=of the tests"]
    return _run_once(tmp_path_factory, "pme-wandb", "search.budget=0.3", *named)


@pytest.fixture(scope="session")
def pareto_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a `pareto` run, for tests that only look at it."""
    return _run_once(tmp_path_factory, "pareto-wandb", "pareto", "budgets=[0.2,0.5]")


@pytest.fixture
def pme_run(pme_folder: Path) -> OfflineRun:
    """What a dashboard would show of a `pme` run."""
    return read_run(pme_folder)


@pytest.fixture
def pareto_run(pareto_folder: Path) -> OfflineRun:
    """What a dashboard would show of a `pareto` run."""
    return read_run(pareto_folder)
