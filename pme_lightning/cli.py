"""The command line: sorts the words, puts the configuration together, runs, and turns bad input into one line."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from pme_lightning.configuration.command_line import parse_words
from pme_lightning.configuration.composition import Composition, compose
from pme_lightning.configuration.group_files import GroupFiles
from pme_lightning.configuration.inherited import inherited_config
from pme_lightning.errors import BadInput, cannot_write
from pme_lightning.processes.ranks import global_rank, is_main, is_watched, let_others_speak
from pme_lightning.version import __version__


def main(args: Sequence[str] | None = None) -> None:
    """Runs a command line and exits: 0 when all went well, 1 if a process died, 2 on bad input, 130 after Ctrl-C.

    Args:
        args: The words after the program's name; ``None`` takes those of the process.
    """
    _let_everything_be_printed()
    try:
        _run(sys.argv[1:] if args is None else args)
    except BadInput as error:
        _refuse(str(error))
    except KeyboardInterrupt as interrupt:
        _complain(f"interrupted{': ' + str(interrupt) if str(interrupt) else ''}")
        sys.exit(130)
    except BrokenPipeError:
        leave_closed_pipe()
    except OSError as error:
        told = cannot_write(error)
        if told is None:
            raise
        _refuse(told)


def _let_everything_be_printed() -> None:
    """Lets a run go on where standard output is closed, or has no letters for a name."""
    if sys.stdout is None:  # so Python has it where the program was started with it closed
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (it stays open)
    elif isinstance(sys.stdout, io.TextIOWrapper):
        # As Python does on standard error.
        sys.stdout.reconfigure(errors="backslashreplace")


def leave_closed_pipe() -> NoReturn:
    """Ends the program when the reader of its output (head, less) has seen enough."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(141)


def _refuse(text: str) -> NoReturn:
    """Says what is wrong, once if all processes find the same, and exits with code 2."""
    if is_main():
        _say(f"error: {text}")
    elif is_watched():
        let_others_speak()
        # The main process found nothing: it would have ended this one.
        _say(f"error: rank {global_rank()}: {text}")
    sys.exit(2)


def _complain(text: str) -> None:
    """Says one line on standard error, once however many processes run."""
    if is_main():
        _say(text)


def _say(text: str) -> None:
    print(" ".join(text.split()), file=sys.stderr)


def _check_one_place() -> None:
    """Refuses to run with the backbones or callbacks of another clone, which an editable install of that one brings."""
    here = Path(__file__).resolve().parent
    for name in ("backbones", "callbacks"):
        spec = find_spec(f"pme_lightning.{name}")
        if spec is not None and spec.origin is not None:
            place = Path(spec.origin).resolve().parent
            if place.parent not in (here, here.parent):
                raise BadInput(
                    f"pme_lightning is that of '{here.parent}', its {name} are those of '{place.parent}': install the "
                    f"one that you mean, pip install -e {here.parent}"
                )


def _run(words: Sequence[str]) -> None:
    _check_one_place()
    line = parse_words(words)
    if "--version" in line.flags:
        print(__version__)
        return
    if "--help" in line.flags:
        from pme_lightning.help.overview import help_text

        print(help_text(GroupFiles(line.config_dir)))
        return
    if line.command == "list":
        from pme_lightning.help.listing import list_text

        print(list_text(GroupFiles(line.config_dir), line.asked))
        return
    if line.command == "report":
        from pme_lightning.pages.report_command import report

        report(line)
        return
    # Classes of the user's own are found in the folder where the command is given.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    composition = compose(line, base=inherited_config(line))

    # Lightning takes seconds to import: only from here on is it needed.
    from pme_lightning.configuration.config_text import config_text
    from pme_lightning.configuration.parser import parse_config

    parser, config = parse_config(composition)
    if line.command == "explain":
        from pme_lightning.help.explaining import explain_text

        print(explain_text(line.asked, composition, parser, config, GroupFiles(line.config_dir)))
        return
    if "--print_config" in line.flags:
        print(config_text(parser, config, composition.command), end="")
        return
    _run_command(composition, parser, config, words)


def _run_command(composition: Composition, parser: object, config: object, words: Sequence[str]) -> None:
    from pme_lightning.processes.launching import launch
    from pme_lightning.processes.lost import ProcessLost
    from pme_lightning.runs.runner import Runner

    runner = Runner(composition.command, parser, config)  # type: ignore[arg-type]
    processes = runner.check()
    try:
        if processes > 1:
            launch(words, processes)
        else:
            runner.run()
    except ProcessLost as error:
        # Every process says it: those of other machines have a terminal of their own.
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(1)
