"""The wheel: one import package, with the configuration files in it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_wheel_adds_one_package_and_holds_every_file(tmp_path: Path) -> None:
    source = tmp_path / "source"
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.splitlines()
    wanted = [name for name in listed if (ROOT / name).is_file()]
    assert wanted, "the packaging test needs a git checkout"
    for name in wanted:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path / "dist"), str(source)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert len(tops) == 2
    assert {top for top in tops if not top.endswith(".dist-info")} == {"pme_lightning"}
    for folder in ("pme_lightning", "backbones", "callbacks", "configs"):
        inside = folder if folder == "pme_lightning" else f"pme_lightning/{folder}"
        for file in (name for name in wanted if name.startswith(f"{folder}/")):
            assert inside + file.removeprefix(folder) in names, f"{file} is missing from the wheel"
