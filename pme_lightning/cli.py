"""The command line: sorts the words, puts the configuration together, runs, and turns bad input into one line."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from pme_lightning.composition import (
    USES_CHECKPOINT,
    CommandLine,
    Composition,
    GroupFiles,
    compose,
    parse_words,
    read_yaml,
)
from pme_lightning.errors import BadInput, cannot_write
from pme_lightning.ranks import global_rank, is_main, is_watched, let_others_speak
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
    """Keeps names that standard output has no letters for, or its being closed, from ending a run."""
    if sys.stdout is None:  # so Python has it where the program was started with it closed
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (it stays open)
    elif isinstance(sys.stdout, io.TextIOWrapper):
        # As Python does on standard error.
        sys.stdout.reconfigure(errors="backslashreplace")


def leave_closed_pipe() -> NoReturn:
    """Ends the program where the reader of its output (head, less) has seen enough."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(141)


def _refuse(text: str) -> NoReturn:
    """Says what is wrong, once if all processes find the same, and exits with 2."""
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
    """Refuses parts of another clone, as an editable install of that one gives them to whoever starts in this one."""
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
        from pme_lightning.help import help_text

        print(help_text(GroupFiles(line.config_dir)))
        return
    if line.command == "list":
        from pme_lightning.listing import list_text

        print(list_text(GroupFiles(line.config_dir), line.asked))
        return
    if line.command == "report":
        from pme_lightning.pages.report_command import report

        report(line)
        return
    # Classes of the user's own are found in the folder where the command is given.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    composition = compose(line, base=_config_of_run(line))

    # Lightning takes seconds to import: only from here on is it needed.
    from pme_lightning.arguments import parse_config, print_config

    parser, config = parse_config(composition)
    if line.command == "explain":
        from pme_lightning.explaining import explain_text

        print(explain_text(line.asked, composition, parser, config, GroupFiles(line.config_dir)))
        return
    if "--print_config" in line.flags:
        print(print_config(parser, config, composition.command), end="")
        return
    _run_command(composition, parser, config, words)


def _run_command(composition: Composition, parser: object, config: object, words: Sequence[str]) -> None:
    from pme_lightning.launching import launch
    from pme_lightning.lost_processes import ProcessLost
    from pme_lightning.runner import Runner

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


def _config_of_run(line: CommandLine) -> dict[str, object] | None:
    """A checkpoint or a file of sizes brings the configuration of its run along; the command line goes over it."""
    keys = dict(line.overrides)
    if keys.get("resume"):
        from pme_lightning.run_files import check_resumable

        return read_yaml(check_resumable(keys["resume"]) / "config.yaml")
    named = {"finetune": keys.get("sizes"), **dict.fromkeys(USES_CHECKPOINT, keys.get("ckpt_path"))}
    file = named.get(line.command or "")
    if not file:
        return None
    from pme_lightning.run_files import find_run_folder

    if not Path(file).expanduser().is_file():
        key, path = "sizes" if line.command == "finetune" else "ckpt_path", Path(file).expanduser()
        inside = sorted(path.rglob("*.safetensors" if key == "sizes" else "*.ckpt")) if path.is_dir() else []
        hint = f": it is a folder, with {', '.join(str(each.relative_to(path)) for each in inside)}" if inside else ""
        raise BadInput(f"{key}: there is no file '{file}'{hint}")
    folder = find_run_folder(file)
    if folder is None:
        return None
    config = read_yaml(folder / "config.yaml")
    # The trainer and the logger are of this command, the rest is what the file was made with.
    parts = ["data", "model", "backbone", "optimizer", "embedding_optimizer", "transfer", "seed"]
    if line.command == "finetune":
        parts += ["trainer", "averaging", "early_stopping", "checkpoint"]
    if is_main() and "--print_config" not in line.flags:
        print(f"configuration: that of {folder.name}, and what the command line says")
    return {key: config[key] for key in parts if key in config}
