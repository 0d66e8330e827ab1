"""What a benchmark ran on: processor, threads, versions, commit."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
# What the numbers depend on; a result file that grows in the tree makes no commit dirty.
_CODE = ("pme_lightning", "backbones", "callbacks", "configs", "benchmarks/*.py")


def machine_facts() -> dict[str, str | int]:
    """Returns the columns that say what a cell was measured on."""
    return {
        "commit": commit(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": processor(),
    }


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 by itself (Linux on x86); elsewhere it would be slower than float32."""
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.is_file() and bool({"avx512_bf16", "amx_bf16"} & set(cpuinfo.read_text().split()))


def processor() -> str:
    """Returns the name of the processor, and of the GPU where there is one."""
    names = [platform.processor() or platform.machine()]
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        names = models[:1] or names
    if torch.cuda.is_available():
        names.append(torch.cuda.get_device_name())
    return " + ".join(names)


def commit() -> str:
    """Returns the commit of the source tree, with ``-dirty`` if its code was changed; ``unknown`` outside of git."""
    head = _git("rev-parse", "--short=12", "HEAD")
    if head is None:
        return "unknown"
    return head + ("-dirty" if _git("status", "--porcelain", "--", *_CODE) else "")


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *words], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
