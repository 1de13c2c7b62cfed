"""`wardround-site keys`."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from wardround_client.commands.options import Home
from wardround_client.commands.site import say_request
from wardround_shared.commands import (
    errors,
    log_in_order,
    new_app,
)
from wardround_shared.terminal import say

keys = new_app("The keys of this site; docs/enrolment.md.")


@keys.command(epilog="Example: wardround-site keys rotate north.wardround-request")
def rotate(
    request: Annotated[Path, typer.Argument(help="Where to write the request for new keys.")],
    home: Home,
    afresh: Annotated[
        bool,
        typer.Option("--afresh", help="Without the old keys' word: they were stolen, or revoked."),
    ] = False,
) -> None:
    """Make new keys and ask for them; the old ones hold until the roster has the new ones."""
    with errors():
        from wardround_client.enrolment import rotation  # noqa: PLC0415 - takes a while
        from wardround_client.enrolment.home import SiteHome  # noqa: PLC0415

        opened = SiteHome.open(home)
        log = log_in_order(opened.audit_log)
        facts = rotation.rotate(opened, request, now=datetime.now(UTC), afresh=afresh)
        log.append("keys", site=facts.site)
    say_request(facts)


@keys.command(epilog="Example: wardround-site keys abandon")
def abandon(home: Home) -> None:
    """Forget new keys that were asked for and never admitted."""
    with errors():
        from wardround_client.enrolment import rotation  # noqa: PLC0415 - takes a while
        from wardround_client.enrolment.home import SiteHome  # noqa: PLC0415
        from wardround_shared.audit_log import Told  # noqa: PLC0415

        opened = SiteHome.open(home)
        log = log_in_order(opened.audit_log)
        forgotten = rotation.abandon(opened)
        if forgotten:
            why = Told("The new keys that were asked for are forgotten.")
            log.append("keys", site=opened.settings().name, reason=why)
    if forgotten:
        say("The new keys are forgotten; the ones in force stay.")
    else:
        say("There are no new keys, so nothing was forgotten; the ones in force stay.")
