"""Classes by their import path, as configuration files and checkpoints name them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from pme_lightning.errors import BadInput, did_you_mean


def import_class(path: str) -> type:
    """Returns the class that ``path`` names, such as ``"pme_lightning.backbones.DeepFM"``.

    Raises:
        BadInput: The module cannot be found or holds no such class.
    """
    module_name, _, name = path.rpartition(".")
    if not module_name:
        raise BadInput(f"class_path '{path}' needs a module: write it as 'module.{name}'")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise BadInput(
            f"class_path '{path}': there is no module '{error.name}' on Python's path (the current folder is on it)"
        ) from error
    except Exception as error:
        # The user's own module: whatever goes wrong while it is imported is for them to mend.
        raise BadInput(
            f"class_path '{path}': importing '{module_name}' fails: {type(error).__name__}: {error}"
        ) from error
    found = getattr(module, name, None)
    if not isinstance(found, type):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise BadInput(f"class_path '{path}': '{module_name}' has no class '{name}': {did_you_mean(name, classes)}")
    return found


def class_path(value: type | str) -> str:
    """Returns the import path of a class (a string is taken as one already).

    Raises:
        BadInput: It is an object.
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, type):
        raise BadInput(f"an object of {type(value).__name__} is given where a class is needed: give the class itself")
    return f"{value.__module__}.{value.__qualname__}"


def relative(path: str, name: str) -> str | None:
    """Returns the import path of the class of a name that has a base in common with another one; None: there is none.

    Args:
        path: The other class.
        name: Without its module.
    """
    for base in import_class(path).__mro__:
        if base.__module__ in ("builtins", "abc", "typing"):
            break
        found = next((each for each in _subclasses(base) if each.__name__ == name), None)
        if found is not None:
            return class_path(found)
    return None


def _subclasses(base: type) -> Iterator[type]:
    yield base
    below: list[type] = base.__subclasses__()
    for each in below:
        yield from _subclasses(each)


def instantiate(path: type | str, /, *args: Any, **kwargs: Any) -> Any:
    """Builds an object of the class; what its constructor objects to is the user's input, and said in one line.

    Raises:
        BadInput: There is no such class, or it does not take these arguments.
    """
    cls = import_class(class_path(path)) if isinstance(path, str) else path
    try:
        return cls(*args, **kwargs)
    except BadInput:
        raise
    except (TypeError, ValueError) as error:
        raise BadInput(f"{cls.__name__}: {error}") from error
