"""Takes the pictures that the docs show of reports and of a terminal, of real runs on the synthetic click log.

It needs Chromium (Debian: ``apt-get install chromium``) and takes some minutes on two cores, nearly all of them for
the runs; with ``--runs`` these are kept, and found again the next time:

    python benchmarks/screenshots.py --runs /tmp/screenshots
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from chromium import Chromium, find_chromium
from PIL import Image
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
# The runs, by the name of their folder.
RUNS = {
    "deepfm": ["backbone=deepfm"],
    "fm": ["backbone=fm"],
    "deepfm-budgets": ["pareto", "backbone=deepfm"],
}
# What is taken: name of the picture, page, width, the heading that it ends before (None: all of the page), dark.
PICTURES: list[tuple[str, str, int, str | None, bool]] = [
    ("report_1280", "runs/deepfm/report.html", 1280, "Field by field", False),
    ("report_training_1280", "runs/deepfm/report.html", 1280, "Repeat it", False),
    ("report_390", "runs/deepfm/report.html", 390, "Kept parameters of each field", False),
    ("report_dark_390", "runs/deepfm/report.html", 390, "Kept parameters of each field", True),
    ("report_budgets_1280", "runs/deepfm-budgets/report.html", 1280, "Search", False),
    ("comparison_1280", "comparison.html", 1280, None, False),
]
_FROM = {"report_training_1280": "Search"}
_MOST_BYTES = 200_000


def run(folder: Path, name: str) -> str:
    """Makes a run unless it is there; returns what it printed."""
    printed = folder / f"{name}.txt"
    if not printed.is_file():
        words = [sys.executable, str(ROOT / "train.py"), *RUNS[name], f"run_dir=runs/{name}"]
        print(f"{name}: {' '.join(words[1:])}", flush=True)
        done = subprocess.run(words, cwd=folder, env=os.environ | {"COLUMNS": "80"}, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{name} ended with {done.returncode}: {done.stderr[-500:]}")
        printed.write_text(done.stdout, encoding="utf-8")
    return printed.read_text(encoding="utf-8")


def draw_terminal(command: str, printed: str, page: Path) -> None:
    """Writes a page with what a terminal shows of a run."""
    console = Console(record=True, width=84, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(Text(f"$ {command}", style="bold"))
    console.print(Text.from_ansi(printed.rstrip()))
    page.write_text(console.export_html(inline_styles=True, code_format=_TERMINAL), encoding="utf-8")


_TERMINAL = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">
<style>body {{ margin: 0; background: #0d1117; display: inline-block; padding: 18px 22px; }}
pre {{ margin: 0; color: #e6edf3; font: 14px/1.32 "DejaVu Sans Mono", ui-monospace, Menlo, Consolas, monospace; }}
</style><pre>{code}</pre>"""


def take(
    browser: Chromium, page: Path, target: Path, width: int, start: str | None, end: str | None, dark: bool
) -> None:
    """Takes the part of a page from one heading to before another, and makes the file small."""
    browser.open(page, width, dark=dark)
    if browser.complaints:
        raise SystemExit(f"{page}: {browser.complaints}")
    top, bottom = (_top_of(browser, heading) for heading in (start, end))
    height = None if bottom is None else bottom - (top or 0)
    browser.screenshot(target, height=height, top=top or 0)
    # A report has few colours.
    Image.open(target).convert("RGB").quantize(96, dither=Image.Dither.NONE).save(target, optimize=True)
    size = target.stat().st_size
    if size > _MOST_BYTES:
        raise SystemExit(f"{target.name} has {size:,} bytes, more than {_MOST_BYTES:,}")
    print(f"{target.relative_to(ROOT) if target.is_relative_to(ROOT) else target}: {size:,} bytes", flush=True)


def _top_of(browser: Chromium, heading: str | None) -> int | None:
    if heading is None:
        return None
    top = browser.evaluate(
        f"[...document.querySelectorAll('h2, h3')].find(each => each.textContent === {heading!r})"
        ".getBoundingClientRect().top + scrollY"
    )
    return int(top) - 14


def main(words: list[str] | None = None) -> None:
    """Makes the runs and takes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="folder that keeps the runs (a temporary one)")
    parser.add_argument("--images", type=Path, default=IMAGES, help="folder of the pictures (docs/images)")
    arguments = parser.parse_args(words)
    program = find_chromium()
    if program is None:
        raise SystemExit("no Chromium is installed (Debian: apt-get install chromium)")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.runs or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        arguments.images.mkdir(parents=True, exist_ok=True)
        printed = {name: run(folder, name) for name in RUNS}
        draw_terminal("python train.py backbone=deepfm", printed["deepfm"], folder / "terminal.html")
        for each in (*([f"runs/{name}"] for name in RUNS), [*(f"runs/{name}" for name in RUNS), "out=comparison.html"]):
            report = [sys.executable, str(ROOT / "train.py"), "report", *each]
            subprocess.run(report, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        with Chromium(program) as browser:
            for name, page, width, end, dark in PICTURES:
                take(browser, folder / page, arguments.images / f"{name}.png", width, _FROM.get(name), end, dark)
            take(browser, folder / "terminal.html", arguments.images / "terminal.png", 760, None, None, False)


if __name__ == "__main__":
    main()
