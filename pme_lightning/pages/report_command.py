"""The ``report`` command: the page of one finished run, or of several side by side."""

from __future__ import annotations

from pathlib import Path

from pme_lightning.configuration.command_line import CommandLine
from pme_lightning.errors import BadInput, did_you_mean
from pme_lightning.pages.comparison_page import comparison_page
from pme_lightning.pages.run_page import write_run_page
from pme_lightning.pages.saved_run import read_run
from pme_lightning.pages.written import check_place, write_page

COMPARISON = "comparison.html"


def report(line: CommandLine) -> None:
    """Writes the page and says where it is.

    Args:
        line: The words of the command line: folders of finished runs, and ``out``, the file to write. Of one run its
            ``report.html`` is written anew; several are compared in ``comparison.html`` in the current folder.

    Raises:
        BadInput: A folder is none of a finished run, or the place cannot be written to.
    """
    folders, out = line.asked, None
    if line.flags:
        raise BadInput(f"report: {line.flags[0]} does not go with this command; it takes folders and out=FILE")
    others = [*line.choices.items(), *(("config", file) for file in line.files), *line.overrides]
    for key, value in others:
        if key != "out":
            raise BadInput(f"report: unknown option '{key}' (={value}): {did_you_mean(key, ['out'])}")
        out = Path(value).expanduser()
    if not folders:
        raise BadInput("report: name the folder of a run, or several: python train.py report runs/RUN")
    paths = list(dict.fromkeys(Path(folder).expanduser().absolute() for folder in folders))
    if len(paths) == 1:
        written = write_run_page(folders[0], out)
    else:
        out = out or Path(COMPARISON)
        check_place(out)
        written = write_page(comparison_page([read_run(path) for path in paths], out.absolute()), out)
    print(f"report: {_shown(written)}")


def _shown(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
