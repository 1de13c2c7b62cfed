"""How a site joins: a request, an answer whose fingerprint was read to it, and what comes later.

What a site believes is one file, server/roster.json, under one key, server/consortium.pem; server/
ca.pem and the keys in force follow from it and are changed together with it.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from wardround_client.enrolment.home import SiteHome
from wardround_client.enrolment.keys import SiteKeys
from wardround_client.enrolment.settings import with_server
from wardround_shared import __version__
from wardround_shared.consortium import files
from wardround_shared.consortium.authorities import require_in_force
from wardround_shared.consortium.documents import MAX_BYTES
from wardround_shared.consortium.enrolment import Admission, JoinRequest
from wardround_shared.consortium.fields import iso_time
from wardround_shared.consortium.fingerprints import require_same
from wardround_shared.consortium.roster_file import RosterLine, SignedRoster
from wardround_shared.consortium.signatures import load_public_key, public_pem
from wardround_shared.errors import EnrolmentError, TrustError
from wardround_shared.messages import PROTOCOL_VERSION


@dataclass(frozen=True, kw_only=True)
class RequestFacts:
    """A request that was written.

    Attributes:
        site: who asks.
        file: to be sent to the coordinating centre; no secret.
        fingerprint: to be read to it over the telephone.
    """

    site: str
    file: Path
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class Membership:
    """What this site holds of the consortium.

    Attributes:
        site: its name.
        server: `host:port`.
        consortium: the public key that signs rosters, Ed25519 in hex.
        roster: the newest version that it has.
    """

    site: str
    server: str
    consortium: str
    roster: SignedRoster


@dataclass(frozen=True, kw_only=True)
class RosterNews:
    """What a version of the roster has changed.

    Attributes:
        version: of the roster that this site holds now.
        changed: whether it is another than before; nothing below is set otherwise.
        added: sites that are new in it.
        removed: sites that are gone.
        rekeyed: sites with other keys than before.
        own_keys: whether this site's new keys are in force now: its node has to connect anew.
        authorities: whether the CA certificates are others: likewise.
    """

    version: int
    changed: bool
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    rekeyed: tuple[str, ...] = ()
    own_keys: bool = False
    authorities: bool = False


def write_request(home: SiteHome, file: Path, *, now: datetime) -> RequestFacts:
    """Write a request to be admitted, with the keys of this home.

    Raises:
        EnrolmentError: this site has joined; a key cannot be used; the file cannot be written.
    """
    if home.joined:
        raise EnrolmentError(
            f"{home.folder}: this site has joined a consortium; for new keys run wardround-site "
            "keys rotate; docs/enrolment.md says how to leave for another consortium."
        )
    return send_request(home, file, home.own_keys(), now=now)


def send_request(
    home: SiteHome, file: Path, keys: SiteKeys, *, now: datetime, previous: SiteKeys | None = None
) -> RequestFacts:
    """Write a request for these keys, signed by the previous ones too if they are given.

    Raises:
        EnrolmentError: the file cannot be written.
    """
    request = JoinRequest.sign(
        site=home.settings().name,
        identity=keys.identity,
        node=keys.node,
        software=__version__,
        protocol=PROTOCOL_VERSION,
        made=iso_time(now),
        previous=None if previous is None else previous.identity,
    )
    files.write_for_others(file, request.to_bytes())
    return RequestFacts(site=request.site, file=file, fingerprint=request.fingerprint)


def accept(home: SiteHome, answer: Path, *, fingerprint: str, now: datetime) -> Membership:
    """Join, with an answer whose fingerprint was read to this site.

    The fingerprint is compared before anything else is believed. Everything is stored together or
    not at all. A site that has joined takes a newer answer of the same consortium: new keys, an
    authority that was changed in haste, or a server that has moved.

    Args:
        home: of this site.
        answer: the file.
        fingerprint: as it was read over the telephone.
        now: the time.

    Raises:
        EnrolmentError: no whole answer, no whole fingerprint, or one for another site.
        TrustError: another fingerprint, signature, key or consortium, or an old roster.
    """
    data = files.read_file(answer, most=MAX_BYTES + 1)
    admission = Admission.parse(data, origin=str(answer))
    require_same(fingerprint, admission.fingerprint, of=str(answer))
    admission.verify()
    require_in_force(admission.authorities, now=now, origin=str(answer))
    with files.changing(home.folder):
        if home.joined:
            _require_same_consortium(home, admission)
            admission.roster.require_newer(_stored_roster(home))
        changes, _ = _taking(home, admission.roster)
        text = with_server(home.settings_text(), admission.address, origin=str(home.settings_file))
        changes[home.consortium] = public_pem(admission.consortium)
        changes[home.settings_file] = text.encode()
        files.change_together(home.folder, changes)
    return membership(home)


def take_roster(home: SiteHome, data: bytes, *, now: datetime) -> RosterNews:
    """Take a later version of the roster, from the server or as a file; whence does not matter.

    Args:
        home: of a site that has joined.
        data: the roster.
        now: the time.

    Returns:
        What it has changed; the version that is held already changes nothing.

    Raises:
        EnrolmentError: no whole roster; or this site is not in it any more, so was revoked.
        TrustError: not signed by the consortium's key, older than the one held, another form of
            it, or with other keys for this site than its own.
    """
    roster = SignedRoster.parse(data)
    with files.changing(home.folder):
        known = _stored_roster(home)
        roster.verify(_consortium(home))
        roster.require_newer(known)
        if roster == known:
            return RosterNews(version=known.version, changed=False)
        require_in_force(roster.authorities, now=now, origin=f"roster {roster.version}")
        changes, own_keys = _taking(home, roster)
        files.change_together(home.folder, changes)
    return _news(known, roster, own_keys=own_keys)


def membership(home: SiteHome) -> Membership:
    """What this site holds of the consortium, checked anew.

    Raises:
        EnrolmentError: it has not joined, or a file is damaged.
        TrustError: the roster on disk is not signed by the consortium's key, or has not this
            site's keys.
    """
    if not home.joined:
        raise EnrolmentError(
            f"{home.folder}: this site has not joined; write a request with wardround-site join "
            "--request FILE, and take the answer with --answer FILE."
        )
    settings, consortium, roster = home.settings(), _consortium(home), _stored_roster(home)
    line = _own_line(settings.name, roster)
    if not home.own_keys().are_those_of(line):
        raise TrustError(
            f"{home.roster}: the roster has other keys for {settings.name} than lie in "
            f"{home.keys.folder}; bring the home back from a backup."
        )
    if settings.server is None:
        raise EnrolmentError(f"{home.settings_file}: server: this key is required.")
    return Membership(
        site=settings.name, server=settings.server, consortium=consortium, roster=roster
    )


def _taking(home: SiteHome, roster: SignedRoster) -> tuple[dict[Path, bytes | None], bool]:
    """The changes that take a verified roster, and whether new keys come into force with it."""
    line = _own_line(home.settings().name, roster)
    changes: dict[Path, bytes | None] = {
        home.roster: roster.to_bytes(),
        home.authorities: roster.authorities.encode(),
    }
    if home.own_keys().are_those_of(line):
        return changes, False
    if not home.next_keys.exist() or not SiteKeys.read(home.next_keys).are_those_of(line):
        raise TrustError(
            f"Version {roster.version} of the roster has other keys for {line.site} than this "
            "site has; somebody else was admitted in its name, or the keys here are not those that "
            "it asked with: call the coordinating centre."
        )
    return changes | _promoting(home), True


def _promoting(home: SiteHome) -> dict[Path, bytes | None]:
    """The next keys come into force, the ones in force are kept for runs under way."""
    changes: dict[Path, bytes | None] = {}
    changes |= home.own_keys().content(home.retired_keys)
    changes |= SiteKeys.read(home.next_keys).content(home.keys)
    changes |= dict.fromkeys(home.next_keys.all())
    return changes


def _own_line(site: str, roster: SignedRoster) -> RosterLine:
    line = roster.line(site)
    if line is None:
        raise EnrolmentError(
            f"{site} is not in version {roster.version} of the roster, so this site was revoked, "
            "or the answer is for another one; call the coordinating centre."
        )
    return line


def _require_same_consortium(home: SiteHome, admission: Admission) -> None:
    if _consortium(home) != admission.consortium:
        raise TrustError(
            f"{home.folder}: this site has joined another consortium than the answer is from; "
            "docs/enrolment.md says how to leave it."
        )


def _consortium(home: SiteHome) -> str:
    return load_public_key(files.read_file(home.consortium), origin=str(home.consortium))


def _stored_roster(home: SiteHome) -> SignedRoster:
    if not home.joined:
        raise EnrolmentError(
            f"{home.folder}: this site has not joined; write a request with wardround-site join "
            "--request FILE, and take the answer with --answer FILE."
        )
    roster = SignedRoster.parse(files.read_file(home.roster), origin=str(home.roster))
    roster.verify(_consortium(home))
    return roster


def _news(known: SignedRoster, roster: SignedRoster, *, own_keys: bool) -> RosterNews:
    before = {line.site: (line.identity, line.node_key) for line in known.lines}
    after = {line.site: (line.identity, line.node_key) for line in roster.lines}
    return RosterNews(
        version=roster.version,
        changed=True,
        added=tuple(sorted(after.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - after.keys())),
        rekeyed=tuple(site for site in after if before.get(site, after[site]) != after[site]),
        own_keys=own_keys,
        authorities=roster.authorities != known.authorities,
    )
