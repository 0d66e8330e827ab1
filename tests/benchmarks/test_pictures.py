"""The pictures of the docs: drawn from what a search found, and from what stood on a terminal."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import torch
from draw_how_it_works import draw
from draw_terminal import draw as draw_terminal
from draw_terminal import midst, screen

from pme_lightning import SearchResult, SyntheticDataModule


def searched(data: SyntheticDataModule, embedding_dim: int = 4) -> SearchResult:
    """Sizes that follow how often a token occurs."""
    sizes = (data.frequencies + 1).log2().round().clamp(max=embedding_dim).long()
    return SearchResult(sizes, None, embedding_dim, basis=None, budget="50%", criterion="mine")


def texts(svg: Path) -> str:
    root = ElementTree.fromstring(svg.read_text(encoding="utf-8"))
    return "\n".join("".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text"))


def test_pictures_of_a_search_are_small_and_the_same_each_time(tmp_path: Path) -> None:
    data = SyntheticDataModule(rows=20_000, tokens=500, num_fields=3)
    data.setup()
    result = searched(data)
    first, again = draw(result, data, tmp_path / "first"), draw(result, data, tmp_path / "again")
    assert [path.name for path in first] == [
        "sizes_by_popularity.svg",
        "sizes_by_planted_rank.svg",
        "kept_by_axis_and_field.svg",
    ]
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes()
        assert one.stat().st_size < 60_000
    assert "training rows of a token" in texts(first[0])
    many = int((data.frequencies >= 100).sum())
    assert f"tokens with 100 rows or more ({many})" in texts(first[1])
    assert "field_3 (" in texts(first[2])


def test_sizes_that_are_all_the_same_can_be_drawn(tmp_path: Path) -> None:
    data = SyntheticDataModule(rows=1_000, tokens=100, num_fields=2)
    data.setup()
    sizes = torch.zeros(100, dtype=torch.int64)
    result = SearchResult(sizes, None, 4, basis=None, budget="50%", criterion="mine")
    assert all(path.is_file() for path in draw(result, data, tmp_path))


BAR = "\x1b[2Kfinetune 2/10 \x1b[35m━━━╸━━━━\x1b[0m  45% 0:12 left\r"


def test_the_screen_keeps_lines_and_drops_bars() -> None:
    written = f"data\r\n{BAR}{BAR.replace('45', '90')}\x1b[2K  finetune: epoch 2, loss 0.4\r\n{BAR}\r\x1b[2Kdone\r\n"
    assert screen(written) == ["data", "  finetune: epoch 2, loss 0.4", "done"]
    bar = midst(written)
    assert bar is not None
    assert re.sub(r"\x1b\[\d+m", "", bar) == "finetune 2/10 ━━━╸━━━━  45% 0:12 left"


def test_the_picture_of_a_terminal_fetches_nothing(tmp_path: Path) -> None:
    out = tmp_path / "terminal.svg"
    draw_terminal(["$ python train.py", "\x1b[35mcoloured\x1b[0m line"], out)
    assert "coloured" in texts(out)
    assert not re.search(r"url\([\"']?http|@font-face|@import", out.read_text(encoding="utf-8"))
