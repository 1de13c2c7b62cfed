"""Which masks are left on the sum of the survivors' vectors, rebuilt from shares.

Of each survivor its own mask; of each dropped site the masks that the survivors have added for it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, islice

from wardround_shared.secure_aggregation import keys
from wardround_shared.secure_aggregation.faults import ShareError
from wardround_shared.secure_aggregation.keys import RoundContext
from wardround_shared.secure_aggregation.masks import Mask
from wardround_shared.secure_aggregation.shares import combine, combine_all
from wardround_shared.secure_aggregation.statements import commitment
from wardround_shared.secure_aggregation.wire import SiteKeys, Survivors, UnmaskAnswer

# Every single site can be left out in turn, and every two of about sixty.
_MOST_TRIES = 2000


def remaining_masks(
    survivors: Survivors,
    *,
    keys_of: Mapping[int, SiteKeys],
    answers: Sequence[UnmaskAnswer],
    setup: RoundContext,
    threshold: int,
) -> list[Mask]:
    """The masks that turn the sum of masked vectors into the sum of vectors when they are added.

    A rebuilt secret is compared with what its site has committed to. If it is not that one, some
    answers are false; they are left out as long as enough others remain.

    Args:
        survivors: the survivor set that was confirmed.
        keys_of: what each site of the cohort has advertised, by index.
        answers: at least `threshold`, each with one share for each site of the cohort.
        setup: context under which the keys were advertised.
        threshold: of the roster.

    Raises:
        ShareError: no answers are left that agree with what was committed to.
    """
    secrets = [
        *(
            _self_seed(place, keys_of[site], answers, setup)
            for place, site in enumerate(survivors.survivors)
        ),
        *(
            _masking_key(place, keys_of[site], answers)
            for place, site in enumerate(survivors.dropped)
        ),
    ]
    rebuilt = iter(_rebuilt(secrets, len(answers), threshold))
    masks = []
    for site in survivors.survivors:
        seed = keys.self_mask_seed(next(rebuilt), context=survivors.context, site=site)
        masks.append(Mask(seed=seed, negate=True))
    for site in survivors.dropped:
        masks += _of_dropped(site, next(rebuilt), survivors, keys_of)
    return masks


@dataclass(frozen=True, kw_only=True)
class _Secret:
    """One secret to be rebuilt: its owner, one share from each answer, and what shows it true."""

    owner: int
    shares: Sequence[bytes]
    is_true: Callable[[bytes], bool]


def _self_seed(
    place: int, owner: SiteKeys, answers: Sequence[UnmaskAnswer], setup: RoundContext
) -> _Secret:
    return _Secret(
        owner=owner.site,
        shares=[bytes(answer.self_seeds[place][1]) for answer in answers],
        is_true=lambda seed: commitment(seed, context=setup, site=owner.site) == owner.commitment,
    )


def _masking_key(place: int, owner: SiteKeys, answers: Sequence[UnmaskAnswer]) -> _Secret:
    return _Secret(
        owner=owner.site,
        shares=[bytes(answer.masking_keys[place][1]) for answer in answers],
        is_true=lambda key: keys.public_key(key) == owner.masking,
    )


def _rebuilt(secrets: Sequence[_Secret], answers: int, threshold: int) -> list[bytes]:
    """All secrets, from those of the answers (by their place) that agree on every one of them."""
    trusted = tuple(range(answers))
    while True:
        rebuilt = combine_all(
            [[secret.shares[place] for place in trusted] for secret in secrets],
            threshold=threshold,
        )
        pairs = zip(secrets, rebuilt, strict=True)
        false = next((secret for secret, value in pairs if not secret.is_true(value)), None)
        if false is None:
            return rebuilt
        trusted = _without_the_false(false, trusted, threshold)


def _without_the_false(secret: _Secret, trusted: Sequence[int], threshold: int) -> tuple[int, ...]:
    """The answers without the fewest whose absence makes this secret true: they are false.

    Raises:
        ShareError: none that can be spared, or that can be found with reasonable effort.
    """
    spare = len(trusted) - threshold
    candidates = chain.from_iterable(combinations(trusted, n) for n in range(1, spare + 1))
    for left_out in islice(candidates, _MOST_TRIES):
        kept = tuple(place for place in trusted if place not in left_out)
        if secret.is_true(combine([secret.shares[p] for p in kept], threshold=threshold)):
            return kept
    raise ShareError(
        f"The shares of site {secret.owner} do not give the secret that it dealt: sites have sent "
        "wrong shares, and too few are left without them. The round is given up."
    )


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
