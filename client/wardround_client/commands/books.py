"""`wardround-site ledger` and `wardround-site audit`: what this site can prove of itself."""

from typing import Annotated

import typer

from wardround_client.commands.options import Home
from wardround_shared.commands import (
    Json,
    errors,
    new_app,
    print_json,
    verify_audit_log,
)
from wardround_shared.terminal import say

ledger = new_app("The account of privacy spent; docs/ledger.md explains it.")
audit = new_app("The audit log; docs/audit-log.md explains it.")

POLICY = "policy.toml"
"""Name of the policy file in the site's home."""


@ledger.command("show", epilog="Example: wardround-site ledger show --home /var/lib/wardround-site")
def show_ledger(home: Home, json_: Json = False) -> None:
    """What each population and study has spent, what is left, and every reservation."""
    with errors():
        from wardround_client.ledger import Ledger  # noqa: PLC0415 - takes a second
        from wardround_client.ledger.overview import overview  # noqa: PLC0415
        from wardround_client.ledger.tables import print_overview  # noqa: PLC0415
        from wardround_client.policy import load_policy  # noqa: PLC0415

        opened = Ledger.open(home, site=None)
        policy = load_policy(home / POLICY) if (home / POLICY).exists() else None
        content = overview(opened, policy)
    if json_:
        print_json(content)
    else:
        print_overview(content)


@ledger.command(
    "verify", epilog="Example: wardround-site ledger verify --home /var/lib/wardround-site"
)
def verify_ledger(home: Home, json_: Json = False) -> None:
    """Check every row, hash and seal; exit code 1 and one sentence for each fault."""
    with errors():
        from wardround_client.ledger import verify as faults_of  # noqa: PLC0415 - takes a second

        faults = faults_of(home)
    if json_:
        print_json({"sound": not faults, "faults": faults})
    for line in faults or ["The ledger is sound."]:
        if not json_:
            say(line)
    if faults:
        raise typer.Exit(1)


@audit.command("verify", epilog="Example: wardround-site audit verify")
def verify_audit(
    home: Home,
    head: Annotated[
        str | None, typer.Option(help="A head that was written down earlier: NUMBER:HASH.")
    ] = None,
    json_: Json = False,
) -> None:
    """Check every line and hash of the audit log, offline."""
    verify_audit_log(home / "audit.jsonl", known=head, json_=json_)
