"""The Python in README and docs runs as it stands, but for its sizes."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest

ROOT = Path(__file__).parents[1]


def python_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


def run(code: str, tmp_path: Path, names: dict) -> dict:
    shrunk = code.replace("rows=100_000", "rows=4_000, tokens=400").replace("runs/RUN", str(names.pop("run", "")))
    shrunk = re.sub(
        r"Trainer\(", f"Trainer(accelerator='cpu', logger=False, default_root_dir={str(tmp_path)!r}, ", shrunk
    )
    exec(compile(shrunk, "docs", "exec"), names)
    return names


def test_the_readme(tmp_path: Path) -> None:
    (code,) = python_blocks("README.md")
    names = run(code, tmp_path, {})
    assert names["model"].embedding.num_parameters <= 0.2 * names["model"].full_parameters


def test_the_page_on_extending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, api = python_blocks("docs/extend.md")
    names = run(backbone, tmp_path, {})
    assert names["TwoTower"](3, 4).left.out_features == 64
    monkeypatch.chdir(tmp_path)
    rows = range(3000)
    clicks = {"click": [i % 3 % 2 for i in rows], "user": [i % 300 for i in rows], "item": [i * 7 % 100 for i in rows]}
    pl.DataFrame(clicks).write_parquet("clicks.parquet")
    names = run(api, tmp_path, {})
    assert names["model"].embedding.num_parameters <= 0.2 * names["model"].full_parameters
