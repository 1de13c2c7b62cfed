"""What server and site agree on before a run: the study, the consortium's roster, who takes part.

With daemons the first message brings the study and the signed roster; the second the sites of the
run, out of which each site forms the roster of its secure sums itself.
"""

import re
from dataclasses import dataclass

from flwr.app import ConfigRecord, RecordDict

from wardround_shared import __version__
from wardround_shared.errors import ProtocolError
from wardround_shared.messages import Header

TERMS = "query.terms"
"""Message type: the sites of a run; a site holds on to the first that it gets."""

RUN_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,79}")
"""What runs between machines are called."""

_MOST_ROUNDS = 2**31
_OFFER, _TERMS, _AGREED = "offer", "terms", "agreed"
_LARGEST_TEXT = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What comes with the first message of a run.

    Attributes:
        study: the study file.
        roster: the signed roster of the consortium.
        software: the server's version of wardround.
    """

    study: str
    roster: str
    software: str = __version__


def with_offer(content: RecordDict, offer: Offer) -> RecordDict:
    """The first message with what it brings."""
    extended = RecordDict(dict(content))
    extended[_OFFER] = ConfigRecord(
        {"study": offer.study, "roster": offer.roster, "software": offer.software}
    )
    return extended


def read_offer(content: RecordDict) -> Offer:
    """What came with the first message.

    Raises:
        ProtocolError: nothing, or it is malformed.
    """
    record = _record(content, _OFFER)
    study, roster, software = (record.get(key) for key in ("study", "roster", "software"))
    if not (isinstance(study, str) and isinstance(roster, str) and isinstance(software, str)):
        raise ProtocolError("A message is malformed: it offers no study or brings no roster.")
    if max(len(study), len(roster)) > _LARGEST_TEXT:
        raise ProtocolError("A message is refused: the study or the roster in it is too long.")
    return Offer(study=study, roster=roster, software=software)


def require_plain(header: Header) -> None:
    """Refuse a header whose words could not stand in a log, or whose round is none.

    Raises:
        ProtocolError: naming what is wrong.
    """
    if not RUN_NAME.fullmatch(header.run) or not 0 <= header.round < _MOST_ROUNDS:
        raise ProtocolError(
            "A message is malformed: its run has a name, or its round a number, that cannot be."
        )


def require_same_release(theirs: str, *, who: str) -> None:
    """Refuse to work with another release: what it computes may be another thing.

    Patches of a release (0.1.3 and 0.1.4) work together.

    Raises:
        ProtocolError: naming both versions.
    """
    if not same_release(theirs, __version__):
        raise ProtocolError(
            f"{who} runs wardround {theirs[:20]}, and here it is {__version__}; install the same "
            "release on both sides."
        )


def with_terms(content: RecordDict, sites: tuple[str, ...]) -> RecordDict:
    """Content of `TERMS`."""
    extended = RecordDict(dict(content))
    extended[_TERMS] = ConfigRecord({"sites": list(sites)})
    return extended


def read_terms(content: RecordDict) -> tuple[str, ...]:
    """The sites of the run.

    Raises:
        ProtocolError: malformed.
    """
    sites = _record(content, _TERMS).get("sites")
    if not isinstance(sites, list) or not all(isinstance(site, str) for site in sites):
        raise ProtocolError("A message is malformed: it does not name the sites of the run.")
    return tuple(str(site) for site in sites)


def agreed_record(digest: bytes) -> RecordDict:
    """Answer to `TERMS`: the digest of the roster that the site has formed."""
    return RecordDict({_AGREED: ConfigRecord({"roster": digest})})


def read_agreed(content: RecordDict) -> bytes:
    """The digest of the roster that a site has formed.

    Raises:
        ProtocolError: malformed.
    """
    digest = _record(content, _AGREED).get("roster")
    if not isinstance(digest, bytes):
        raise ProtocolError("A message is malformed: a site does not say what it agreed to.")
    return digest


def _record(content: RecordDict, name: str) -> ConfigRecord:
    record = content.get(name)
    if not isinstance(record, ConfigRecord):
        raise ProtocolError(f"A message is malformed: it has no record {name!r}.")
    return record


def same_release(one: str, other: str) -> bool:
    """Whether two versions are of one release, apart from patches (0.1.3 and 0.1.4)."""
    return one.split(".")[:2] == other.split(".")[:2]
