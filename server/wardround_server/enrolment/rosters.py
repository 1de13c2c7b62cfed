"""The versions of the roster in the server's home: each is kept, and none is changed."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from wardround_server.enrolment.heard import heard
from wardround_server.enrolment.home import ServerHome
from wardround_shared.consortium import files
from wardround_shared.consortium.fields import iso_time, moment_of, node_key_pem
from wardround_shared.consortium.roster_file import RosterLine, SignedRoster
from wardround_shared.errors import EnrolmentError, TrustError

OVERLAP = timedelta(days=14)
"""How long at least a node key that was replaced may still connect.

A site that is not known to have the news may for longer: they come over that connection.
"""


def current_roster(home: ServerHome) -> SignedRoster:
    """The version in force.

    Raises:
        EnrolmentError: it cannot be read.
        TrustError: it is not signed by the consortium's key.
    """
    return _read(home, home.roster)


def history(home: ServerHome) -> list[SignedRoster]:
    """All versions, the first one first, the one in force last.

    A home that took a roster back from a site may lack versions between.

    Raises:
        EnrolmentError: one cannot be read.
        TrustError: one is not signed by the consortium's key, or is another version than it says.
    """
    newest = current_roster(home)
    versions = []
    for number in range(1, newest.version):
        file = home.roster_version(number)
        if file.exists():
            versions.append(_read(home, file))
            if versions[-1].version != number:
                raise TrustError(f"{file}: this is version {versions[-1].version}, moved here.")
    return [*versions, newest]


def following(
    home: ServerHome,
    key: Ed25519PrivateKey,
    *,
    now: datetime,
    lines: Iterable[RosterLine] | None = None,
    authorities: str | None = None,
) -> SignedRoster:
    """The version after the one in force, with other lines or other authorities; not stored yet.

    Raises:
        EnrolmentError: the clock is behind the version in force.
    """
    known = current_roster(home)
    if now < moment_of(known.issued):
        raise EnrolmentError(
            f"This machine's clock says {iso_time(now)}, and version {known.version} of the "
            f"roster is of {known.issued}; set the clock first."
        )
    return SignedRoster.sign(
        key,
        version=known.version + 1,
        issued=iso_time(now),
        authorities=known.authorities if authorities is None else authorities,
        lines=known.lines if lines is None else lines,
    )


def storing(home: ServerHome, roster: SignedRoster) -> dict[Path, bytes | None]:
    """The changes that put a version in force, for `files.change_together`."""
    data = roster.to_bytes()
    return {home.roster_version(roster.version): data, home.roster: data}


def take_back(home: ServerHome, data: bytes) -> SignedRoster:
    """Put a newer roster of this consortium in force, as a site has it.

    This is for a home that was restored from a backup: sites refuse a second form of a version
    that they know, so the server has to go on from the newest one.

    Raises:
        EnrolmentError: no whole roster.
        TrustError: not signed by the consortium's key, or not newer.
    """
    roster = SignedRoster.parse(data)
    roster.verify(home.consortium())
    with files.changing(home.folder):
        roster.require_newer(current_roster(home))
        files.change_together(home.folder, storing(home, roster))
    return roster


def node_keys(home: ServerHome, *, now: datetime) -> dict[bytes, str]:
    """Which node keys may connect: key in PEM, as Flower registers it -> site.

    These are the keys of the version in force, and those that they have replaced within `OVERLAP`,
    or at a site that is not known to have heard of it.

    Raises:
        EnrolmentError, TrustError: as for `history`.
    """
    versions = history(home)
    allowed = {line.node_key: line.site for line in versions[-1].lines}
    known = heard(home)
    for at, newer in enumerate(versions[1:], start=1):
        recent = now - moment_of(newer.issued) < OVERLAP
        for line in versions[at - 1].lines:
            if not recent and known.get(line.site, 0) >= newer.version:
                continue
            # Not of a site that is gone, or was gone for a while: that was a revocation.
            if all(later.line(line.site) for later in versions[at:]):
                allowed.setdefault(line.node_key, line.site)
    return {node_key_pem(line): site for line, site in allowed.items()}


def _read(home: ServerHome, file: Path) -> SignedRoster:
    roster = SignedRoster.parse(files.read_file(file), origin=str(file))
    roster.verify(home.consortium())
    return roster
