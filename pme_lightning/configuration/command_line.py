"""Sorts the words of a command line: commands, ``group=choice``, ``key=value`` and options."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from pme_lightning.configuration.commands import COMMANDS, QUESTIONS
from pme_lightning.configuration.group_files import GROUPS, GroupFiles
from pme_lightning.errors import BadInput, did_you_mean

FLAGS = ("--help", "-h", "--print_config", "--version")


@dataclass
class CommandLine:
    """The words of a command line, sorted by kind.

    Attributes:
        command: What to do, or ``None`` if no command was named.
        choices: ``group=choice`` words.
        files: Configuration files (``--config``), in order.
        overrides: ``key=value`` words and options, key and value, in order.
        flags: Options without a value, such as ``--print_config``.
        config_dir: A folder of the user's own group files.
        asked: What a question is about, such as a group of ``list``; run folders, for ``report``.
    """

    command: str | None = None
    choices: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    overrides: list[tuple[str, str]] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    config_dir: str | None = None
    asked: list[str] = field(default_factory=list)


def parse_words(words: Sequence[str]) -> CommandLine:
    """Sorts the words of a command line.

    Raises:
        BadInput: A word is none of command, ``group=choice``, ``key=value`` or option.
    """
    line = CommandLine()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word in FLAGS:
            line.flags.append("--help" if word == "-h" else word)
        elif line.command == "report" and not re.match(r"-|\w+=", word):
            line.asked.append(word)
        elif "=" in word:
            _add_setting(line, word)
        elif word.startswith("-"):
            if not rest:
                raise BadInput(f"option {word} needs a value: {word}=VALUE")
            _add_setting(line, f"{word}={rest.pop(0)}")
        else:
            _add_plain_word(line, word)
    _find_choices(line)
    return line


def _add_plain_word(line: CommandLine, word: str) -> None:
    """Adds a word without ``=``: the command, or what a question is about."""
    known = (*COMMANDS, *QUESTIONS)
    if line.command in QUESTIONS:
        line.asked.append(word)
    elif word not in known:
        raise BadInput(f"'{word}' is no command and has no '=': {did_you_mean(word, known)}")
    elif line.command is not None:
        raise BadInput(f"two commands, '{line.command}' and '{word}': name one")
    else:
        line.command = word


def _add_setting(line: CommandLine, word: str) -> None:
    """Adds a word ``key=value``, with dashes before it or without."""
    written, _, value = word.partition("=")
    key = written.lstrip("-")
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\+?", key):
        raise BadInput(f"'{word}': the key '{key}' is not a name such as trainer.max_epochs")
    if key in ("config", "c"):
        line.files.append(value)
    elif key == "config_dir":
        line.config_dir = value
    elif key not in GROUPS or key != written:
        line.overrides.append((key, value))
    elif key == "data" and (kind := kind_of_files(value)):
        raise BadInput(f"data={value} names files; say of which kind, data={kind} data.path={value}")
    elif "." in value or value.startswith(("{", "[")):
        # The path of a class, or a whole configuration of the group.
        line.overrides.append((key, value))
    else:
        line.choices[key] = value


def _find_choices(line: CommandLine) -> None:
    """Moves choices that were written as options, such as ``--backbone=fm``, from the overrides to the choices.

    Programs that start others, such as the agents of sweeps, write dashes before all they say.
    """
    if not any(key in GROUPS for key, _ in line.overrides):
        return
    files = GroupFiles(line.config_dir)
    settings, line.overrides = line.overrides, []
    for key, value in settings:
        if key in GROUPS and (key == "experiment" or value in files.choices(key) or _looks_like_a_choice(value)):
            line.choices[key] = value
        else:
            line.overrides.append((key, value))


def _looks_like_a_choice(value: str) -> bool:
    # --optimizer=Adam names a class of torch's, which the parser finds.
    return re.fullmatch(r"[a-z0-9_]+", value) is not None and value != "null"


def kind_of_files(path: str) -> str | None:
    """Returns the choice of ``data`` that reads files of such names; None where the name does not tell.

    >>> kind_of_files("clicks/train.tsv.gz"), kind_of_files("clicks.pq"), kind_of_files("frappe")
    ('csv', 'parquet', None)
    """
    if re.search(r"\.(csv|tsv|txt)(\.gz)?$", path):
        return "csv"
    return "parquet" if re.search(r"\.(parquet|pq)$", path) else None
