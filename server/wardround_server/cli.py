"""`wardround-server`: the coordinating centre's command."""

import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from wardround_shared.commands import (
    Json,
    Yes,
    confirm,
    errors,
    log_in_order,
    new_app,
    print_json,
    verify_audit_log,
)
from wardround_shared.terminal import accept_every_letter, say

app = new_app("Wardround at the coordinating centre: sites, studies, runs.")
certificates = new_app("The server's certificate and the authority behind it.")
audit = new_app("The audit log; docs/audit-log.md explains it.")
app.add_typer(certificates, name="certificates")
app.add_typer(audit, name="audit")

Home = Annotated[
    Path,
    typer.Option(envvar="WARDROUND_SERVER_HOME", help="Folder of this server.", show_default=False),
]
Key = Annotated[
    Path | None,
    typer.Option(
        "--consortium-key",
        help="The consortium's private key, where it is not kept in the home.",
        show_default=False,
    ),
]
RunName = Annotated[str, typer.Argument(help="Name of the run, as `status` shows it.")]


@app.command(
    epilog="Example: wardround-server init --home /var/lib/wardround-server "
    "--address wardround.example.org:9092"
)
def init(  # noqa: PLR0917 - typer reads them
    home: Home,
    address: Annotated[str, typer.Option(help="Where sites reach this server: host:port.")],
    name: Annotated[
        list[str] | None,
        typer.Option(help="A further host name or address for the certificate; may be repeated."),
    ] = None,
    listen_host: Annotated[
        str | None, typer.Option(help="Address of this machine to listen at; without it, all.")
    ] = None,
    listen_port: Annotated[
        int | None, typer.Option(help="Port to listen at, if not that of --address.")
    ] = None,
    health_port: Annotated[int | None, typer.Option(help="Port of gRPC health.")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Port of /metrics.")] = None,
    consortium_key: Key = None,
) -> None:
    """Make the folder of a server: keys, certificates, settings, an empty roster."""
    with errors():
        from wardround_server.enrolment.home import ServerHome  # noqa: PLC0415 - takes a while
        from wardround_server.enrolment.settings import settings_text  # noqa: PLC0415

        settings = settings_text(
            address=address,
            names=tuple(name or ()),
            listen_host=listen_host,
            listen_port=listen_port,
            health_port=health_port,
            metrics_port=metrics_port,
        )
        made = ServerHome.init(
            home, settings=settings, now=datetime.now(UTC), consortium_key=consortium_key
        )
        log_in_order(made.audit_log).append("made")
    kept = consortium_key or made.consortium_private
    say(f"{home} is ready; its settings are in {made.settings_file}.")
    say(f"The consortium's private key is {kept}: copy it to a safe, see docs/enrolment.md.")
    say(f"Next: wardround-server start --home {home}")


@app.command(
    epilog="Example: wardround-server admit north.wardround-request "
    "--home /var/lib/wardround-server"
)
def admit(
    request: Annotated[Path, typer.Argument(help="The site's request file.")],
    home: Home,
    answer: Annotated[
        Path | None,
        typer.Option(help="Where to write the answer; without it, beside the request."),
    ] = None,
    consortium_key: Key = None,
    yes: Yes = False,
) -> None:
    """Show a request, ask, and put its site into the roster; nobody else is touched."""
    with errors():
        from wardround_server.enrolment import admission  # noqa: PLC0415 - takes a while
        from wardround_server.enrolment.home import ServerHome  # noqa: PLC0415

        opened = ServerHome.open(home)
        candidate = admission.read_request(opened, request)
        say(f"{candidate.site}: {candidate.step.value}.")
        say("Fingerprint of its keys, to be read to you by the hospital over the telephone:")
        say(f"    {candidate.fingerprint}")
        confirm(f"Is it the same, and shall {candidate.site} be admitted?", yes=yes)
        log = log_in_order(opened.audit_log)
        admitted = admission.admit(
            opened,
            candidate,
            answer=request.with_suffix(".wardround-answer") if answer is None else answer,
            now=datetime.now(UTC),
            consortium_key=consortium_key,
            noted=lambda version: log.append("admitted", site=candidate.site, version=version),
        )
    say(f"{admitted.site} is in version {admitted.version} of the roster.")
    say(f"Send {admitted.answer} to it, and read it this fingerprint over the telephone:")
    say(f"    {admitted.fingerprint}")


@app.command(epilog="Example: wardround-server revoke north --home /var/lib/wardround-server")
def revoke(
    site: Annotated[str, typer.Argument(help="Its name in the roster.")],
    home: Home,
    consortium_key: Key = None,
    yes: Yes = False,
) -> None:
    """Take a site out of the roster; it cannot connect from then on."""
    with errors():
        from wardround_server.enrolment import admission  # noqa: PLC0415 - takes a while
        from wardround_server.enrolment.home import ServerHome  # noqa: PLC0415

        opened = ServerHome.open(home)
        confirm(f"Shall {site} be taken out of the roster?", yes=yes)
        log = log_in_order(opened.audit_log)
        revoked = admission.revoke(
            opened, site, now=datetime.now(UTC), consortium_key=consortium_key
        )
        log.append("revoked", site=site, version=revoked.version)
    say(f"{site} is not in version {revoked.version} of the roster any more.")


@app.command(epilog="Example: wardround-server start --home /var/lib/wardround-server")
def start(home: Home) -> None:
    """Serve until SIGTERM: sites connect, and runs that were submitted go on."""
    with errors():
        from wardround_server.daemon.service import serve  # noqa: PLC0415 - takes a while
        from wardround_server.enrolment.home import ServerHome  # noqa: PLC0415

        opened = ServerHome.open(home)
        settings = opened.settings()
        say(
            f"serving at {settings.listen.host}:{settings.listen.port}, for sites "
            f"{settings.address}; end with Ctrl-C or SIGTERM"
        )
        serve(opened)


@app.command(
    epilog="Example: wardround-server submit heart-disease.toml --home /var/lib/wardround-server"
)
def submit(  # noqa: PLR0917 - typer reads them
    study: Annotated[str, typer.Argument(help="A study file.")],
    home: Home,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a key of the study, e.g. training.rounds=5."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run.")] = None,
    site: Annotated[
        list[str] | None,
        typer.Option(help="A site that the run waits for and is of; may be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the initial model.")] = 0,
    weights: Annotated[
        Path | None, typer.Option(help="Start from the weights in this file (docs/models.md).")
    ] = None,
    json_: Json = False,
) -> None:
    """Check a study and ask for a run of it; sites decide for themselves whether they take part."""
    with errors():
        from wardround_server.daemon.runs import Runs  # noqa: PLC0415 - takes a while
        from wardround_server.enrolment.home import ServerHome  # noqa: PLC0415
        from wardround_shared.study import load_study  # noqa: PLC0415

        opened = ServerHome.open(home)
        loaded = load_study(Path(study), overrides=set_ or [])
        start = None
        if weights is not None:
            from wardround_server.initial_weights import read_weights  # noqa: PLC0415 - torch

            start = read_weights(weights)
        _require_admitted(opened, site or [])
        log = log_in_order(opened.audit_log)
        record = Runs(opened.runs).submit(
            loaded,
            name=name,
            seed=seed,
            now=datetime.now(UTC),
            sites=tuple(site or ()),
            start=start,
        )
        log.append("submitted", run=record.name, study=record.study_id)
    if json_:
        print_json(dataclasses.asdict(record))
        return
    say(f"run {record.name} is submitted; study id {record.study_id}")
    say(f"Each site has to approve it: wardround-site study show {record.study_id[:12]}")


@app.command(epilog="Example: wardround-server stop heart-disease-20260101-120000")
def stop(run: RunName, home: Home) -> None:
    """Stop a run between two steps; `resume` goes on with it."""
    with errors():
        from wardround_server.daemon.runs import Runs  # noqa: PLC0415 - takes a while
        from wardround_server.enrolment.home import ServerHome  # noqa: PLC0415

        opened = ServerHome.open(home)
        log = log_in_order(opened.audit_log)
        record = Runs(opened.runs).change(run, "stopped", only={"submitted", "running"})
        if record.state != "stopped":
            raise _not_possible(run, record.state, "stopped")
        log.append("stopped", run=run)
    say(f"run {run} is stopped.")


@app.command(epilog="Example: wardround-server resume heart-disease-20260101-120000")
def resume(run: RunName, home: Home) -> None:
    """Go on with a run that was stopped, or that failed."""
    with errors():
        from wardround_server.daemon.runs import Runs  # noqa: PLC0415 - takes a while
        from wardround_server.enrolment.home import ServerHome  # noqa: PLC0415

        opened = ServerHome.open(home)
        log = log_in_order(opened.audit_log)
        record = Runs(opened.runs).change(run, "submitted", only={"stopped", "failed"})
        if record.state != "submitted":
            raise _not_possible(run, record.state, "resumed")
        log.append("resumed", run=run)
    say(f"run {run} goes on when the daemon looks next.")


@app.command(epilog="Example: wardround-server status --watch")
def status(
    home: Home,
    watch: Annotated[bool, typer.Option(help="Show it again and again, until Ctrl-C.")] = False,
    json_: Json = False,
) -> None:
    """Sites and runs: who is connected, which round, who is waited for and since when."""
    with errors():
        from wardround_server.daemon.overview import (  # noqa: PLC0415 - takes a while
            overview,
            print_overview,
            watch_overview,
        )
        from wardround_server.enrolment.home import ServerHome  # noqa: PLC0415

        opened = ServerHome.open(home)
        if watch:
            watch_overview(opened)
        elif json_:
            print_json(overview(opened))
        else:
            print_overview(overview(opened))


@app.command(epilog="Example: wardround-server export heart-disease-20260101-120000 --out result")
def export(
    run: RunName,
    home: Home,
    out: Annotated[Path, typer.Option(help="Folder to make.")],
) -> None:
    """Copy what a finished run has given: model, study, roster lines, metrics, report."""
    with errors():
        from wardround_server.daemon.exports import export_run  # noqa: PLC0415 - takes a while
        from wardround_server.enrolment.home import ServerHome  # noqa: PLC0415

        opened = ServerHome.open(home)
        log = log_in_order(opened.audit_log)
        sentence = export_run(opened.runs, run, out)
        log.append("exported", run=run)
    say(sentence)
    say(f"{out} has the run {run}.")


@certificates.command("show", epilog="Example: wardround-server certificates show")
def show_certificate(home: Home, json_: Json = False) -> None:
    """The certificate that sites see, and until when it holds."""
    with errors():
        from wardround_server.enrolment import renewal  # noqa: PLC0415 - takes a while
        from wardround_server.enrolment.home import ServerHome  # noqa: PLC0415

        opened = ServerHome.open(home)
        facts = renewal.certificate_facts(opened)
        under_way = renewal.rotating(opened)
        unheard = renewal.without_authorities(opened) if under_way else ()
    content = {
        "names": list(facts.names),
        "serial": facts.serial,
        "ends": facts.ends.isoformat(),
        "authority_ends": facts.authority_ends.isoformat(),
        "rotating": under_way,
        "not_heard": list(unheard),
    }
    if json_:
        print_json(content)
        return
    say(f"for {', '.join(facts.names)}; serial {facts.serial}")
    say(f"valid until {facts.ends:%Y-%m-%d}, its authority until {facts.authority_ends:%Y-%m-%d}")
    if under_way:
        say("a change of the authority is under way; end it with `certificates finish`")
    if unheard:
        say(f"not known to have heard of it: {', '.join(unheard)}")


@certificates.command(epilog="Example: wardround-server certificates renew")
def renew(home: Home) -> None:
    """A new server certificate by the same authority; the daemon takes it up by itself."""
    with errors():
        from wardround_server.enrolment import renewal  # noqa: PLC0415 - takes a while
        from wardround_server.enrolment.home import ServerHome  # noqa: PLC0415

        opened = ServerHome.open(home)
        log = log_in_order(opened.audit_log)
        facts = renewal.renew_server(opened, now=datetime.now(UTC))
        log.append("certificate", until=facts.ends)
    say(f"The server's certificate is valid until {facts.ends:%Y-%m-%d}.")


@certificates.command(
    epilog="Example: wardround-server certificates rotate --consortium-key /media/key/private.pem"
)
def rotate(home: Home, consortium_key: Key = None) -> None:
    """Begin a change of the authority: sites learn to trust the old and the new one."""
    with errors():
        from wardround_server.enrolment import renewal  # noqa: PLC0415 - takes a while
        from wardround_server.enrolment.home import ServerHome  # noqa: PLC0415

        opened = ServerHome.open(home)
        log = log_in_order(opened.audit_log)
        facts = renewal.rotate_ca(opened, now=datetime.now(UTC), consortium_key=consortium_key)
        log.append("roster", version=facts.version)
    say(
        f"Version {facts.version} of the roster names both authorities. When every site has it "
        "(each run brings it), end with: wardround-server certificates finish"
    )


@certificates.command(
    epilog="Example: wardround-server certificates finish --consortium-key /media/key/private.pem"
)
def finish(
    home: Home,
    consortium_key: Key = None,
    at_once: Annotated[
        bool, typer.Option("--at-once", help="Cut off sites that have not heard of it.")
    ] = False,
) -> None:
    """End a change of the authority: the old one is trusted no more."""
    with errors():
        from wardround_server.enrolment import renewal  # noqa: PLC0415 - takes a while
        from wardround_server.enrolment.home import ServerHome  # noqa: PLC0415

        opened = ServerHome.open(home)
        log = log_in_order(opened.audit_log)
        facts = renewal.finish_rotation(
            opened, now=datetime.now(UTC), consortium_key=consortium_key, at_once=at_once
        )
        log.append("certificate", until=facts.certificate.ends)
    say(f"Version {facts.version} of the roster names the new authority only.")


@audit.command(epilog="Example: wardround-server audit verify")
def verify(
    home: Home,
    head: Annotated[
        str | None, typer.Option(help="A head that was written down earlier: NUMBER:HASH.")
    ] = None,
    json_: Json = False,
) -> None:
    """Check every line and hash of the audit log, offline."""
    verify_audit_log(home / "audit.jsonl", known=head, json_=json_)


def main() -> None:
    """Entry point."""
    accept_every_letter()
    app()


def _require_admitted(home: Any, sites: list[str]) -> None:
    """A run would wait without end for a site that nobody knows."""
    from wardround_server.enrolment.rosters import current_roster  # noqa: PLC0415
    from wardround_shared.errors import RunError  # noqa: PLC0415

    roster = current_roster(home)
    for site in sites:
        if roster.line(site) is None:
            names = ", ".join(line.site for line in roster.lines) or "nobody"
            raise RunError(
                f"{site[:64]} is not in the roster of version {roster.version}, which has {names}; "
                "admit it first."
            )


def _not_possible(run: str, state: str, wanted: str) -> Exception:
    from wardround_shared.errors import RunError  # noqa: PLC0415

    return RunError(f"The run {run} is {state}, so it cannot be {wanted}.")
