"""A site's half of secure aggregation: five messages in, five answers out, each once a round.

::

    none --advertise--> advertised --share--> shared --mask--> masked --sign--> confirmed
                                                                   done <--unmask--'

docs/protocol.md gives the state table and says why each check is there. A method either returns
the one answer or raises a `SecureAggregationError` and leaves the stage as it was; answers to one
round and the setup of the next do not depend on each other. `mask` comes in two steps, since what
is to be masked has yet to be worked out: all checks and the one-shot first, then the vector.

Every answer is one-shot. `OneShots` remembers that durably before a method returns; the caller
writes `to_bytes()` to disk before it sends the answer. Beside the rounds, each *question* is: one
vector may be masked for it in several rounds, each with keys of its own, until one of them is
unmasked. So a server that was killed, or had too few sites, can try again, and still has one sum.
"""

import hashlib
from collections.abc import Mapping
from typing import Self, TypeVar

from wardround_shared.secure_aggregation import keys
from wardround_shared.secure_aggregation.checks import (
    check_advertised,
    check_consistency,
    check_survivors,
    cohort_of,
)
from wardround_shared.secure_aggregation.codec import Writer
from wardround_shared.secure_aggregation.faults import (
    QUESTION_SPENT,
    ContextError,
    FloorError,
    RosterError,
    SpentError,
    StageError,
)
from wardround_shared.secure_aggregation.keys import RoundContext
from wardround_shared.secure_aggregation.masks import Mask
from wardround_shared.secure_aggregation.one_mask import OneMask
from wardround_shared.secure_aggregation.one_shots import OneShots
from wardround_shared.secure_aggregation.quantisation import VectorLayout
from wardround_shared.secure_aggregation.roster import SMALLEST_COHORT, Terms, check_context
from wardround_shared.secure_aggregation.shares import SHARE_BYTES, split
from wardround_shared.secure_aggregation.site_state import (
    Advertised,
    Confirmed,
    Done,
    HeldShares,
    Masked,
    Secrets,
    Shared,
    SiteState,
    Stage,
)
from wardround_shared.secure_aggregation.statements import (
    check_share,
    commitment,
    sign_keys,
    survivors_statement,
)
from wardround_shared.secure_aggregation.streams import KEY_BYTES, RandomBytes
from wardround_shared.secure_aggregation.wire import (
    Advertisement,
    Advertisements,
    Confirmation,
    KeysRequest,
    MaskRequest,
    SealedShares,
    SiteKeys,
    Survivors,
    UnmaskAnswer,
    UnmaskRequest,
    encode,
)

S = TypeVar("S", bound=Stage)

_AHEAD = 2
"""Rounds that can be set up at a time: keys for r+1 may come before the request of r."""


class SecureSite:
    """One site in one run."""

    def __init__(
        self,
        *,
        terms: Terms,
        site: str,
        identity: keys.Identity,
        random: RandomBytes,
        one_shots: OneShots,
        smallest_cohort: int = SMALLEST_COHORT,
    ) -> None:
        """A site that has answered nothing yet.

        Args:
            terms: study, run and roster, as approved at this site.
            site: name of this site.
            identity: its Ed25519 private key.
            random: `os.urandom`, but for tests.
            one_shots: durable register of what has been answered; outlives the state.
            smallest_cohort: fewest sites of a sum that this site's policy accepts.

        Raises:
            FloorError: the roster's threshold lets a sum have fewer sites.
            RosterError: the site is not in the roster, or with another identity key.
        """
        self._terms = terms
        self._roster = terms.roster
        self._site = site
        self._index = terms.roster.index(site)
        self._identity = identity
        self._random = random
        self._one_shots = one_shots
        self._latest = 0
        self._stages: dict[int, Stage] = {}
        if identity.public != self._roster.identity(self._index):
            raise RosterError("The roster holds another identity key for this site.")
        if self._roster.threshold < max(smallest_cohort, SMALLEST_COHORT):
            raise FloorError(
                f"The roster lets {self._roster.threshold} sites make a sum, this site demands "
                f"{max(smallest_cohort, SMALLEST_COHORT)}."
            )

    @classmethod
    def from_bytes(
        cls,
        data: bytes,
        *,
        terms: Terms,
        site: str,
        identity: keys.Identity,
        random: RandomBytes,
        one_shots: OneShots,
        smallest_cohort: int = SMALLEST_COHORT,
    ) -> Self:
        """A site as it was when `to_bytes` was called; an older state can only refuse more.

        Raises:
            MessageError: malformed.
            ContextError: the state is of another site, study, run or roster.
            FloorError, RosterError: as for a new site.
        """
        restored = cls(
            terms=terms,
            site=site,
            identity=identity,
            random=random,
            one_shots=one_shots,
            smallest_cohort=smallest_cohort,
        )
        state = SiteState.from_bytes(data)
        if restored._state(latest=state.latest, stages=state.stages) != state:
            raise ContextError(
                "The stored state of secure aggregation is of another site, study, run or roster."
            )
        restored._latest, restored._stages = state.latest, dict(state.stages)
        return restored

    def to_bytes(self) -> bytes:
        """The state, to be written before an answer is sent. Sensitive: it holds private keys."""
        return self._state(latest=self._latest, stages=self._stages).to_bytes()

    @property
    def latest(self) -> int:
        """Highest round that this site has advertised keys for; 0 before the first."""
        return self._latest

    # --- setting up a coming round ------------------------------------------------------------

    def advertise(self, request: KeysRequest) -> Advertisement:
        """Draw keys for a coming round.

        Raises:
            ContextError: another study, run or roster.
            StageError: not above every round that this site has keys for.
            SpentError: answered before.
        """
        number = request.context.round
        check_context(request.context, self._terms.setup(number))
        if number <= self._latest:
            kind = SpentError if number == self._latest else StageError
            raise kind(
                f"Keys are asked for round {number}, this site has sent them up to round "
                f"{self._latest}; rounds rise strictly."
            )
        secrets, public = self._draw(request.context)
        self._spend("advertise", number)
        self._latest = number
        self._enter(number, Advertised(secrets=secrets, keys=public))
        return Advertisement(context=request.context, keys=public)

    def share(self, message: Advertisements) -> SealedShares:
        """Deal shares of the round's secrets to all sites that advertised.

        Raises:
            ContextError: another study, run, round or roster.
            StageError: no keys are out for this round.
            RosterError: a site that is not in the roster, the same key twice, or this site's own
                entry missing or changed.
            SignatureError: keys that their site has not signed.
            FloorError: fewer sites than the threshold.
            SpentError: answered before.
        """
        context = message.context
        check_context(context, self._terms.setup(context.round))
        stage = self._stage(context.round, Advertised)
        check_advertised(message, own=stage.keys, roster=self._roster)
        peers = tuple(one for one in message.keys if one.site != self._index)
        dealt = self._deal(stage.secrets)
        sealing = keys.AgreementKey(stage.secrets.sealing)
        sealed = tuple(
            (
                peer.site,
                keys.seal(
                    dealt[peer.site].self_seed + dealt[peer.site].masking,
                    private=sealing,
                    public=peer.sealing,
                    context=context,
                    sender=self._index,
                    receiver=peer.site,
                ),
            )
            for peer in peers
        )
        own = dealt[self._index]
        self._spend("share", context.round)
        self._enter(context.round, Shared(secrets=stage.secrets, peers=peers, own=own))
        return SealedShares(context=context, shares=sealed)

    # --- the round ----------------------------------------------------------------------------

    def mask(
        self, request: MaskRequest, *, layout: VectorLayout, model_digest: bytes, question: bytes
    ) -> OneMask:
        """Check everything, spend the right to this round's one vector, and make its masks.

        None of this needs the vector, nor the data that it is made of: they are touched after.
        The site's own secrets are forgotten.

        Args:
            request: as received.
            layout: of the vector, as this site has worked it out from the study.
            model_digest: SHA-256 of the model (or request) that this site has received.
            question: what the vector will answer, 32 bytes; the same vector each time. It can be
                masked in several rounds, and is unmasked in one: two sums of the same values
                with one site less in the second would lay that site's values open.

        Raises:
            ContextError: another study, run, round, roster, model or layout.
            StageError: no shares are out for this round.
            RosterError: a share from a site without keys in this round.
            FloorError: a cohort below the threshold.
            ShareError: a share that its sender has not sealed for this site.
            SpentError: the round is answered, or the question was unmasked before.
        """
        number = request.context.round
        context = self._terms.masking(number, layout=layout, model_digest=model_digest)
        check_context(request.context, context)
        stage = self._stage(number, Shared)
        peers = cohort_of(request, peers=stage.peers, roster=self._roster)
        shares = self._open(request, stage, peers)
        masks = self._masks(stage.secrets, peers, context)
        self._refuse_unmasked(question)
        self._spend("mask", number)
        # Earlier attempts are over with this one, and so is the answer to the last question.
        self._stages = {n: kept for n, kept in self._stages.items() if n > number}
        self._stages[number] = Masked(context=context, question=question, shares=shares)
        return OneMask(context=context, layout=layout, masks=masks)

    def sign(self, message: Survivors) -> Confirmation:
        """Sign the one survivor set of this round.

        Raises:
            ContextError: another study, run, round, roster, model or layout.
            StageError: no vector is out for this round.
            BothSharesError: a site is survivor and dropped.
            SurvivorsError: the set is not made of the cohort, lacks this site, or is too small.
            SpentError: answered before.
        """
        number = message.context.round
        stage = self._stage(number, Masked)
        check_context(message.context, stage.context)
        check_survivors(message, cohort=stage.shares.keys(), site=self._index, roster=self._roster)
        self._spend("sign", number)
        signature = self._identity.sign(survivors_statement(message))
        self._stages[number] = Confirmed(
            survivors=message, question=stage.question, shares=stage.shares
        )
        return Confirmation(context=message.context, signature=signature)

    def unmask(self, request: UnmaskRequest) -> UnmaskAnswer:
        """Give out one share of each site of the cohort, and forget the others.

        This spends the question that the vector answered, for good. The very same request gets the
        very same answer again, so that a server which was killed while it collected them can go on.

        Raises:
            ContextError: another study, run, round, roster, model or layout.
            StageError: this site has signed no survivor set in this round.
            ConsistencyError: fewer than the threshold have signed the same set.
            SpentError: another request was answered in this round, or the question was unmasked in
                another one.
        """
        number = request.context.round
        done = self._stages.get(number)
        if isinstance(done, Done) and done.request == _digest(request):
            return done.answer
        stage = self._stage(number, Confirmed)
        check_context(request.context, stage.survivors.context)
        check_consistency(request, signed=stage.survivors, roster=self._roster)
        # One survivor set is signed in a round: whatever state this is, the answer to this request
        # is the same, and it may be given again if this site is killed on its way.
        digest = _digest(request)
        self._bind_question(stage.question, digest)
        signed = stage.survivors
        answer = UnmaskAnswer(
            context=request.context,
            self_seeds=tuple((site, stage.shares[site].self_seed) for site in signed.survivors),
            masking_keys=tuple((site, stage.shares[site].masking) for site in signed.dropped),
        )
        self._stages[number] = Done(request=digest, answer=answer)
        return answer

    # --- parts --------------------------------------------------------------------------------

    def _draw(self, context: RoundContext) -> tuple[Secrets, SiteKeys]:
        sealing, sealing_public = keys.new_pair(self._random)
        masking, masking_public = keys.new_pair(self._random)
        self_seed = self._random(KEY_BYTES)
        public = sign_keys(
            self._identity,
            context,
            site=self._index,
            sealing=sealing_public,
            masking=masking_public,
            commitment=commitment(self_seed, context=context, site=self._index),
        )
        return Secrets(sealing=sealing, masking=masking, self_seed=self_seed), public

    def _deal(self, secrets: Secrets) -> list[HeldShares]:
        """Shares of both secrets, one pair for each site of the roster."""

        def dealt(secret: bytes) -> list[bytes]:
            return split(secret, threshold=self._roster.threshold, sites=len(self._roster))

        pairs = zip(dealt(secrets.self_seed), dealt(secrets.masking), strict=True)
        return [HeldShares(self_seed=seed, masking=masking) for seed, masking in pairs]

    def _open(
        self, request: MaskRequest, stage: Shared, peers: list[SiteKeys]
    ) -> dict[int, HeldShares]:
        shares = {self._index: stage.own}
        sealing = keys.AgreementKey(stage.secrets.sealing)
        for peer, (_, sealed) in zip(peers, request.shares, strict=True):
            opened = keys.open_sealed(
                sealed,
                private=sealing,
                public=peer.sealing,
                context=self._terms.setup(request.context.round),
                sender=peer.site,
                receiver=self._index,
            )
            halves = (opened[:SHARE_BYTES], opened[SHARE_BYTES:])
            for share in halves:
                check_share(share, holder=self._index, sender=peer.site)
            shares[peer.site] = HeldShares(self_seed=halves[0], masking=halves[1])
        return shares

    def _masks(self, secrets: Secrets, peers: list[SiteKeys], context: RoundContext) -> list[Mask]:
        """The site's own mask and one for each pair; the lower index adds, the higher subtracts."""
        seed = keys.self_mask_seed(secrets.self_seed, context=context, site=self._index)
        masks = [Mask(seed=seed, negate=False)]
        masking = keys.AgreementKey(secrets.masking)
        for peer in peers:
            seed = keys.pairwise_seed(
                masking,
                peer.masking,
                context=context,
                mine=self._index,
                theirs=peer.site,
            )
            masks.append(Mask(seed=seed, negate=self._index > peer.site))
        return masks

    def _spend(self, answer: str, number: int) -> None:
        """Burn the right to this answer, durably, before it can leave."""
        self._one_shots.spend(self._token(answer, number.to_bytes(4, "big")))

    def _refuse_unmasked(self, question: bytes) -> None:
        """Spare everybody an attempt that this site would not unmask."""
        if self._one_shots.spent(self._token("question", question)):
            raise SpentError(QUESTION_SPENT)

    def _bind_question(self, question: bytes, request: bytes) -> None:
        """Burn the right to answer a question in this run with anything but this request's sum."""
        try:
            self._one_shots.bind(self._token("question", question), request)
        except SpentError as error:
            raise SpentError(QUESTION_SPENT) from error

    def _token(self, answer: str, about: bytes) -> bytes:
        writer = Writer()
        writer.text(f"wardround/secure-aggregation/1/once/{answer}")
        for text in (self._terms.study_id, self._terms.run, self._site):
            writer.text(text)
        writer.fixed(about, len(about))
        return hashlib.sha256(writer.finish()).digest()

    def _enter(self, number: int, stage: Stage) -> None:
        """Keep the two latest rounds that are being set up, and the one that is under way.

        That one stays until a later one is masked, however many are set up meanwhile: a server
        that was killed may have stored its sum, and come back for the shares.
        """
        self._stages[number] = stage
        ahead = [n for n, s in self._stages.items() if isinstance(s, Advertised | Shared)]
        for past in sorted(ahead)[:-_AHEAD]:
            del self._stages[past]

    def _stage(self, number: int, kind: type[S]) -> S:
        stage = self._stages.get(number)
        if isinstance(stage, kind):
            return stage
        if stage is not None and stage.stage > kind.stage:
            raise SpentError(f"This site has answered that message of round {number} already.")
        raise StageError(
            f"A message of round {number} comes before its time, or this site is not in that "
            "round; it takes part again once it is asked for keys."
        )

    def _state(self, *, latest: int, stages: Mapping[int, Stage]) -> SiteState:
        return SiteState(
            site=self._site,
            study_id=self._terms.study_id,
            run=self._terms.run,
            roster_digest=self._roster.digest,
            latest=latest,
            stages=stages,
        )


def _digest(request: UnmaskRequest) -> bytes:
    return hashlib.sha256(encode(request)).digest()
