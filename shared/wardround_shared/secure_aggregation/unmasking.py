"""Which masks are left on the sum of the survivors' vectors, rebuilt from shares.

Of each survivor its own mask; of each dropped site the masks that the survivors have added for it.
"""

from collections.abc import Iterator, Mapping, Sequence

from wardround_shared.secure_aggregation import keys
from wardround_shared.secure_aggregation.faults import ShareError
from wardround_shared.secure_aggregation.keys import RoundContext
from wardround_shared.secure_aggregation.masks import Mask
from wardround_shared.secure_aggregation.shares import combine_all
from wardround_shared.secure_aggregation.statements import commitment
from wardround_shared.secure_aggregation.wire import SiteKeys, Survivors, UnmaskAnswer


def remaining_masks(
    survivors: Survivors,
    *,
    keys_of: Mapping[int, SiteKeys],
    answers: Sequence[UnmaskAnswer],
    setup: RoundContext,
    threshold: int,
) -> list[Mask]:
    """The masks that turn the sum of masked vectors into the sum of vectors when they are added.

    Args:
        survivors: the survivor set that was confirmed.
        keys_of: what each site of the cohort has advertised, by index.
        answers: at least `threshold`, each with one share for each site of the cohort.
        setup: context under which the keys were advertised.
        threshold: of the roster.

    Raises:
        ShareError: a rebuilt secret is not the one that its site has committed to.
    """
    masks = []
    self_seeds = combine_all(
        [
            [bytes(answer.self_seeds[place][1]) for answer in answers]
            for place in range(len(survivors.survivors))
        ],
        threshold=threshold,
    )
    for site, secret in zip(survivors.survivors, self_seeds, strict=True):
        if commitment(secret, context=setup, site=site) != keys_of[site].commitment:
            raise _spoilt(site)
        seed = keys.self_mask_seed(secret, context=survivors.context, site=site)
        masks.append(Mask(seed=seed, negate=True))
    masking_keys = combine_all(
        [
            [bytes(answer.masking_keys[place][1]) for answer in answers]
            for place in range(len(survivors.dropped))
        ],
        threshold=threshold,
    )
    for site, secret in zip(survivors.dropped, masking_keys, strict=True):
        if keys.public_key(secret) != keys_of[site].masking:
            raise _spoilt(site)
        masks += _of_dropped(site, secret, survivors, keys_of)
    return masks


def _of_dropped(
    dropped: int, secret: bytes, survivors: Survivors, keys_of: Mapping[int, SiteKeys]
) -> Iterator[Mask]:
    """What the survivors have added for a dropped site, with the sign turned."""
    for site in survivors.survivors:
        seed = keys.pairwise_seed(
            secret,
            keys_of[site].masking,
            context=survivors.context,
            mine=dropped,
            theirs=site,
        )
        yield Mask(seed=seed, negate=site < dropped)


def _spoilt(site: int) -> ShareError:
    return ShareError(
        f"The shares of site {site} do not give the secret that it dealt: a site has sent a wrong "
        "share. The round is given up."
    )
