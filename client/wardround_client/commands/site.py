"""The site itself: its folder, its place in the consortium, its daemon."""

import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from wardround_client.commands.options import Home
from wardround_shared.commands import (
    Json,
    errors,
    log_in_order,
    print_json,
)
from wardround_shared.errors import EnrolmentError
from wardround_shared.terminal import say


def init(
    name: Annotated[str, typer.Argument(help="Name of this site in the consortium.")], home: Home
) -> None:
    """Make the folder of a site: keys, a policy file with comments, an empty ledger."""
    with errors():
        from wardround_client.enrolment.home import SiteHome  # noqa: PLC0415 - takes a while
        from wardround_shared.audit_log import AuditLog  # noqa: PLC0415

        made = SiteHome.init(home, name)
        AuditLog(made.audit_log).append("made", site=name)
    say(f"{home} is ready; what this site allows is in {made.policy}.")
    say(f"Next: wardround-site join --request {name}.wardround-request --home {home}")


def join(
    home: Home,
    request: Annotated[
        Path | None, typer.Option(help="Write the request for the coordinating centre here.")
    ] = None,
    answer: Annotated[Path | None, typer.Option(help="The answer of the centre.")] = None,
    fingerprint: Annotated[
        str | None, typer.Option(help="The answer's fingerprint, as it was read to you.")
    ] = None,
) -> None:
    """Write a request to the coordinating centre, or take its answer."""
    with errors():
        from wardround_client.enrolment import joining  # noqa: PLC0415 - takes a while
        from wardround_client.enrolment.home import SiteHome  # noqa: PLC0415

        if (request is None) == (answer is None):
            raise EnrolmentError(
                "Give --request FILE to ask for admission, or --answer FILE with --fingerprint to "
                "join with the centre's answer."
            )
        opened = SiteHome.open(home)
        log = log_in_order(opened.audit_log)
        if request is not None:
            facts = joining.write_request(opened, request, now=datetime.now(UTC))
            log.append("requested", site=facts.site)
            say_request(facts)
            return
        assert answer is not None
        spoken = fingerprint or typer.prompt("Fingerprint of the answer, as it was read to you")
        member = joining.accept(opened, answer, fingerprint=spoken, now=datetime.now(UTC))
        log.append("joined", version=member.roster.version)
    say(f"{member.site} has joined; the server is {member.server}.")
    say(f"Version {member.roster.version} of the roster has {len(member.roster.lines)} sites.")
    say(f"Next: wardround-site doctor --home {home}")


def start(home: Home) -> None:
    """Connect to the server and answer until SIGTERM; nothing that is not approved runs."""
    with errors():
        from wardround_client.daemon.service import serve  # noqa: PLC0415 - takes a while
        from wardround_client.enrolment.home import SiteHome  # noqa: PLC0415

        serve(
            SiteHome.open(home),
            ready=lambda server: say(f"connecting to {server}; end with Ctrl-C or SIGTERM"),
        )


def doctor(home: Home, json_: Json = False) -> None:
    """Check the way to the server and this home; a sentence and a remedy for what is wrong."""
    with errors():
        from wardround_client.doctor import examine  # noqa: PLC0415 - takes a while

        found = []
        for finding in examine(_examined(home)):
            found.append(finding)
            if not json_:
                say(f"{finding.state:4}  {finding.check}: {finding.sentence}")
                if finding.remedy:
                    say(f"      {finding.remedy}")
    if json_:
        print_json([dataclasses.asdict(finding) for finding in found])
    if any(finding.state == "fail" for finding in found):
        raise typer.Exit(1)


def _examined(folder: Path) -> Any:
    """What the doctor looks at, however much of it is out of order; only a home has to be there."""
    from wardround_client.doctor import Examined  # noqa: PLC0415 - takes a while
    from wardround_client.enrolment.home import SiteHome  # noqa: PLC0415
    from wardround_client.ledger.anchor import Files  # noqa: PLC0415

    home, settings, fault = SiteHome(folder=folder), None, ""
    try:
        SiteHome.open(folder, keys=False)
        settings = home.settings()
    except EnrolmentError as error:
        if not home.settings_file.exists():
            raise
        fault = str(error)
    return Examined(
        name=None if settings is None else settings.name,
        settings=fault,
        server=None if settings is None else settings.server,
        home=home.folder,
        authorities=home.authorities,
        consortium=home.consortium,
        roster=home.roster,
        keys=home.keys,
        secrets=(home.keys.identity, home.keys.node, Files(home=home.folder).key),
        policy=home.policy,
        audit_log=home.audit_log,
    )


def say_request(facts: Any) -> None:
    """What to do with a request that was written."""
    say(f"Send {facts.file} to the coordinating centre, and read it this over the telephone:")
    say(f"    {facts.fingerprint}")
