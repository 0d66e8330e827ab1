"""HTML and SVG put together element by element; text is escaped unless it is markup already."""

from __future__ import annotations

from html import escape

_VOID = {"meta", "br", "hr", "link", "img"}


class Markup(str):
    """A piece of HTML or SVG, which is not to be escaped again."""

    __slots__ = ()


# What may stand in an element: markup as it is, text escaped, None for nothing.
Child = Markup | str | None


def tag(name: str, /, *children: Child, **attributes: str | float | None) -> Markup:
    """Returns an element.

    Args:
        name: Of the element.
        children: What is in it.
        attributes: A trailing underscore is dropped (``class_``), others become dashes (``stroke_width``); ``None``
            leaves the attribute out. Numbers are written with two decimals at most.

    >>> tag("td", "a < b", class_="number")
    '<td class="number">a &lt; b</td>'
    """
    written = "".join(f' {_name(key)}="{_value(value)}"' for key, value in attributes.items() if value is not None)
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(children: tuple[Child, ...] | list[Child] | list[Markup]) -> Markup:
    """Returns pieces one after the other, text escaped."""
    return Markup("".join(_child(each) for each in children if each is not None))


def number(value: float) -> str:
    """Returns a coordinate: two decimals at most.

    >>> number(3.0), number(1.2345), number(-0.001)
    ('3', '1.23', '0')
    """
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _child(child: Child) -> str:
    return child if isinstance(child, Markup) else escape(str(child), quote=False)


def _name(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _value(value: str | float) -> str:
    return escape(value) if isinstance(value, str) else number(value)
