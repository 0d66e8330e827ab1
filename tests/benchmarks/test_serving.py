"""The benchmark of exported models, on a small table."""

from __future__ import annotations

import re
import sys

import pytest
import serving


def test_every_program_has_a_line_of_times(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["serving.py", "--tokens=2000", "--rows=1,8", "--bits=8,4", "--rounds=3", "--no-compile"]
    monkeypatch.setattr(sys, "argv", words)
    serving.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if re.search(r"\d+\.\d+ \(", line)]
    assert [line.partition("(")[0].split()[0] for line in lines] == ["the", "exported,", "exported,"]
    for line in lines:
        times = [tuple(map(float, found)) for found in re.findall(r"([\d.]+) \(([\d.]+) to ([\d.]+)\)", line)]
        assert len(times) == 2
        assert all(0 < low <= middle <= high for middle, low, high in times)
    megabytes = [float(found) for found in re.findall(r"\(([\d.]+) MB", "\n".join(lines))]
    assert len(megabytes) == 2
