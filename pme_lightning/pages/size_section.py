"""The sizes that a run found: how many tokens have which, over popularity and field by field."""

from __future__ import annotations

from typing import Any

from pme_lightning.pages.bars import density, density_legend, histogram, row_bars, small_histogram
from pme_lightning.pages.charts import Series, legend, line_chart
from pme_lightning.pages.elements import details, figure, section, table
from pme_lightning.pages.markup import Markup, tag
from pme_lightning.pages.scales import category_axis, linear_axis, percent, short_count
from pme_lightning.pages.training_section import styles

# So many fields have their histogram in sight, and so many their bar: those with the most parameters.
_HISTOGRAMS = 12
_BARS = 60
_FEW = 14
Facts = dict[str, Any]


def sizes_of_run(sizes: dict[str, Facts]) -> Markup:
    """Returns the section; ``sizes``: as in ``findings.json``, one entry a budget."""
    if len(sizes) == 1:
        return section("Sizes", *_of_budget("sizes", next(iter(sizes.values()))))
    folded = [
        details(f"the sizes of budget {name}", *_of_budget(f"sizes{i}", facts))
        for i, (name, facts) in enumerate(sizes.items())
    ]
    return section("Sizes", tag("div", _means(sizes), _kept_by_budget(sizes), class_="beside"), *folded)


def _of_budget(name: str, facts: Facts) -> list[Markup]:
    pictures, bars = [_histogram(name, facts), _density(name, facts)], _bars(name, facts)
    # Few bars are a picture like the others; many are as long as the table of the fields.
    few = len(facts["fields"]) <= _FEW
    top = tag("div", *pictures, bars if few else None, class_="figures")
    fields = _fields(facts) if few else tag("div", bars, _fields(facts, compact=True), class_="beside")
    return [top, *_field_histograms(name, facts), tag("h3", "Field by field"), fields]


def band_name(band: Facts) -> str:
    """Returns the training rows of a band of tokens: ``4-7``."""
    if band["fewest"] == band["most"]:
        return str(band["fewest"])
    return f"{band['fewest']:,}-{band['most']:,}"


def _histogram(name: str, facts: Facts) -> Markup:
    counts, tokens = facts["histogram"], facts["tokens"] or 1
    shares = [count / tokens for count in counts]
    names = [str(size) for size in range(len(counts))]
    most = max(range(len(counts)), key=counts.__getitem__)
    caption = (
        f"{percent(shares[0])} of {tokens:,} tokens keep no embedding value, {percent(shares[-1])} keep all "
        f"{len(counts) - 1}; the most frequent size is {most}."
    )
    numbers = table(
        ["size", "tokens", "share"], [[str(s), f"{n:,}", f"{n / tokens:.2%}"] for s, n in enumerate(counts)]
    )
    title = "Sizes of all tokens"
    svg = histogram(f"{name}-histogram", title, caption, shares, names, "size", "share of tokens")
    return figure(title, svg, caption, numbers=numbers)


def _density(name: str, facts: Facts) -> Markup | None:
    bands = facts["bands"]
    filled = [band for band in bands if band["tokens"]]
    if not filled:
        return None
    rare, popular = filled[0], filled[-1]
    caption = (
        f"Tokens with {band_name(rare)} training rows keep {rare['mean_size']:.1f} values on average, those with "
        f"{band_name(popular)} keep {popular['mean_size']:.1f}."
    )
    numbers = table(
        ["training rows", "tokens", "mean size", "size 0"],
        [
            [band_name(b), f"{b['tokens']:,}", f"{b['mean_size']:.2f}", percent(b["histogram"][0] / b["tokens"])]
            for b in filled
        ],
    )
    title = "Size over popularity"
    svg = density(
        f"{name}-density",
        title,
        caption,
        [band["histogram"] for band in bands],
        [short_count(band["fewest"]) for band in bands],
        "training rows of a token, at least",
        [band["mean_size"] for band in bands],
    )
    return figure(title, svg, caption, density_legend(), numbers)


def _field_histograms(name: str, facts: Facts) -> list[Markup]:
    if len(facts["fields"]) == 1:
        return []
    ranked = sorted(range(len(facts["fields"])), key=lambda f: -facts["fields"][f]["full_parameters"])
    first, rest = ranked[:_HISTOGRAMS], ranked[_HISTOGRAMS:]

    def small(numbers: list[int]) -> Markup:
        return tag("div", *(_small(f"{name}-field{f}", facts["fields"][f]) for f in numbers), class_="small")

    note = f"The {len(first)} fields with the most parameters come first. " if rest else ""
    explanation = tag(
        "p",
        f"{note}Sizes 0 … {facts['embedding_dim']} across; upward the square root of the share of a field's tokens.",
    )
    shown = [tag("h3", "Sizes in each field"), explanation, small(sorted(first))]
    if rest:
        shown.append(details(f"{len(rest)} more fields", small(sorted(rest))))
    return shown


def _small(name: str, field: Facts) -> Markup:
    caption = tag(
        "figcaption",
        tag("b", field["name"], title=field["name"]),
        f"{field['tokens']:,} tokens",
        tag("br"),
        f"mean size {field['mean_size']:.1f}",
    )
    svg = small_histogram(name, f"Sizes of the tokens of {field['name']}", field["histogram"])
    return tag("figure", caption, svg)


def _bars(name: str, facts: Facts) -> Markup:
    fields = facts["fields"]
    kept = sorted(fields, key=lambda field: -field["full_parameters"])[:_BARS]
    shown = [field for field in fields if field in kept] if len(fields) > _BARS else fields
    low, high = (pick(fields, key=lambda field: field["kept"]) for pick in (min, max))
    caption = (
        f"Over all fields {percent(facts['kept'])} are kept: most in {high['name']} ({percent(high['kept'])}), "
        f"least in {low['name']} ({percent(low['kept'])})."
    )
    if len(fields) > _BARS:
        caption += f" Shown are the {_BARS} fields with the most parameters."
    title = "Kept parameters of each field"
    rows = [(field["name"], field["kept"]) for field in shown]
    svg = row_bars(f"{name}-kept", title, caption, rows, (facts["kept"], f"all: {percent(facts['kept'])}"))
    return figure(title, svg, caption)


def _fields(facts: Facts, compact: bool = False) -> Markup:
    rows = [
        [
            field["name"],
            f"{field['tokens']:,}",
            f"{field['mean_size']:.2f}",
            percent(field["kept"]),
            f"{field['full_parameters']:,}",
            f"{field['parameters']:,}",
        ]
        for field in facts["fields"]
    ]
    total = sum(size * count for size, count in enumerate(facts["histogram"])) / (facts["tokens"] or 1)
    rows.append(
        [
            "all",
            f"{facts['tokens']:,}",
            f"{total:.2f}",
            percent(facts["kept"]),
            f"{facts['full_parameters']:,}",
            f"{facts['parameters']:,}",
        ]
    )
    return table(
        ["field", "tokens", "mean size", "kept", "before", "after"],
        rows,
        "Per-token parameters before and after, first-order weights included; the projection that tokens share is not.",
        text_columns=(0,),
        compact=compact,
    )


def _means(sizes: dict[str, Facts]) -> Markup | None:
    """Mean size over popularity, a line a budget."""
    first = next(iter(sizes.values()))
    bands, style = first["bands"], styles([f"finetune-{name}" for name in sizes])
    if not bands:
        return None
    series = [
        Series(
            f"budget {name}",
            [(float(i), b["mean_size"]) for i, b in enumerate(facts["bands"]) if b["mean_size"] is not None],
            style=style[f"finetune-{name}"],
        )
        for name, facts in sizes.items()
    ]
    names = [short_count(band["fewest"]) for band in bands]
    x = category_axis("training rows of a token, at least", names, most_ticks=8, margin=0.3)
    y = linear_axis("mean size", [], low=0.0, high=float(first["embedding_dim"]))
    caption = "What tokens of each popularity keep on average, for each budget."
    title = "Mean size over popularity"
    rows = [
        [band_name(band), f"{band['tokens']:,}", *(f"{f['bands'][i]['mean_size']:.2f}" for f in sizes.values())]
        for i, band in enumerate(bands)
        if band["tokens"]
    ]
    numbers = table(["training rows", "tokens", *sizes], rows)
    return figure(title, line_chart("sizes-means", title, caption, series, x, y), caption, legend(series), numbers)


def _kept_by_budget(sizes: dict[str, Facts]) -> Markup:
    fields = next(iter(sizes.values()))["fields"]
    rows = [
        [field["name"], f"{field['tokens']:,}", *(percent(facts["fields"][f]["kept"]) for facts in sizes.values())]
        for f, field in enumerate(fields)
    ]
    rows.append(["all", f"{sum(f['tokens'] for f in fields):,}", *(percent(s["kept"]) for s in sizes.values())])
    caption = "Kept per-token parameters of each field, by budget"
    return table(["field", "tokens", *sizes], rows, caption, text_columns=(0,))
