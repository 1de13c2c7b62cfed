"""The ledger's overview as tables for a person."""

from typing import Any

from rich.table import Table
from rich.text import Text

from wardround_shared.commands import add_row, console, table


def print_overview(content: dict[str, Any]) -> None:
    """Print what `overview` says."""
    out = console()
    out.print(Text(f"ledger {content['ledger_id']} of the site {content['site']}"))
    out.print(Text(f"head {content['head']}"))
    if not content["reservations"]:
        out.print("Nothing was ever reserved.")
        return
    out.print(_populations(content))
    if any(population["cap"] is None for population in content["populations"]):
        out.print(Text("There is no policy.toml here, so no cap is shown."))
    out.print(_studies(content))
    out.print(_reservations(content))


def _populations(content: dict[str, Any]) -> Table:
    made = table(
        "Populations",
        "population",
        "data sets",
        "per",
        "cap",
        "delta",
        "PRV",
        "RDP",
        "spent",
        "left",
    )
    for one in content["populations"]:
        spent = one["spent"]
        add_row(
            made,
            one["population"],
            ", ".join(one["data_sets"]),
            one["unit"],
            _epsilon(one["cap"]),
            f"{one['delta']:g}",
            _epsilon(spent["prv"]),
            _epsilon(spent["rdp"]),
            _epsilon(spent["epsilon"]),
            _epsilon(one["left"]),
        )
    return made


def _studies(content: dict[str, Any]) -> Table:
    made = table(
        "Studies, each by itself",
        "population",
        "study",
        "id",
        "runs",
        "rounds",
        "PRV",
        "RDP",
        "spent",
    )
    for population in content["populations"]:
        for one in population["studies"]:
            spent = one["spent"]
            add_row(
                made,
                population["population"],
                one["study"],
                one["study_id"][:12],
                str(len(one["runs"])),
                str(one["rounds"]),
                _epsilon(spent["prv"]),
                _epsilon(spent["rdp"]),
                _epsilon(spent["epsilon"]),
            )
    return made


def _reservations(content: dict[str, Any]) -> Table:
    made = table(
        "Reservations",
        "",
        "time",
        "study",
        "run",
        "round",
        "data set",
        "noise",
        "rate",
        "steps",
        "state",
    )
    for one in content["reservations"]:
        add_row(
            made,
            str(one["number"]),
            one["time"],
            one["study"],
            one["run"],
            str(one["round"]),
            one["data_set"],
            f"{one['noise_multiplier']:.4g}",
            f"{one['sample_rate']:.4g}",
            str(one["steps"]),
            one["state"],
        )
    return made


def _epsilon(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
