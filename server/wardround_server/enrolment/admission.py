"""Who comes in and who goes: each is one line of the roster, and one version more.

A request says by its signatures only that whoever wrote it has its keys. That these are the
hospital's is for the person who compares the fingerprint; until `admit` nothing is changed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from itertools import pairwise
from pathlib import Path

from wardround_server.enrolment.home import ServerHome
from wardround_server.enrolment.rosters import current_roster, following, history, storing
from wardround_shared.consortium import files
from wardround_shared.consortium.documents import read_bytes
from wardround_shared.consortium.enrolment import Admission, JoinRequest
from wardround_shared.consortium.fields import moment_of
from wardround_shared.consortium.roster_file import MAX_LINES, RosterLine, SignedRoster
from wardround_shared.errors import EnrolmentError, ProtocolError, TrustError
from wardround_shared.messages import PROTOCOL_VERSION


class Step(Enum):
    """What admitting a request would do."""

    NEW = "a new site"
    NEW_KEYS = "new keys for a site that is in the roster"
    AGAIN = "nothing new: these keys are in the roster; only the answer is written again"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A request as a person has to judge it.

    Attributes:
        request: with its signatures verified.
        step: what admitting it would do.
    """

    request: JoinRequest
    step: Step

    @property
    def site(self) -> str:
        """The name that it asks for."""
        return self.request.site

    @property
    def fingerprint(self) -> str:
        """To be compared with what the hospital reads, over the telephone."""
        return self.request.fingerprint


@dataclass(frozen=True, kw_only=True)
class Admitted:
    """What `admit` has done.

    Attributes:
        site: that was admitted.
        version: of the roster in force.
        answer: the file for the site.
        fingerprint: of the answer, to be read to the site.
        address: at which sites reach the server.
    """

    site: str
    version: int
    answer: Path
    fingerprint: str
    address: str


@dataclass(frozen=True, kw_only=True)
class Revoked:
    """What `revoke` has done.

    Attributes:
        line: as it stood in the roster.
        version: of the roster in force, without it.
    """

    line: RosterLine
    version: int


def read_request(home: ServerHome, file: Path) -> Candidate:
    """Read a request and say what admitting it would do; nothing is changed.

    Raises:
        EnrolmentError: no whole request, or it cannot be admitted as it is.
        TrustError: its signatures are wrong, or its keys are or were another site's.
        ProtocolError: the site speaks another version of the protocol.
    """
    request = JoinRequest.parse(read_bytes(file), origin=str(file))
    request.verify()
    if request.protocol != PROTOCOL_VERSION:
        raise ProtocolError(
            f"The software of {request.site} ({request.software}) speaks version "
            f"{request.protocol} of the protocol, this server version {PROTOCOL_VERSION}; update "
            "the older one, and have a new request made."
        )
    return Candidate(request=request, step=_step(request, history(home)))


def admit(
    home: ServerHome,
    candidate: Candidate,
    *,
    answer: Path,
    now: datetime,
    consortium_key: Path | None = None,
    noted: Callable[[int], object] = lambda _version: None,
) -> Admitted:
    """Put a site's line into the roster, and write the answer for it.

    The version in force is read again: a candidate may have become impossible meanwhile.

    Args:
        home: of the server.
        candidate: whom a person has judged.
        answer: the file to write.
        now: the time.
        consortium_key: where it is kept, if not in the home.
        noted: is told the version of a roster that has changed, before the answer is written.

    Raises:
        EnrolmentError: as for `read_request`; or the key or a file cannot be used.
        TrustError: as for `read_request`; or not the consortium's key.
    """
    request = candidate.request
    files.require_place(answer)
    with files.changing(home.folder):
        versions = history(home)
        roster = versions[-1]
        if _step(request, versions) is not Step.AGAIN:
            key = home.consortium_key(consortium_key)
            others = [line for line in roster.lines if line.site != request.site]
            lines = [*others, _line(request, now)]
            roster = following(home, key, now=now, lines=lines)
            files.change_together(home.folder, storing(home, roster))
            noted(roster.version)
    admission = answer_of(home)
    files.write_for_others(answer, admission.to_bytes())
    return Admitted(
        site=request.site,
        version=admission.roster.version,
        answer=answer,
        fingerprint=admission.fingerprint,
        address=admission.address,
    )


def revoke(
    home: ServerHome, site: str, *, now: datetime, consortium_key: Path | None = None
) -> Revoked:
    """Take a site's line out of the roster.

    Its node key is not among `node_keys` any more: the daemon closes the door at once. What was
    learned with it stays in the models.

    Raises:
        EnrolmentError: it is not in the roster; or the key or a file cannot be used.
        TrustError: not the consortium's key.
    """
    key = home.consortium_key(consortium_key)
    with files.changing(home.folder):
        known = current_roster(home)
        line = known.line(site)
        if line is None:
            names = ", ".join(one.site for one in known.lines) or "nobody"
            raise EnrolmentError(
                f"{site[:64]} is not in the roster of version {known.version}, which has {names}."
            )
        others = [one for one in known.lines if one != line]
        roster = following(home, key, now=now, lines=others)
        files.change_together(home.folder, storing(home, roster))
    return Revoked(line=line, version=roster.version)


def answer_of(home: ServerHome) -> Admission:
    """The answer that every admitted site gets today; its fingerprint may be published.

    Raises:
        EnrolmentError: a file of the home cannot be used.
        TrustError: the roster is not signed by the consortium's key.
    """
    return Admission(
        address=home.settings().address,
        consortium=home.consortium(),
        roster=current_roster(home),
    )


def _line(request: JoinRequest, now: datetime) -> RosterLine:
    return RosterLine(
        site=request.site,
        identity=request.identity,
        node_key=request.node_key,
        admitted=now.date().isoformat(),
    )


def _step(request: JoinRequest, versions: list[SignedRoster]) -> Step:
    """What a request comes to.

    Raises:
        EnrolmentError, TrustError: it cannot be admitted.
    """
    roster = versions[-1]
    line = roster.line(request.site)
    if line is not None and _keys(line) == {request.identity, request.node_key}:
        return Step.AGAIN
    _require_no_namesake(request, roster)
    _require_keys_of_its_own(request, versions)
    if line is not None:
        _require_agreed(request, line)
        return Step.NEW_KEYS
    if request.previous is not None:
        raise EnrolmentError(
            f"{request.site} is not in the roster, so there are no keys to be replaced; have it "
            "ask to be admitted, after a revocation with wardround-site keys rotate --afresh."
        )
    _require_after_revocation(request, versions)
    return Step.NEW


def _keys(line: RosterLine) -> set[str]:
    return {line.identity, line.node_key}


def _require_no_namesake(request: JoinRequest, roster: SignedRoster) -> None:
    for line in roster.lines:
        if line.site != request.site and line.site.lower() == request.site.lower():
            raise EnrolmentError(
                f"{request.site} differs from {line.site}, which is in the roster, in capitals "
                "only; have the site choose another name."
            )
    if roster.line(request.site) is None and len(roster.lines) >= MAX_LINES:
        raise EnrolmentError(f"The roster is full: {MAX_LINES} sites.")


def _require_keys_of_its_own(request: JoinRequest, versions: list[SignedRoster]) -> None:
    """Refuse keys that are or ever were somebody else's, and to go back to replaced ones."""
    asked = {request.identity, request.node_key}
    for version in versions:
        for line in version.lines:
            if not asked & _keys(line):
                continue
            if line.site != request.site:
                raise TrustError(
                    f"A key that {request.site} asks with is that of {line.site} in version "
                    f"{version.version} of the roster; call both."
                )
            if request.previous is not None:
                raise TrustError(
                    f"A key that {request.site} wants from now on is one that it had in version "
                    f"{version.version} of the roster; have it make new ones."
                )


def _require_agreed(request: JoinRequest, line: RosterLine) -> None:
    """New keys for a site in the roster are signed by those that stand there."""
    if request.previous is None:
        raise TrustError(
            f"{request.site} is in the roster with other keys; if the hospital has lost them, "
            "revoke it and have a new request made, and otherwise this is somebody else."
        )
    if request.previous != line.identity:
        raise TrustError(
            f"The new keys of {request.site} are not signed by the identity in the roster but by "
            "another one; call the hospital."
        )


def _require_after_revocation(request: JoinRequest, versions: list[SignedRoster]) -> None:
    """An old request must not bring back who was revoked since."""
    gone = [
        newer.issued
        for older, newer in pairwise(versions)
        if older.line(request.site) and not newer.line(request.site)
    ]
    if gone and moment_of(request.made) <= moment_of(gone[-1]):
        raise TrustError(
            f"This request is of {request.made}, and {request.site} was revoked at {gone[-1]}; if "
            "it shall come back, have it make a new request."
        )
