"""Turns what jsonargparse says of a wrong value, which takes many lines, into one."""

from __future__ import annotations

import re

_SAYS_WHY = r"Expected|not accepted|not expected|not a subclass|does not|Not a"
# The parser tries whatever a value could be meant as: only the types that were asked for are of interest.
_SAYS_NOTHING = r"Does not validate against any|NoneType|Expected a path|dot import path|Literal\[64, 32"


def one_line(message: str) -> str:
    """Returns the key, what is wrong with it, and the value that was given; all of the message if these are not found.

    >>> one_line('Parser key "seed":\\n  Expected a <class \\'int\\'>\\n  Given value: abc')
    'seed: expected a int (given: abc)'
    """
    section = re.search(r"Parser key \"(\w+)\":\s+Unable to load config '([^']*)'", message)
    if section:
        return f"{section[1]}: expected settings below it, {section[1]}.KEY=VALUE (given: {section[2]})"
    key = re.search(r"(?:Parser key|Problem with given class_path|key) \"?'?([\w.]+)", message)
    argument = re.search(r"Given value: NestedArg\(key='([^']*)', val=(.*)\)", message)
    where = ".".join(found[1] for found in (key, argument) if found)
    given = argument or re.search(r"Given value: ()(.*)", message)
    value = given[2] if given else ""
    lines = [line.strip(" -") for line in message.splitlines()]
    reasons = [line for line in lines if re.search(_SAYS_WHY, line) and not re.search(_SAYS_NOTHING, line)]
    if not reasons and "dot import path" in message:
        reasons = ["expected the import path of a class"]
    if not (where and reasons):
        return " ".join(message.split())
    said = "; ".join(dict.fromkeys(reasons))
    said = re.sub(r"<class '([\w.]+)'>", r"\1", said)
    said = re.sub(r"typing\.Literal\[([^\]]*)\]", r"one of \1", said).replace("Expected a one of", "expected one of")
    said = said[0].lower() + said[1:]
    return f"{where}: {said}" + (f" (given: {value})" if value and "Got value" not in said else "")
