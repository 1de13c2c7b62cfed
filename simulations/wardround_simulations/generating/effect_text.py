"""What made images bring, as a person reads it."""

from typing import Any

from wardround_simulations.metric_names import named

Said = dict[str, Any]


def rows(result: Said) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table: what was trained on, and each metric with its interval."""
    shown = named(dict.fromkeys(result["shown"]))
    head = ["trained on", "examples", "passes", *shown.values()]
    lines = [
        [
            name,
            str(one["examples"]),
            str(one["passes"]),
            *(_figure(one["metrics"][key]) for key in shown),
        ]
        for name, one in result["trained_on"].items()
    ]
    change = [_figure(result["added_minus_real"][key], signed=True) for key in shown]
    return head, [*lines, ["made ones added, minus real ones alone", "", "", *change]]


def sentences(result: Said) -> list[str]:
    """What the table means, and how it came about."""
    first = result["shown"][0]
    name = named({first: None})[first]
    verdict = result["verdicts"][first]
    made = result["generator"]
    privacy = (
        "without protection, so that made images may be copies of real ones"
        if made["not_private"]
        else f"with epsilon {made['epsilon']:g} per {made['unit']} at delta {made['delta']:g}"
    )
    seeds = len(result["seeds"])
    what = (
        f"a classifier with {result['share']:.0%} of the training patients, to whose images "
        f"{result['made']} made ones are added: {verdict} ({name})"
    )
    figures = (
        f"figures are means over {seeds} {'seed' if seeds == 1 else 'seeds'}; intervals of 95 %: "
        f"{result['draws']} draws of the {result['patients']} validation patients, chance in "
        "training is not in them"
    )
    length = (
        "all classifiers have seen as many examples, up to one pass more: the smaller a set is, "
        "the more often it was gone through"
    )
    return [
        what,
        f"the generator was trained {privacy}; the classifiers without it",
        figures,
        length,
    ]


def effect_text(result: Said) -> str:
    """`effect.md`."""
    head, lines = rows(result)
    return "\n".join(
        [
            f"# {result['study']}: what made images bring",
            "",
            "Made by:",
            "",
            f"    {result['command']}",
            "",
            _line(head),
            "|" + " --- |" * len(head),
            *map(_line, lines),
            "",
            *(f"- {sentence}" for sentence in sentences(result)),
            "",
        ]
    )


def _figure(found: Said, *, signed: bool = False) -> str:
    if found["value"] is None:
        return "-"
    form = "+.3f" if signed else ".3f"
    value = format(found["value"], form)
    if found["low"] is None:
        return value
    return f"{value} ({found['low']:{form}} to {found['high']:{form}})"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
