"""What sites sign, commit to and deal: bytes that mean one thing only, and the checks of them."""

import hashlib

from wardround_shared.secure_aggregation import keys
from wardround_shared.secure_aggregation.codec import Writer
from wardround_shared.secure_aggregation.faults import ShareError
from wardround_shared.secure_aggregation.keys import RoundContext
from wardround_shared.secure_aggregation.roster import Roster
from wardround_shared.secure_aggregation.shares import SECRET_BYTES, SHARE_BYTES
from wardround_shared.secure_aggregation.wire import KEY_BYTES, SiteKeys, Survivors, write_context

_PREFIX = "wardround/secure-aggregation/1/"


def commitment(self_seed: bytes, *, context: RoundContext, site: int) -> bytes:
    """SHA-256 commitment to a self seed; 32 random bytes need no further blinding."""
    writer = _statement("commitment", context)
    writer.u16(site)
    writer.fixed(self_seed, KEY_BYTES)
    return hashlib.sha256(writer.finish()).digest()


def sign_keys(
    identity: keys.Identity,
    context: RoundContext,
    *,
    site: int,
    sealing: bytes,
    masking: bytes,
    commitment: bytes,
) -> SiteKeys:
    """A site's keys of one round, signed."""
    unsigned = SiteKeys(
        site=site, sealing=sealing, masking=masking, commitment=commitment, signature=b""
    )
    return SiteKeys(
        site=site,
        sealing=sealing,
        masking=masking,
        commitment=commitment,
        signature=identity.sign(_keys_statement(unsigned, context)),
    )


def check_keys(advertised: SiteKeys, context: RoundContext, roster: Roster) -> None:
    """Refuse keys that were not signed by the site of the roster that they are said to be of.

    Raises:
        RosterError: there is no such site.
        SignatureError: it has not signed them.
    """
    identity = roster.identity(advertised.site)
    keys.verify(identity, advertised.signature, _keys_statement(advertised, context))


def check_share(share: bytes, *, holder: int, sender: int) -> None:
    """Refuse a share that is not the one dealt to its holder.

    Args:
        share: of one secret.
        holder: index of the site that it was dealt to; its tag is one more.
        sender: index of the site that it came from, for the message.

    Raises:
        ShareError: of another length, or dealt to another site.
    """
    tag = int.from_bytes(share[: SHARE_BYTES - SECRET_BYTES], "big")
    if len(share) != SHARE_BYTES or tag != holder + 1:
        raise ShareError(f"Site {sender} has sent a share that is not one dealt to site {holder}.")


def survivors_statement(message: Survivors) -> bytes:
    """What a confirmation signs: context, survivors and dropped."""
    writer = _statement("survivors", message.context)
    message.write(writer)
    return writer.finish()


def _keys_statement(advertised: SiteKeys, context: RoundContext) -> bytes:
    writer = _statement("keys", context)
    writer.u16(advertised.site)
    advertised.write_signed(writer)
    return writer.finish()


def _statement(label: str, context: RoundContext) -> Writer:
    writer = Writer()
    writer.text(_PREFIX + label)
    write_context(writer, context)
    return writer
