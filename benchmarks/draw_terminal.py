#!/usr/bin/env python
"""Runs a command on a pseudo terminal of 80 columns and draws what stood on its screen, for the docs.

    python benchmarks/draw_terminal.py --out docs/images/terminal.svg
    python benchmarks/draw_terminal.py --out /tmp/pareto.svg pareto budgets=[0.2,0.1]

The picture has the whole output, and above its end the bar as it stood in the midst of the fine-tune.
"""

from __future__ import annotations

import argparse
import fcntl
import io
import os
import pty
import re
import struct
import sys
import tempfile
import termios
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
COLUMNS = 80
_CODE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])")


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images/terminal.svg"))
    parser.add_argument("words", nargs="*", default=["backbone=deepfm"], help="of train.py (default: backbone=deepfm)")
    options = parser.parse_args(words)
    code, written = run_on_terminal(options.words)
    if code:
        print(written, file=sys.stderr)
        return code
    lines = screen(written)
    bar = midst(written)
    at = next((number for number, line in enumerate(lines) if "finetune: epoch 2" in line), None)
    if bar is not None and at is not None:
        lines.insert(at, bar)
    draw([f"$ python train.py {' '.join(options.words)}", *lines], options.out)
    print(options.out)
    return 0


def run_on_terminal(words: Sequence[str]) -> tuple[int, str]:
    """Returns the exit code of train.py on a terminal, and everything that it wrote there, codes included."""
    with tempfile.TemporaryDirectory() as folder:
        child, terminal = pty.fork()
        if child == 0:
            os.chdir(folder)
            os.environ["TERM"] = "xterm-256color"
            os.execv(sys.executable, [sys.executable, str(ROOT / "train.py"), *words])
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
        written = b""
        while True:
            try:
                part = os.read(terminal, 1 << 16)
            except OSError:  # the end, as Linux tells it
                break
            if not part:
                break
            written += part
        os.close(terminal)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), written.decode()


def screen(written: str) -> list[str]:
    """Returns the lines that stay when bars have gone: a bar clears its own lines before it writes them anew."""
    lines = [""]
    row = 0
    for part in re.split(r"(\r\n|\r|\n|\x1b\[[0-9;?]*[A-Za-z])", written):
        code = _CODE.fullmatch(part)
        if part in ("\n", "\r\n"):
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part == "\r":
            pass  # what is written next begins with a clearing of the line
        elif code is None:
            lines[row] += part
        elif code[2] == "A":
            row = max(0, row - int(code[1] or 1))
        elif code[2] == "K":
            lines[row] = ""
        elif code[2] == "m":
            lines[row] += part
    return [line.rstrip() for line in lines if _CODE.sub("", line).strip()]


def midst(written: str) -> str | None:
    """Returns the bar of the fine-tune's second epoch as it stood about half way."""
    frames = [frame for frame in re.split(r"[\r\n]+", written) if "finetune 2/" in frame]
    half = [frame for frame in frames if re.search(r"\b[4-6]\d%", _CODE.sub("", frame))]
    chosen = half[0] if half else frames[len(frames) // 2] if frames else None
    return None if chosen is None else re.sub(r"\x1b\[[0-9;?]*[A-LN-Za-ln-z]", "", chosen).rstrip()


def draw(lines: Sequence[str], out: Path) -> None:
    """Writes the lines, colours included, as a picture of a terminal that fetches nothing."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    for line in lines:
        console.print(Text.from_ansi(line), soft_wrap=False)
    svg = console.export_svg(title="PME Lightning", unique_id="terminal")
    # Fonts of whoever looks at it: nothing is fetched.
    svg = re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(svg.replace("Fira Code", "ui-monospace"), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
