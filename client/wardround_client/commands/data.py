"""`wardround-site data`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from wardround_client.commands.options import Home
from wardround_client.commands.studies import study_of
from wardround_shared.commands import (
    Json,
    errors,
    log_in_order,
    new_app,
    print_json,
)
from wardround_shared.terminal import say

data = new_app("The data sets of this site; docs/site-policy.md.")


@data.command(
    "add",
    epilog="Example: wardround-site data add heart /srv/data/heart --source table",
)
def add_data(
    name: Annotated[str, typer.Argument(help="Name for the data set.")],
    path: Annotated[Path, typer.Argument(help="Its folder.")],
    source: Annotated[str, typer.Option(help="Kind of the data, as a study's data.source.")],
    home: Home,
) -> None:
    """Name a folder of data; nothing of it is read yet."""
    with errors():
        from wardround_client.data_sets import DataSets  # noqa: PLC0415 - takes a while
        from wardround_client.enrolment.home import SiteHome  # noqa: PLC0415

        opened = SiteHome.open(home)
        log = log_in_order(opened.audit_log)
        added = DataSets(opened.data_sets).add(name, path, source)
        log.append("data-set", data_set=name)
    say(f"{name} is {added.path} ({added.source}).")


@data.command("list", epilog="Example: wardround-site data list")
def list_data(home: Home, json_: Json = False) -> None:
    """The data sets of this site."""
    with errors():
        from wardround_client.data_sets import DataSets  # noqa: PLC0415 - takes a while
        from wardround_client.enrolment.home import SiteHome  # noqa: PLC0415

        known = DataSets(SiteHome.open(home).data_sets).all()
    if json_:
        print_json({name: {"path": str(d.path), "source": d.source} for name, d in known.items()})
        return
    for name, one in known.items():
        say(f"{name}: {one.path} ({one.source})")
    if not known:
        say("There is none yet; add one with wardround-site data add.")


@data.command("check", epilog="Example: wardround-site data check heart --study heart-disease.toml")
def check_data(
    name: Annotated[str, typer.Argument(help="Name of the data set.")],
    study_: Annotated[
        str, typer.Option("--study", help="A study file, or the id of a study that was offered.")
    ],
    home: Home,
    json_: Json = False,
) -> None:
    """Read all of a data set as a study would: patients, classes, what is left out and why."""
    with errors():
        from wardround_client.data_sets import DataSets, check  # noqa: PLC0415 - takes a while
        from wardround_client.enrolment.home import SiteHome  # noqa: PLC0415
        from wardround_client.policy import load_policy  # noqa: PLC0415

        opened = SiteHome.open(home)
        report = check(
            study_of(opened, study_),
            DataSets(opened.data_sets).get(name),
            site=opened.settings().name,
            cache=opened.cache,
            rules=load_policy(opened.policy).rules,
        )
    if json_:
        print_json(dataclasses.asdict(report))
    else:
        _say_report(report)
    if report.problems:
        raise typer.Exit(1)


@data.command(
    "deidentify",
    epilog="Example: wardround-site data deidentify /srv/ct /srv/ct-project --project lungs",
)
def deidentify_data(
    *,
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="Folder with DICOM files, or one such file.")
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder that is new or empty.")],
    home: Annotated[
        Path | None,
        typer.Option(envvar="WARDROUND_SITE_HOME", help="Folder of this site; it keeps the key."),
    ] = None,
    project: Annotated[
        str, typer.Option(help="What the images are for; projects cannot be linked.")
    ] = "default",
    key: Annotated[
        Path | None, typer.Option(help="A key file of your own in place of the site's.")
    ] = None,
    table: Annotated[
        bool,
        typer.Option(
            "--table", help="Keep a table beside the key of which file and patient is who."
        ),
    ] = False,
    no_text_in: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODALITY",
            help="Somebody has looked at the images of this modality (CR, say): no text in them.",
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Write DICOM images without the patient; docs/deidentification.md says what that means.

    IN is a folder with DICOM files, or one such file; OUT is a folder that is new or empty.
    """
    with errors():
        from wardround_client.deidentification import command  # noqa: PLC0415 - takes a while

        asked = command.Asked(
            home=home, project=project, key=key, table=table, looked_at=tuple(no_text_in or ())
        )
        report, where = command.run(source, output, asked)
    if json_:
        print_json(report.content())
        return
    for line in report.lines():
        say(line)
    if where is not None:
        say(f"{where} says who is who; it must not leave the site.")


def _say_report(report: Any) -> None:
    for title, side in (("training", report.training), ("validation", report.validation)):
        if side is not None:
            patients = "" if side.patients is None else f" of {side.patients} patients"
            classes = ", ".join(f"{name} {count}" for name, count in side.classes.items())
            say(f"{title}: {side.examples} examples{patients} ({classes})")
    say(f"can be used: {report.readable}")
    for reason, count in report.set_aside.items():
        say(f"left out: {count} ({reason})")
    for note in report.notes:
        say(f"note: {note}")
    for problem in report.problems:
        say(f"problem: {problem}")
