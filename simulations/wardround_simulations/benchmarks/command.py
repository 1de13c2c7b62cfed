"""`wardround bench`."""

from typing import Annotated, Any

import typer

from wardround_shared.commands import Json, errors, print_json
from wardround_shared.terminal import say

bench = typer.Typer(help="Measure speed; the speeds in README.md come from here.")


@bench.command("simulation", epilog="Example: wardround bench simulation --json")
def bench_simulation(
    json_: Json = False,
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    """The federation against a bare PyTorch loop over the same batches."""
    with errors():
        from wardround_simulations.benchmarks.simulation import (  # noqa: PLC0415 - imports torch
            bench_simulation as measure,
        )

        result = measure(repeats=repeats, rounds=rounds)
    _print_result(result, json_=json_)


@bench.command("scale", epilog="Example: wardround bench scale --json")
def bench_scale(
    json_: Json = False,
    sites: Annotated[
        str, typer.Option(help="Numbers of virtual sites, with commas.")
    ] = "10,100,1000",
) -> None:
    """10, 100 and 1,000 virtual sites on the same total of data."""
    counts = _counts(sites)
    with errors():
        from wardround_simulations.benchmarks.scale import (  # noqa: PLC0415 - imports torch
            bench_scale as measure,
        )

        result = measure(sites=counts)
    _print_result(result, json_=json_)


@bench.command("secure-aggregation", epilog="Example: wardround bench secure-aggregation --json")
def bench_secure_aggregation(json_: Json = False) -> None:
    """One site's and the server's work, beside Flower's own primitives on the same vector."""
    with errors():
        from wardround_simulations.benchmarks.secure_aggregation import (  # noqa: PLC0415
            bench_secure_aggregation as measure,
        )
        from wardround_simulations.benchmarks.secure_study import (  # noqa: PLC0415
            bench_secure_study,
        )

        result = measure() | {"study": bench_secure_study(repeats=3)}
    _print_result(result, json_=json_)


@bench.command("dp", epilog="Example: wardround bench dp --json")
def bench_dp(json_: Json = False) -> None:
    """A step of DP-SGD per record and per patient, beside a plain step and Opacus."""
    with errors():
        from wardround_simulations.benchmarks.dp import (  # noqa: PLC0415 - imports Opacus
            bench_dp as measure,
        )

        result = measure()
    _print_result(result, json_=json_)


@bench.command("deployment", epilog="Example: wardround bench deployment --json")
def bench_deployment(
    rounds: Annotated[int, typer.Option(help="Rounds to measure.", min=2)] = 10,
    json_: Json = False,
) -> None:
    """Seconds per round of three idle sites over TLS on loopback, beside stock Flower."""
    with errors():
        from wardround_simulations.benchmarks.deployment import (  # noqa: PLC0415 - takes a while
            bench_deployment as measure,
        )

        result = measure(rounds=rounds)
    _print_result(result, json_=json_)


def _print_result(result: dict[str, Any], *, json_: bool) -> None:
    if json_:
        print_json(result)
        return
    for key, value in result.items():
        if key == "rows":
            for row in value:
                say(", ".join(f"{k} {_figure(v)}" for k, v in row.items()))
        else:
            say(f"{key}: {_figure(value)}")


def _figure(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _counts(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise typer.BadParameter(
            f"{text!r} is no list of whole numbers with commas, such as 10,100.",
            param_hint="--sites",
        )
    return tuple(map(int, parts))
