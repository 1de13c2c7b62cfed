"""What a site refuses, as functions of the message and what the site itself knows.

No bound in here comes from a message: threshold and identity keys are those of the approved roster.
"""

from collections.abc import Collection, Sequence

from wardround_shared.secure_aggregation import keys
from wardround_shared.secure_aggregation.faults import (
    BothSharesError,
    ConsistencyError,
    FloorError,
    RosterError,
    SignatureError,
    SurvivorsError,
)
from wardround_shared.secure_aggregation.roster import Roster
from wardround_shared.secure_aggregation.statements import check_keys, survivors_statement
from wardround_shared.secure_aggregation.wire import (
    Advertisements,
    MaskRequest,
    SiteKeys,
    Survivors,
    UnmaskRequest,
)


def check_advertised(message: Advertisements, *, own: SiteKeys, roster: Roster) -> None:
    """Refuse keys that are too few, not all different, or not signed by sites of the roster.

    Args:
        message: as received.
        own: what this site has advertised.
        roster: as approved.

    Raises:
        RosterError, FloorError, SignatureError: as `SecureSite.share` says.
    """
    if own not in message.keys:
        raise RosterError("This site's own keys are missing from what the server hands out.")
    if len(message.keys) < roster.threshold:
        raise FloorError(f"{len(message.keys)} sites have sent keys, {roster.threshold} must.")
    public = [key for one in message.keys for key in (one.sealing, one.masking)]
    if len(set(public)) != len(public):
        raise RosterError("Two sites have sent the same key.")
    for one in message.keys:
        check_keys(one, message.context, roster)


def cohort_of(request: MaskRequest, *, peers: Sequence[SiteKeys], roster: Roster) -> list[SiteKeys]:
    """Keys of the other sites of the cohort.

    Args:
        request: as received.
        peers: the other sites that have advertised.
        roster: as approved.

    Raises:
        RosterError, FloorError: as `SecureSite.mask` says.
    """
    known = {peer.site: peer for peer in peers}
    senders = [site for site, _ in request.shares]
    if not known.keys() >= set(senders):
        raise RosterError("A share comes from a site that has no keys in this round.")
    if len(set(senders)) != len(senders):
        raise RosterError("One site is counted twice in the cohort.")
    if len(senders) + 1 < roster.threshold:
        raise FloorError(f"The cohort has {len(senders) + 1} sites, {roster.threshold} are needed.")
    return [known[site] for site in senders]


def check_survivors(
    message: Survivors, *, cohort: Collection[int], site: int, roster: Roster
) -> None:
    """Refuse survivors that this site must not sign.

    Args:
        message: as received.
        cohort: the sites that share a mask with this one, and itself.
        site: index of this site, whose vector is out.
        roster: as approved.

    Raises:
        BothSharesError, SurvivorsError: as `SecureSite.sign` says.
    """
    survivors, dropped = set(message.survivors), set(message.dropped)
    if both := survivors & dropped:
        raise BothSharesError(
            f"The server asks for both shares of site {min(both)}; nothing was sent."
        )
    if survivors | dropped != set(cohort):
        raise SurvivorsError("Survivors and dropped sites do not make up this round's cohort.")
    if site not in survivors:
        raise SurvivorsError("The server says that this site, which has answered, dropped out.")
    if len(survivors) < roster.threshold:
        raise SurvivorsError(f"{len(survivors)} sites survive, {roster.threshold} are needed.")


def check_consistency(request: UnmaskRequest, *, signed: Survivors, roster: Roster) -> None:
    """Refuse to unmask unless enough survivors have signed what this site has signed.

    Args:
        request: as received.
        signed: what this site has signed.
        roster: as approved.

    Raises:
        ConsistencyError: as `SecureSite.unmask` says.
    """
    # Sites, not signatures: one site's signature given several times is one confirmation.
    confirming = {site for site, _ in request.signatures}
    if len(confirming) < roster.threshold:
        raise ConsistencyError(
            f"{len(confirming)} sites have confirmed the survivors, {roster.threshold} are needed."
        )
    statement = survivors_statement(signed)
    for site, signature in request.signatures:
        if site not in signed.survivors:
            raise ConsistencyError(f"Site {site} confirms, but is no survivor.")
        try:
            keys.verify(roster.identity(site), signature, statement)
        except SignatureError as error:
            raise ConsistencyError(
                f"Site {site} has not signed the survivor set that this site has signed."
            ) from error
