"""A comparison as a person reads it: tables on a terminal, and the same as Markdown."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from wardround_shared.commands import plain, table
from wardround_simulations.comparison.bootstrap import FEWEST
from wardround_simulations.metric_names import named

Said = dict[str, Any]

# With more sites than this there is one column for all of them, and the differences tell of each.
_MOST_COLUMNS = 8
_NOTHING = "-"


def show(result: Said) -> list[Table]:
    """The tables of the first metric: all ways, and what changes for whom."""
    if not result["shown"]:
        return []
    metric = result["shown"][0]
    made = table(f"{_name(result, metric)}, intervals of 95 %")
    for name in _head(result):
        made.add_column(plain(name), overflow="fold")
    for row in _rows(result, metric, between="\n"):
        made.add_row(*map(_cell, row))
    changes = table("What changes", *_CHANGES)
    for row in _changes(result, metric):
        changes.add_row(*map(_cell, row))
    return [made, changes]


def sentences(result: Said) -> list[str]:
    """What has to be said beside the tables."""
    said = [f"note: {note}" for note in result["notes"]]
    said += [
        f"{one['title']}: no model: {one['failed']}" for one in result["ways"] if one["failed"]
    ]
    seeds = result["seeds"]
    chance = (
        "chance in training is not in them: --repeat N trains with N seeds"
        if len(seeds) == 1
        else f"figures are means over {len(seeds)} seeds"
    )
    said.append(
        f"intervals: {result['draws']} draws of the {result['patients']} validation "
        f"{result['unit']}s; none is given for fewer than {FEWEST}; {chance}"
    )
    return said


def comparison_text(result: Said) -> str:
    """`comparison.md`: a table of each metric, the changes, and how it was made."""
    lines = [f"# {result['study']}: pooled, alone and federated", ""]
    lines += [
        f"Study {result['study_id']}, seeds {', '.join(map(str, result['seeds']))}. Made by:",
        "",
        f"    {result['command']}",
        "",
        *_markdown(_SITES, _sites(result)),
        "",
        *_markdown(_WAYS, _ways(result)),
        "",
        *(f"- {sentence}" for sentence in sentences(result)),
    ]
    for metric in result["shown"]:
        lines += ["", f"## {_name(result, metric)}", ""]
        lines += _markdown(_head(result), _rows(result, metric, between=" "))
        lines += ["", *_markdown(_CHANGES, _changes(result, metric))]
    return "\n".join(lines) + "\n"


# --- rows ------------------------------------------------------------------------------------

_SITES = ("site", "patients to train on", "patients to validate on", "examples of these")
_WAYS = ("trained", "passes over the data", "secure aggregation", "epsilon", "seconds", "by seed")
_CHANGES = ("at", "patients", "from", "to", "before", "after", "difference", "so it")


def _name(result: Said, metric: str) -> str:
    return named(dict.fromkeys(result["shown"]))[metric]


def _head(result: Said) -> list[str]:
    return ["trained", "all sites", *_columns(result)]


def _columns(result: Said) -> list[str]:
    sites = list(result["sites"])
    return sites if len(sites) <= _MOST_COLUMNS else []


def _sites(result: Said) -> Iterator[list[str]]:
    for site, numbers in result["sites"].items():
        keys = ("train_patients", "validation_patients", "validation")
        yield [site, *(str(numbers[key]) for key in keys)]


def _ways(result: Said) -> Iterator[list[str]]:
    for way in result["ways"]:
        secure = "yes" if way["secure_aggregation"] else "no"
        yield [
            way["title"],
            _NOTHING if way["passes"] is None else str(way["passes"]),
            _NOTHING if way["kind"] in {"pooled", "alone"} else secure,
            _NOTHING if way["epsilon"] is None else f"{way['epsilon']:g}",
            f"{way['seconds']:.0f}",
            _by_seed(result, way),
        ]


def _by_seed(result: Said, way: Said) -> str:
    """The first metric at all sites, with each seed."""
    found = way["by_seed"].get(result["shown"][0], []) if result["shown"] else []
    return " ".join(_NOTHING if one is None else f"{one:.3f}" for one in found) or _NOTHING


def _rows(result: Said, metric: str, *, between: str) -> Iterator[list[str]]:
    """One row a way; `between` stands between a figure and its interval."""
    for way in result["ways"]:
        scopes = [way["metrics"], *(way["per_site"].get(s, {}) for s in _columns(result))]
        yield [way["title"], *(_figure(scope.get(metric), between) for scope in scopes)]


def _changes(result: Said, metric: str) -> Iterator[list[str]]:
    ways = {way["way"]: way for way in result["ways"]}
    for change in result["differences"]:
        site = change["site"]
        before, after = ways[change["minus"]], ways[change["of"]]
        figures = [
            _value((way["per_site"][site] if site else way["metrics"])[metric])
            for way in (before, after)
        ]
        difference = change["metrics"][metric]
        yield [
            site or "all sites",
            str(change["patients"]),
            "alone" if site else before["title"],
            after["title"],
            *figures,
            _figure(difference, " ", signed=True),
            change["verdicts"][metric],
        ]


def _figure(found: Said | None, between: str, *, signed: bool = False) -> str:
    """`0.853 (0.790 to 0.901)`."""
    if found is None or found["value"] is None:
        return _NOTHING
    value = f"{found['value']:+.3f}" if signed else _value(found)
    if found["low"] is None:
        return value
    low, high = (f"{found[end]:+.3f}" if signed else f"{found[end]:.2f}" for end in ("low", "high"))
    return f"{value}{between}({low} to {high})" if signed else f"{value}{between}({low}-{high})"


def _value(found: Said) -> str:
    return _NOTHING if found["value"] is None else f"{found['value']:.3f}"


def _cell(text: str) -> Text:
    """Plain text of one or two lines: names of sites are obeyed by no terminal."""
    return Text("\n").join(plain(line) for line in text.split("\n"))


def _markdown(head: Sequence[str], rows: Iterator[list[str]]) -> list[str]:
    return [_line(head), "|" + " --- |" * len(head), *map(_line, rows)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
