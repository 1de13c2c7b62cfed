"""`wardround`: the researcher's command."""

import dataclasses
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from wardround_shared.commands import Json
from wardround_shared.commands import errors as _errors
from wardround_shared.commands import interrupted as _interrupted
from wardround_shared.commands import print_json as _print_json
from wardround_shared.errors import RunError
from wardround_shared.study import Study, load_study
from wardround_shared.terminal import accept_every_letter, say
from wardround_simulations.backends import warm_pool
from wardround_simulations.benchmarks.command import bench
from wardround_simulations.closing import closing_lines, metrics_line
from wardround_simulations.explaining.command import explain
from wardround_simulations.exporting.command import export
from wardround_simulations.generating.command import generate
from wardround_simulations.options import Cache, default_cache, find_study
from wardround_simulations.prediction.command import predict
from wardround_simulations.serving.command import serve
from wardround_simulations.tuning.command import tune

app = typer.Typer(
    help="Wardround: one model learned across hospitals, and no record ever moved.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

app.add_typer(bench, name="bench")

EMBEDDED = "phantom"


class BackendName(StrEnum):
    """How virtual sites are run."""

    inline = "inline"
    process = "process"
    ray = "ray"


class DeviceName(StrEnum):
    """Where models are trained."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


@app.command(
    epilog="Example: wardround simulate heart-disease --data ../shared/data/heart-disease-uci"
)
def simulate(  # noqa: PLR0917 - the command's options
    study: Annotated[
        str | None, typer.Argument(help="Study file or name [default: the embedded phantom].")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder where the study's files lie.")] = None,
    sites: Annotated[
        int | None, typer.Option(min=1, help="Deal the patients to so many virtual sites.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Instead of the study's.")] = None,
    backend: Annotated[BackendName, typer.Option()] = BackendName.process,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes [default: one a core].")
    ] = None,
    device: Annotated[DeviceName, typer.Option()] = DeviceName.auto,
    out: Annotated[
        Path | None, typer.Option(help="The run folder [default: runs/NAME-TIME].")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of everything but noise.")] = 0,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a study key.")
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(help="Policy of every virtual site [default: allows the study's epsilon]."),
    ] = None,
    homes: Annotated[
        Path | None,
        typer.Option(help="Folder of the sites' homes, whose ledgers go on from run to run."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Start from the weights in this file (docs/models.md).")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Train pooled, each site alone and federated.")
    ] = False,
    repeat: Annotated[
        int | None, typer.Option(min=1, max=100, help="With --compare: mean over so many seeds.")
    ] = None,
    noise_seed: Annotated[
        int | None,
        typer.Option(help="Inject seeded noise for a test: nothing is private then.", hidden=True),
    ] = None,
    cache: Cache = None,
    json_: Json = False,
) -> None:
    """Run a study with virtual sites on this machine and leave a run folder."""
    overrides = list(set_ or [])
    if rounds is not None:
        overrides.append(f"training.rounds={rounds}")
    with _errors():
        file = find_study(study or EMBEDDED)
        chosen = load_study(file, overrides)
        if repeat and not compare:
            raise RunError("--repeat: it repeats a comparison; write --compare as well.")
        workers = workers or os.cpu_count() or 1
        # Workers import torch while this process does.
        pool = None if compare else warm_pool(backend.value, workers=workers, device=device.value)
        from wardround_client.policy import load_policy  # noqa: PLC0415 - after the pool's start
        from wardround_simulations.federation import simulate as run  # noqa: PLC0415
        from wardround_simulations.settings import Settings  # noqa: PLC0415 - imports torch

        settings = Settings(
            study=chosen,
            data=data,
            sites=sites,
            backend=backend.value,
            workers=workers,
            device=device.value,
            out=out,
            seed=seed,
            cache=cache or default_cache(),
            noise_seed=noise_seed,
            policy=None if policy is None else load_policy(policy),
            homes=homes,
            weights=weights,
        )
        if compare:
            from wardround_simulations.comparison.command import (  # noqa: PLC0415 - imports torch
                compare_and_print,
            )

            compare_and_print(file, overrides, settings, repeats=repeat or 1, json_=json_)
            return
        with _observer(chosen, json_=json_) as observer:
            try:
                summary = run(settings, observer, pool=pool)
            except KeyboardInterrupt:
                if not observer.begun:
                    raise
                raise _interrupted("; the run folder says so") from None
        report = _report(Path(summary["run"]))
    if json_:
        _print_json(summary)
        return
    for line in closing_lines(summary):
        say(line)
    say(f"report: {report}")


@app.command(epilog="Example: wardround evaluate runs/heart-disease-... --data ../held-out")
def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder of the same form as the study's data.")
    ] = None,
    cache: Cache = None,
    json_: Json = False,
) -> None:
    """Evaluate a run's model on all examples of a folder, overall and per site."""
    with _errors():
        from wardround_simulations.evaluation import evaluate_run  # noqa: PLC0415 - imports torch

        result = evaluate_run(run, data, cache=cache or default_cache())
    if json_:
        _print_json(result)
        return
    for note in result["notes"]:
        say(f"note: {note}")
    if result["privacy"] == "none":
        say("The model was trained WITHOUT differential privacy (mechanism = none).")
    say(metrics_line("all", result["metrics"]))
    for site, measured in result["per_site"].items():
        say(metrics_line(site, measured))


@app.command(epilog="Example: wardround models --json")
def models(json_: Json = False) -> None:
    """List the models that a study may have, with what they take and how large they are."""
    from wardround_shared.commands import add_row, console, table  # noqa: PLC0415
    from wardround_shared.models.catalogue import catalogue  # noqa: PLC0415 - imports torch

    listed = catalogue()
    if json_:
        _print_json({"models": [dataclasses.asdict(one) for one in listed]})
        return
    shown = table("Models", "model", "takes", "of shape, say", "parameters", "what it is")
    for one in listed:
        shape = " and ".join(" x ".join(map(str, part)) for part in one.shapes)
        add_row(shown, one.name, one.takes, shape, f"{one.parameters:,}", one.about)
    console().print(shown)
    say("Settings and their defaults: docs/study-file.md, or --json.")


@app.command(epilog="Example: wardround report runs/heart-disease-...")
def report(run: Annotated[Path, typer.Argument(help="Run folder.")]) -> None:
    """Write report.html, one self-contained file, into a run folder."""
    with _errors():
        say(_report(run))


@app.command(epilog="Example: wardround audit runs/heart-disease-... --data ../heart-disease-uci")
def audit(  # noqa: PLR0917 - the command's options
    run: Annotated[Path, typer.Argument(help="Folder of a finished private run.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder of the run's data; none for the embedded study.")
    ] = None,
    site: Annotated[
        str | None, typer.Option(help="By name [default: the one with most patients].")
    ] = None,
    canaries: Annotated[
        int, typer.Option(min=20, max=100_000, help="Made-up patients, each in it by a coin.")
    ] = 2000,
    epsilon: Annotated[
        float | None,
        typer.Option(help="What the audited training promises [default: the run's, at most 2]."),
    ] = None,
    cache: Cache = None,
    json_: Json = False,
) -> None:
    """Train a site with canaries in it and test whether they can be told: is epsilon true?

    Exits with 1 if the audit refutes it.
    """
    with _errors():
        from wardround_simulations.auditing import (  # noqa: PLC0415 - imports torch
            AuditSettings,
            audit_run,
            lines_of,
            rounds_on,
        )

        settings = AuditSettings(
            run=run,
            data=data,
            site=site,
            canaries=canaries,
            epsilon=epsilon,
            cache=cache or default_cache(),
        )
        result = audit_run(settings, watched=rounds_on(sys.stderr if json_ else sys.stdout))
    if json_:
        _print_json(result)
    else:
        for line in lines_of(result):
            say(line)
    if result["verdict"] == "broken":
        raise typer.Exit(1)


app.command(epilog="Example: wardround predict runs/heart new-patients.csv")(predict)
app.command(epilog="Example: wardround serve runs/heart")(serve)
app.command(epilog="Example: wardround explain runs/chest scan.dcm --out explained")(explain)
app.command(epilog="Example: wardround export runs/heart --format onnx --out heart.onnx")(export)
app.command(epilog="Example: wardround generate runs/pneumonia-images --out made")(generate)
app.command(epilog="Example: wardround tune heart-disease --data ../heart-disease-uci")(tune)


def main() -> None:
    """Entry point."""
    # Before numpy is loaded: its small matrix products gain nothing from threads, and threads that
    # wait for one another on a busy machine make them a thousand times slower.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    accept_every_letter()
    app()


def _report(run: Path) -> Path:
    from wardround_simulations.report import write_report  # noqa: PLC0415 - imports matplotlib

    return write_report(run)


@contextmanager
def _observer(study: Study, *, json_: bool) -> Iterator[Any]:
    from wardround_simulations.progress import Bars, PlainLines  # noqa: PLC0415 - imports torch

    rounds = study.training.rounds
    stream = sys.stderr if json_ else sys.stdout
    if stream.isatty():
        with Bars(rounds, Console(file=stream)) as bars:
            yield bars
    else:
        yield PlainLines(rounds, stream)
