"""The server's half of secure aggregation: one running sum, and what removes its masks.

::

    open_setup -> take_keys* -> close_keys -> take_shares*             (round r+1)
    open_round -> take_vector* -> close_vectors -> take_confirmation*
               -> close_confirmations -> take_answer* -> close_round   (round r)

The two lines run side by side, so that keys and shares of the next round ride on the exchanges of
this one (docs/protocol.md). A message that does not fit raises and changes nothing: the caller goes
on without that site. A `close_*` with fewer sites than the threshold gives the round up.

A round can be put on disk after `close_confirmations` (`confirmed_round`), before anybody is asked
to unmask it, and be taken up again (`take_up`) by a server that has lost all else.

N = words of a vector.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from wardround_shared.secure_aggregation import keys
from wardround_shared.secure_aggregation.faults import (
    MessageError,
    RosterError,
    SpentError,
    StageError,
    ThresholdError,
)
from wardround_shared.secure_aggregation.keys import RoundContext
from wardround_shared.secure_aggregation.masks import add_masks, add_vector
from wardround_shared.secure_aggregation.quantisation import VectorLayout
from wardround_shared.secure_aggregation.roster import Terms, check_context
from wardround_shared.secure_aggregation.server_state import ConfirmedRound
from wardround_shared.secure_aggregation.statements import (
    check_keys,
    check_share,
    survivors_statement,
)
from wardround_shared.secure_aggregation.unmasking import remaining_masks
from wardround_shared.secure_aggregation.wire import (
    Advertisement,
    Advertisements,
    Confirmation,
    KeysRequest,
    MaskedVector,
    MaskRequest,
    SealedShares,
    SiteKeys,
    Survivors,
    UnmaskAnswer,
    UnmaskRequest,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class SecureSum:
    """What a finished round reveals.

    Attributes:
        total: uint32 [N], the sum of the survivors' vectors in the ring.
        survivors: the names of the sites in the sum.
        dropped: sites whose vector did not arrive, though they had sent keys and shares.
    """

    total: NDArray[np.uint32]
    survivors: tuple[str, ...]
    dropped: tuple[str, ...]

    @property
    def sites(self) -> int:
        """Number of vectors in the sum."""
        return len(self.survivors)


@dataclass(kw_only=True)
class _Setup:
    """Keys and shares of a coming round; `advertised` is U1 once it is closed."""

    context: RoundContext
    keys: dict[int, SiteKeys] = field(default_factory=dict)
    advertised: tuple[int, ...] | None = None
    shares: dict[int, dict[int, bytes]] = field(default_factory=dict)


@dataclass(kw_only=True)
class _Round:
    """The round under way; each of `survivors` and `unmask` is set when a stage closes."""

    context: RoundContext
    layout: VectorLayout
    keys: dict[int, SiteKeys]
    total: NDArray[np.uint32]
    arrived: set[int] = field(default_factory=set)
    survivors: Survivors | None = None
    signatures: dict[int, bytes] = field(default_factory=dict)
    confirmed: bool = False
    answers: dict[int, UnmaskAnswer] = field(default_factory=dict)


class SecureServer:
    """The coordinator of one run's secure sums."""

    def __init__(self, *, terms: Terms, first_round: int = 1) -> None:
        """A server before its first round.

        Args:
            terms: study, run and roster.
            first_round: number of the first; after a restart the `next_round` that was stored.
        """
        self._terms = terms
        self._roster = terms.roster
        self._next = first_round
        self._setup: _Setup | None = None
        self._round: _Round | None = None

    @property
    def next_round(self) -> int:
        """Number that the next setup will have; to be stored before a request is sent."""
        return self._next

    @property
    def threshold(self) -> int:
        """Fewest sites with which a round can be finished."""
        return self._roster.threshold

    @property
    def ready(self) -> bool:
        """Whether keys and shares are there for `open_round`."""
        return len(self.prepared) >= self._roster.threshold

    @property
    def prepared(self) -> tuple[str, ...]:
        """Names of the sites that have dealt their shares for the coming round."""
        return self._names(sorted(self._setup.shares)) if self._setup else ()

    # --- setting up a coming round ------------------------------------------------------------

    def open_setup(self) -> KeysRequest:
        """Begin the next round's setup, for every site of the roster; an unfinished one is lost."""
        self._setup = _Setup(context=self._terms.setup(self._next))
        self._next += 1
        return KeysRequest(context=self._setup.context)

    def take_keys(self, site: str, message: Advertisement) -> None:
        """A site's keys for the coming round.

        Args:
            site: who sent it, as the transport knows.
            message: as received.

        Raises:
            ContextError: another study, run, round or roster.
            StageError, SpentError: too late, or a second time.
            RosterError: the site is not in the roster, or speaks for another.
            SignatureError: not signed by the site.
        """
        setup, index = self._keys_open(), self._sender(site, message.context, self._setup)
        if message.keys.site != index:
            raise RosterError(f"Site {index} sends keys in the name of site {message.keys.site}.")
        _once(index, setup.keys)
        check_keys(message.keys, message.context, self._roster)
        setup.keys[index] = message.keys

    def close_keys(self) -> Advertisements:
        """What goes to every site that sent keys (`advertised`).

        Raises:
            ThresholdError: too few; the setup is given up.
        """
        setup = self._keys_open()
        if len(setup.keys) < self._roster.threshold:
            self._setup = None
            raise self._too_few(len(setup.keys), "sent keys")
        setup.advertised = tuple(sorted(setup.keys))
        return Advertisements(
            context=setup.context, keys=tuple(setup.keys[site] for site in setup.advertised)
        )

    @property
    def advertised(self) -> tuple[str, ...]:
        """Names of the sites whose keys are in the setup, once it is closed for keys."""
        return self._names(self._setup.advertised or ()) if self._setup else ()

    def take_shares(self, site: str, message: SealedShares) -> None:
        """The shares that a site deals to all others of the setup.

        Raises:
            ContextError: another study, run, round or roster.
            StageError, SpentError: too early, or a second time.
            RosterError: the site has no keys in this round.
            MessageError: not exactly one for each other site.
        """
        index = self._sender(site, message.context, self._setup)
        setup = self._setup
        if setup is None or setup.advertised is None:
            raise StageError("Shares came before the keys were handed out.")
        if index not in setup.advertised:
            raise RosterError(f"Site {index} deals shares, but has no keys in this round.")
        _once(index, setup.shares)
        shares = dict(message.shares)
        if tuple(shares) != tuple(other for other in setup.advertised if other != index):
            raise MessageError(f"Site {index} has not dealt one share to each other site.")
        setup.shares[index] = shares

    # --- the round ----------------------------------------------------------------------------

    def open_round(self, *, layout: VectorLayout, model_digest: bytes) -> dict[str, MaskRequest]:
        """Begin the round that was set up; the request of each site of its cohort.

        Args:
            layout: of the vectors.
            model_digest: SHA-256 of the model (or request) that the sites get with this.

        Raises:
            StageError: no setup.
            ThresholdError: too few have dealt shares; the setup is given up.
            ContextError: the layout is made for another number of sites.
        """
        setup = self._setup
        if setup is None:
            raise StageError("There is no setup that a round could be opened from.")
        context = self._terms.masking(setup.context.round, layout=layout, model_digest=model_digest)
        if len(setup.shares) < self._roster.threshold:
            self._setup = None
            raise self._too_few(len(setup.shares), "dealt shares")
        cohort = sorted(setup.shares)
        self._setup = None
        self._round = _Round(
            context=context,
            layout=layout,
            keys={site: setup.keys[site] for site in cohort},
            total=np.zeros(layout.words, dtype=np.uint32),
        )
        return {
            self._roster.sites[site]: MaskRequest(
                context=context,
                shares=tuple(
                    (sender, setup.shares[sender][site]) for sender in cohort if sender != site
                ),
            )
            for site in cohort
        }

    def take_vector(self, site: str, message: MaskedVector) -> None:
        """Add a site's masked vector to the sum; it is not kept.

        Raises:
            ContextError: another study, run, round, roster, model or layout.
            StageError, SpentError: too late, or a second time.
            RosterError: the site is not in the cohort.
            MessageError: of another length.
        """
        current = self._vectors_open()
        index = self._sender(site, message.context, current)
        if index not in current.keys:
            raise RosterError(f"Site {index} sends a vector, but is not in the cohort.")
        _once(index, current.arrived)
        if message.vector.shape != current.total.shape or message.vector.dtype != np.uint32:
            raise MessageError(
                f"Site {index} sends {message.vector.size} words, this round's vectors have "
                f"{current.total.size}."
            )
        add_vector(current.total, message.vector, wide=current.layout.wide)
        current.arrived.add(index)

    def close_vectors(self) -> Survivors:
        """What goes to every survivor (`survivors`).

        Raises:
            ThresholdError: too few; the round is given up.
        """
        current = self._vectors_open()
        if len(current.arrived) < self._roster.threshold:
            self._round = None
            raise self._too_few(len(current.arrived), "sent their vector")
        current.survivors = Survivors(
            context=current.context,
            survivors=tuple(sorted(current.arrived)),
            dropped=tuple(sorted(current.keys.keys() - current.arrived)),
        )
        return current.survivors

    def take_confirmation(self, site: str, message: Confirmation) -> None:
        """A survivor's signature on the survivor set.

        Raises:
            ContextError: another study, run, round, roster, model or layout.
            StageError, SpentError: too early, too late, or a second time.
            RosterError: the site is not a survivor.
            SignatureError: not its signature on this set.
        """
        current, survivors = self._closed_vectors()
        index = self._sender(site, message.context, current)
        if current.confirmed:
            raise StageError(f"Site {index} confirms after the confirmations were closed.")
        if index not in survivors.survivors:
            raise RosterError(f"Site {index} confirms, but is no survivor.")
        _once(index, current.signatures)
        keys.verify(self._roster.identity(index), message.signature, survivors_statement(survivors))
        current.signatures[index] = message.signature

    def close_confirmations(self) -> UnmaskRequest:
        """What goes to every site that confirmed (`confirmed`).

        Raises:
            ThresholdError: too few; the round is given up.
        """
        current, _ = self._closed_vectors()
        if len(current.signatures) < self._roster.threshold:
            self._round = None
            raise self._too_few(len(current.signatures), "confirmed the survivors")
        current.confirmed = True
        return _unmask_request(current)

    def confirmed_round(self, *, note: bytes) -> ConfirmedRound:
        """The round as it is to be stored before the `UnmaskRequest` is sent; the total is shared.

        Args:
            note: the caller's own, given back with it.

        Raises:
            StageError: the confirmations are not closed.
        """
        current, survivors = self._unmasking()
        return ConfirmedRound(
            context=current.context,
            keys=current.keys,
            survivors=survivors,
            signatures=current.signatures,
            note=note,
            total=current.total,
        )

    def take_up(
        self, stored: ConfirmedRound, *, layout: VectorLayout, model_digest: bytes
    ) -> UnmaskRequest:
        """Go on with a stored round in place of the one under way; the request to send again.

        Args:
            stored: as `confirmed_round` gave it.
            layout: of the vectors.
            model_digest: SHA-256 of the model (or request) that is to be summed.

        Raises:
            ContextError: it is the sum of another request, run, study or layout.
            RosterError: likewise of another roster.
            MessageError: its total has another length.
        """
        number = stored.context.round
        check_context(
            stored.context, self._terms.masking(number, layout=layout, model_digest=model_digest)
        )
        if len(stored.total) != layout.words:
            raise MessageError("The stored secure sum does not have the length of its layout.")
        self._round = _Round(
            context=stored.context,
            layout=layout,
            keys=dict(stored.keys),
            total=stored.total,
            arrived=set(stored.survivors.survivors),
            survivors=stored.survivors,
            signatures=dict(stored.signatures),
            confirmed=True,
        )
        self._next = max(self._next, number + 1)
        return _unmask_request(self._round)

    def give_up(self) -> None:
        """Forget the round under way, with its total."""
        self._round = None

    @property
    def survivors(self) -> tuple[str, ...]:
        """Names of the sites whose vectors are in the sum so far."""
        return self._names(sorted(self._round.arrived)) if self._round else ()

    @property
    def confirmed(self) -> tuple[str, ...]:
        """Names of the sites that have confirmed the survivors."""
        return self._names(sorted(self._round.signatures)) if self._round else ()

    @property
    def unmasked(self) -> tuple[str, ...]:
        """Names of the sites that have sent their shares."""
        return self._names(sorted(self._round.answers)) if self._round else ()

    def take_answer(self, site: str, message: UnmaskAnswer) -> None:
        """One site's shares of the secrets that are to be removed.

        Raises:
            ContextError: another study, run, round, roster, model or layout.
            StageError, SpentError: too early, or a second time.
            RosterError: the site has not confirmed.
            MessageError: not one share for each site of the cohort.
            ShareError: a share that was dealt to another site.
        """
        current, survivors = self._closed_vectors()
        index = self._sender(site, message.context, current)
        if not current.confirmed:
            raise StageError(f"Site {index} unmasks before it was asked.")
        if index not in current.signatures:
            raise RosterError(f"Site {index} unmasks, but has not confirmed.")
        _once(index, current.answers)
        owners = tuple(tuple(o for o, _ in s) for s in (message.self_seeds, message.masking_keys))
        if owners != (survivors.survivors, survivors.dropped):
            raise MessageError(f"Site {index} has not sent one share for each site of the cohort.")
        for _, share in (*message.self_seeds, *message.masking_keys):
            check_share(share, holder=index, sender=index)
        current.answers[index] = message

    def close_round(self) -> SecureSum:
        """Take all masks off the sum.

        Raises:
            ThresholdError: too few answers; the round is given up.
            ShareError: false shares, and too few answers without them; the round is given up.
        """
        current, survivors = self._unmasking()
        self._round = None
        if len(current.answers) < self._roster.threshold:
            raise self._too_few(len(current.answers), "sent their shares")
        masks = remaining_masks(
            survivors,
            keys_of=current.keys,
            answers=tuple(current.answers.values()),
            setup=self._terms.setup(current.context.round),
            threshold=self._roster.threshold,
        )
        add_masks(current.total, masks, wide=current.layout.wide)
        return SecureSum(
            total=current.total,
            survivors=self._names(survivors.survivors),
            dropped=self._names(survivors.dropped),
        )

    # --- checks -------------------------------------------------------------------------------

    def _sender(self, site: str, context: RoundContext, at: _Setup | _Round | None) -> int:
        if at is None:
            raise StageError("A message came for a round that is not open.")
        check_context(context, at.context)
        return self._roster.index(site)

    def _keys_open(self) -> _Setup:
        if self._setup is None or self._setup.advertised is not None:
            raise StageError("No setup is open for keys.")
        return self._setup

    def _vectors_open(self) -> _Round:
        if self._round is None or self._round.survivors is not None:
            raise StageError("No round is open for vectors.")
        return self._round

    def _closed_vectors(self) -> tuple[_Round, Survivors]:
        if self._round is None or self._round.survivors is None:
            raise StageError("No round has its survivors yet.")
        return self._round, self._round.survivors

    def _unmasking(self) -> tuple[_Round, Survivors]:
        current, survivors = self._closed_vectors()
        if not current.confirmed:
            raise StageError("The survivors of the round are not confirmed yet.")
        return current, survivors

    def _too_few(self, sites: int, done: str) -> ThresholdError:
        return ThresholdError(
            f"{sites} of {len(self._roster)} sites have {done}, {self._roster.threshold} are "
            "needed; the round is given up and nothing is revealed."
        )

    def _names(self, sites: Sequence[int]) -> tuple[str, ...]:
        return tuple(self._roster.sites[site] for site in sites)


def _once(site: int, done: Container[int]) -> None:
    if site in done:
        raise SpentError(f"Site {site} answers twice.")


def _unmask_request(current: _Round) -> UnmaskRequest:
    return UnmaskRequest(
        context=current.context, signatures=tuple(sorted(current.signatures.items()))
    )
