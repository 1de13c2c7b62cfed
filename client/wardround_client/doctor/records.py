"""What the site keeps: settings, keys, policy, ledger, audit log, roster."""

from collections.abc import Iterator

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from wardround_client.doctor.finding import Finding, fail, ok, warn
from wardround_client.doctor.surroundings import Examined
from wardround_client.enrolment.keys import SiteKeys
from wardround_client.ledger import verify as ledger_faults
from wardround_client.policy import load_policy
from wardround_shared import audit_log
from wardround_shared.consortium.documents import read_bytes
from wardround_shared.consortium.roster_file import SignedRoster
from wardround_shared.consortium.signatures import load_public_key, public_hex
from wardround_shared.errors import AuditError, EnrolmentError, PolicyError, TrustError


def settings_findings(examined: Examined) -> Iterator[Finding]:
    """What is wrong with the settings or the home as a whole; nothing if they are in order."""
    if examined.settings:
        yield fail(
            "settings",
            examined.settings,
            "Correct it, or bring the home back from a backup, and run this as the site's own "
            "user; what rests on it was not looked at.",
        )


def record_findings(examined: Examined) -> Iterator[Finding]:
    """Everything that is kept here."""
    yield check_keys(examined)
    yield check_policy(examined)
    yield check_ledger(examined)
    yield check_audit_log(examined)
    if examined.name is not None and examined.server is not None:
        yield check_roster(examined, examined.name)


def check_keys(examined: Examined) -> Finding:
    """Whether both private keys can be used."""
    try:
        SiteKeys.read(examined.keys)
    except EnrolmentError as error:
        return fail(
            "keys",
            str(error),
            "Do what the line says, or bring the file back from a backup; make no new home, since "
            "the ledger is in this one.",
        )
    return ok("keys", "Both private keys can be used.")


def check_policy(examined: Examined) -> Finding:
    """Whether the policy can be read."""
    try:
        policy = load_policy(examined.policy)
    except PolicyError as error:
        return fail("policy", str(error), "Correct it; docs/site-policy.md has every key.")
    hours = f", {policy.rules.hours} only" if policy.rules.hours else ""
    return ok(
        "policy", f"The policy is sound: epsilon {policy.privacy.epsilon:g} a data set{hours}."
    )


def check_ledger(examined: Examined) -> Finding:
    """Whether the ledger is sound."""
    faults = ledger_faults(examined.home, site=examined.name)
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        return fail(
            "ledger",
            f"{faults[0].rstrip('.')}{more}.",
            "See docs/ledger.md, which says what each fault means; do not remove anything.",
        )
    return ok("ledger", "The ledger is sound.")


def check_audit_log(examined: Examined) -> Finding:
    """Whether the chain of the audit log holds."""
    if not examined.audit_log.exists():
        return warn(
            "audit log",
            "There is no audit log yet.",
            "That is right on a new site only; otherwise find out who removed it.",
        )
    faults = audit_log.verify(examined.audit_log)
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        return fail(
            "audit log",
            f"{faults[0].rstrip('.')}{more}.",
            "See docs/audit-log.md; keep the file as it is.",
        )
    try:
        return ok(
            "audit log",
            f"The audit log is sound; its head is {audit_log.head(examined.audit_log)}.",
        )
    except AuditError as error:
        return fail("audit log", str(error), "See docs/audit-log.md; keep the file as it is.")


def check_roster(examined: Examined, name: str) -> Finding:
    """Whether the roster is the consortium's, and this site is in it with its keys."""
    try:
        roster = SignedRoster.parse(read_bytes(examined.roster), origin="server/roster.json")
        signer = load_public_key(read_bytes(examined.consortium), origin="server/consortium.pem")
        roster.verify(signer)
    except TrustError as error:
        return fail("roster", str(error), "Call the coordinating centre before anything else.")
    except EnrolmentError as error:
        return fail("roster", str(error), "Take the answer file again with wardround-site join.")
    line = roster.line(name)
    if line is None:
        return fail(
            "roster",
            f"This site, {name}, is not in version {roster.version} of the roster.",
            "Ask the coordinating centre whether it was revoked, or under which name it joined.",
        )
    key = _our_key(examined)
    if key is None:
        return fail(
            "roster",
            f"This site is in version {roster.version} of the roster; whether with its own key "
            "cannot be seen, since that cannot be read.",
            "Mend the keys first: another line names what is wrong with them.",
        )
    if key != line.identity:
        return fail(
            "roster",
            f"Version {roster.version} of the roster has another identity key for this site than "
            "the one that lies here.",
            "If new keys were requested, take the new answer file; otherwise bring the keys back.",
        )
    return ok(
        "roster",
        f"This site is in version {roster.version} of the roster, with {len(roster.lines)} sites.",
    )


def _our_key(examined: Examined) -> str | None:
    """The public identity, Ed25519 in hex; None: the key cannot be read."""
    try:
        private = Ed25519PrivateKey.from_private_bytes(examined.keys.identity.read_bytes())
    except (OSError, ValueError):
        return None
    return public_hex(private)
