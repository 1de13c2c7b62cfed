"""A scripted malicious server, or peer, against honest sites: each attack ends in its own error."""

import contextlib
import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from secure_cohort import MODEL, Cohort, names, question_of, ring_sum

from wardround_shared.secure_aggregation import wire
from wardround_shared.secure_aggregation.faults import (
    BothSharesError,
    ConsistencyError,
    ContextError,
    FloorError,
    MessageError,
    RosterError,
    ShareError,
    SignatureError,
    SpentError,
    StageError,
    SurvivorsError,
    ThresholdError,
)
from wardround_shared.secure_aggregation.keys import (
    Identity,
    new_pair,
    pairwise_seed,
    seal,
    self_mask_seed,
)
from wardround_shared.secure_aggregation.masks import add_mask
from wardround_shared.secure_aggregation.roster import Member, Roster, Terms
from wardround_shared.secure_aggregation.server import SecureServer
from wardround_shared.secure_aggregation.statements import (
    commitment,
    sign_keys,
    survivors_statement,
)
from wardround_shared.secure_aggregation.wire import decode, encode

ME, OTHER, LAST = "hospital-00", "hospital-01", "hospital-03"


def changed(message, **fields):
    return dataclasses.replace(message, **fields)


def at(pairs, place, value):
    """A tuple with one item replaced."""
    return (*pairs[:place], value, *pairs[place + 1 :])


def flipped(data: bytes, position: int = -1) -> bytes:
    altered = bytearray(data)
    altered[position] ^= 1
    return bytes(altered)


def advertised(cohort):
    cohort.advertise()
    return cohort.server.close_keys()


def masked(cohort, silent=()):
    """Everybody but the silent has uploaded; what the honest server would say next."""
    cohort.bootstrap()
    cohort.mask(cohort.vectors(), silent)
    return cohort.server.close_vectors()


# --- keys ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["sealing", "masking", "commitment"])
def test_keys_swapped_for_the_servers_own(field):
    cohort = Cohort(4)
    message = advertised(cohort)
    forged = changed(message.keys[1], **{field: new_pair(cohort.random)[1]})
    with pytest.raises(SignatureError):
        cohort.ask(ME, "share", changed(message, keys=at(message.keys, 1, forged)))


def test_keys_of_two_sites_swapped():
    cohort = Cohort(4)
    message = advertised(cohort)
    first, second = (changed(message.keys[i], site=j) for i, j in ((1, 2), (2, 1)))
    with pytest.raises(SignatureError):
        cohort.ask(ME, "share", changed(message, keys=(message.keys[0], second, first)))


def test_keys_that_a_site_has_signed_for_another_index():
    cohort = Cohort(4)
    message = advertised(cohort)
    keys = message.keys[1]
    moved = sign_keys(
        cohort.identities[OTHER],
        message.context,
        site=2,
        sealing=keys.sealing,
        masking=keys.masking,
        commitment=keys.commitment,
    )
    with pytest.raises(SignatureError):
        cohort.ask(ME, "share", changed(message, keys=at(message.keys, 1, changed(moved, site=1))))


def test_unsigned_keys():
    cohort = Cohort(4)
    message = advertised(cohort)
    unsigned = changed(message.keys[1], signature=bytes(64))
    with pytest.raises(SignatureError):
        cohort.ask(ME, "share", changed(message, keys=at(message.keys, 1, unsigned)))


def test_the_keys_of_one_site_given_for_another_with_its_signature():
    cohort = Cohort(4)
    message = advertised(cohort)
    copied = changed(message.keys[2], site=1)
    with pytest.raises(RosterError, match="same key"):
        cohort.ask(ME, "share", changed(message, keys=at(message.keys, 1, copied)))


def test_a_sites_own_keys_changed_or_left_out():
    cohort = Cohort(4)
    message = advertised(cohort)
    with pytest.raises(RosterError, match="own keys"):
        cohort.ask(ME, "share", changed(message, keys=message.keys[1:]))


def test_a_key_that_forces_a_known_secret():
    """A colluding site signs an all-zero X25519 key, whose agreement is zero for everybody."""
    cohort = Cohort(4)
    message = advertised(cohort)
    keys = message.keys[1]
    weak = sign_keys(
        cohort.identities[OTHER],
        message.context,
        site=1,
        sealing=bytes(32),
        masking=keys.masking,
        commitment=keys.commitment,
    )
    with pytest.raises(MessageError):
        cohort.ask(ME, "share", changed(message, keys=at(message.keys, 1, weak)))


# --- the roster ---------------------------------------------------------------------------------


def test_a_fake_site_among_the_keys():
    cohort = Cohort(4)
    message = advertised(cohort)
    fake = sign_keys(
        Identity(cohort.random(32)),
        message.context,
        site=4,
        sealing=new_pair(cohort.random)[1],
        masking=new_pair(cohort.random)[1],
        commitment=bytes(32),
    )
    with pytest.raises(RosterError, match="not in the roster"):
        cohort.ask(ME, "share", changed(message, keys=(*message.keys, fake)))


def test_a_fake_site_in_place_of_a_real_one():
    cohort = Cohort(4)
    message = advertised(cohort)
    fake = sign_keys(
        Identity(cohort.random(32)),
        message.context,
        site=1,
        sealing=new_pair(cohort.random)[1],
        masking=new_pair(cohort.random)[1],
        commitment=bytes(32),
    )
    with pytest.raises(SignatureError):
        cohort.ask(ME, "share", changed(message, keys=at(message.keys, 1, fake)))


def test_another_roster_than_the_approved_one():
    cohort = Cohort(4)
    members = {name: identity.public for name, identity in cohort.identities.items()}
    members["hospital-04"] = Identity(cohort.random(32)).public
    rogue = SecureServer(terms=changed(cohort.terms, roster=Roster.of(members)))
    with pytest.raises(RosterError, match="another roster"):
        cohort.ask(ME, "advertise", rogue.open_setup())


def test_the_approved_sites_with_another_threshold():
    cohort = Cohort(4)
    rogue = SecureServer(terms=changed(cohort.terms, roster=changed(cohort.roster, threshold=4)))
    with pytest.raises(RosterError, match="another roster"):
        cohort.ask(ME, "advertise", rogue.open_setup())


def test_one_key_under_two_names():
    members = [Member(site=name, identity=b"k" * 32) for name in names(3)]
    with pytest.raises(RosterError, match="same identity"):
        Roster(members=tuple(members), threshold=3)


# --- floors -------------------------------------------------------------------------------------


def roster_of(sites, threshold):
    members = tuple(Member(site=n, identity=n.ljust(32).encode()) for n in names(sites))
    return Roster(members=members, threshold=threshold)


def test_a_roster_of_two():
    with pytest.raises(FloorError, match="2 sites"):
        roster_of(2, 2)


@pytest.mark.parametrize(("sites", "threshold"), [(4, 1), (4, 2), (6, 4), (10, 6), (3, 2), (4, 5)])
def test_a_threshold_of_one_or_of_two_thirds_or_less(sites, threshold):
    with pytest.raises(FloorError, match="threshold"):
        roster_of(sites, threshold)


def test_keys_of_two_sites_only():
    cohort = Cohort(4)
    message = advertised(cohort)
    with pytest.raises(FloorError):
        cohort.ask(ME, "share", changed(message, keys=message.keys[:2]))


def test_a_cohort_of_two():
    cohort = Cohort(4)
    cohort.bootstrap()
    request = cohort.open_round()[ME]
    with pytest.raises(FloorError, match="cohort has 2"):
        cohort.ask_mask(ME, changed(request, shares=request.shares[:1]))


def test_two_survivors():
    cohort = Cohort(4)
    message = masked(cohort)
    with pytest.raises(SurvivorsError, match="2 sites survive"):
        cohort.ask(ME, "sign", changed(message, survivors=(0, 1), dropped=(2, 3)))


# --- survivors ----------------------------------------------------------------------------------


def test_both_shares_of_one_site():
    cohort = Cohort(4)
    message = masked(cohort)
    with pytest.raises(BothSharesError, match="site 3"):
        cohort.ask(ME, "sign", changed(message, dropped=(3,)))


@pytest.mark.parametrize(
    ("survivors", "dropped"),
    [((0, 1, 2), ()), ((0, 1, 2, 3), (4,)), ((0, 1, 2, 4), (3,)), ((0, 1, 2), (4,))],
)
def test_survivors_that_do_not_make_up_the_cohort(survivors, dropped):
    cohort = Cohort(5)
    cohort.bootstrap({"hospital-04"})  # absent: no share of it may ever be asked for
    cohort.mask(cohort.vectors())
    message = cohort.server.close_vectors()
    with pytest.raises(SurvivorsError, match="make up"):
        cohort.ask(ME, "sign", changed(message, survivors=survivors, dropped=dropped))


def test_a_site_that_has_answered_is_called_dropped():
    cohort = Cohort(4)
    message = masked(cohort)
    with pytest.raises(SurvivorsError, match="this site"):
        cohort.ask(ME, "sign", changed(message, survivors=(1, 2, 3), dropped=(0,)))


def split_view(cohort):
    """Two halves are told two survivor sets; all their signatures are given to everybody."""
    message = masked(cohort)
    other = changed(message, survivors=message.survivors[:-1], dropped=message.survivors[-1:])
    half = len(cohort.names) // 2
    signatures = []
    for index, name in enumerate(cohort.names[:-1]):
        told = message if index < half else other
        signatures.append((index, cohort.ask(name, "sign", told).signature))
    return wire.UnmaskRequest(context=message.context, signatures=tuple(signatures))


@pytest.mark.parametrize("victim", [0, 5])
def test_two_survivor_sets_for_two_halves(victim):
    cohort = Cohort(7)
    request = split_view(cohort)
    name = cohort.names[victim]
    with pytest.raises(ConsistencyError, match="has not signed"):
        cohort.ask(name, "unmask", request)


def test_two_survivor_sets_with_the_other_half_left_out():
    cohort = Cohort(7)
    request = split_view(cohort)
    with pytest.raises(ConsistencyError, match="3 sites have confirmed"):
        cohort.ask(ME, "unmask", changed(request, signatures=request.signatures[:3]))


def test_signatures_made_up():
    cohort = Cohort(4)
    message = masked(cohort)
    mine = cohort.ask(ME, "sign", message).signature
    signatures = tuple((site, mine) for site in range(4))
    request = wire.UnmaskRequest(context=message.context, signatures=signatures)
    with pytest.raises(ConsistencyError, match="Site 1"):
        cohort.ask(ME, "unmask", request)


def test_a_colluding_site_that_was_dropped_confirms():
    cohort = Cohort(4)
    message = masked(cohort, {LAST})
    signatures = [(i, cohort.ask(cohort.names[i], "sign", message).signature) for i in (0, 1)]
    signatures.append((3, cohort.identities[LAST].sign(survivors_statement(message))))
    request = wire.UnmaskRequest(context=message.context, signatures=tuple(signatures))
    with pytest.raises(ConsistencyError, match="no survivor"):
        cohort.ask(ME, "unmask", request)


def test_a_site_dropped_and_later_said_to_have_survived():
    """Its masking key could be rebuilt first and its self seed later: nobody signs twice."""
    cohort = Cohort(4)
    message = masked(cohort)
    without = changed(message, survivors=(0, 1, 2), dropped=(3,))
    signatures = [(i, cohort.ask(cohort.names[i], "sign", without).signature) for i in range(3)]
    with pytest.raises(SpentError):
        cohort.ask(ME, "sign", message)
    request = wire.UnmaskRequest(context=message.context, signatures=tuple(signatures))
    answer = cohort.ask(ME, "unmask", request)
    assert [site for site, _ in answer.self_seeds] == [0, 1, 2]
    assert [site for site, _ in answer.masking_keys] == [3]
    signed_by_a_liar = changed(request, signatures=(*request.signatures, (3, bytes(64))))
    for method, again in (("sign", message), ("unmask", signed_by_a_liar)):
        with pytest.raises(SpentError):
            cohort.ask(ME, method, again)
    assert encode(cohort.ask(ME, "unmask", request)) == encode(answer)


# --- once means once ----------------------------------------------------------------------------


def confirmed(cohort, vectors=None, silent=(), question=None):
    """An attempt up to the request to unmask it, by an honest server; keys for it are set up."""
    cohort.bootstrap()
    cohort.mask(vectors or cohort.vectors(), silent, question)
    cohort.sign()
    return cohort.server.close_confirmations()


def test_a_second_unmask():
    cohort = Cohort(4)
    message = confirmed(cohort)
    before = dict(cohort.disk)
    given = encode(cohort.ask(ME, "unmask", message))
    for other in (
        changed(message, signatures=message.signatures[1:]),
        changed(message, signatures=message.signatures[:-1]),
    ):
        for state in (cohort.disk[ME], before[ME]):  # nor from the state before
            with pytest.raises(SpentError):
                cohort.restored(ME, state).unmask(other)
    # Who asks the very same gets what he has: no share more.
    for state in (cohort.disk[ME], before[ME]):
        assert encode(cohort.restored(ME, state).unmask(message)) == given


def test_the_same_round_asked_twice_with_one_site_less():
    """Differencing: the second sum would lack one site, the difference is its vector."""
    cohort = Cohort(5)
    cohort.bootstrap()
    before = dict(cohort.disk)
    request = cohort.open_round()[ME]
    less = changed(request, shares=request.shares[:-1])
    cohort.ask_mask(ME, request)
    with pytest.raises(SpentError):
        cohort.ask_mask(ME, less)
    with pytest.raises(SpentError):  # nor with the state restored that has not answered yet
        cohort.accept(cohort.restored(ME, before[ME]), less)


def test_the_same_survivors_asked_twice_with_one_site_less():
    cohort = Cohort(5)
    message = masked(cohort)
    before = dict(cohort.disk)
    cohort.ask(ME, "sign", message)
    less = changed(message, survivors=message.survivors[:-1], dropped=message.survivors[-1:])
    with pytest.raises(SpentError):
        cohort.ask(ME, "sign", less)
    with pytest.raises(SpentError):
        cohort.restored(ME, before[ME]).sign(less)


def test_one_mask_never_covers_two_vectors():
    """The state was lost after the vector was sent, and even the whole site is set up anew."""
    cohort = Cohort(4)
    fresh = dict(cohort.disk)
    request = cohort.server.open_setup()
    cohort.ask(ME, "advertise", request)
    with pytest.raises(SpentError):
        cohort.restored(ME, fresh[ME]).advertise(request)


def test_one_signature_given_several_times_is_one_confirmation():
    cohort = Cohort(4)
    message = masked(cohort)
    signature = cohort.ask(ME, "sign", message).signature
    # As a message in memory: encoded, such a list is refused before.
    request = wire.UnmaskRequest(context=message.context, signatures=((0, signature),) * 3)
    with pytest.raises(ConsistencyError, match="1 sites have confirmed"):
        cohort.restored(ME).unmask(request)
    with pytest.raises(MessageError):
        encode(request)


def test_one_site_given_several_times_makes_no_cohort():
    cohort = Cohort(4)
    cohort.bootstrap()
    request = cohort.open_round()[ME]
    twice = changed(request, shares=(request.shares[0], request.shares[0]))
    with pytest.raises(RosterError, match="twice"):
        cohort.accept(cohort.restored(ME), twice)


# --- one sum for each question ------------------------------------------------------------------

QUESTION = question_of(0)


def test_the_same_question_asked_twice_with_one_site_less():
    """Differencing between attempts: of the second sum nobody gives a share."""
    cohort = Cohort(5)
    vectors = cohort.vectors()
    request = confirmed(cohort, vectors, question=QUESTION)
    for name in cohort.server.confirmed:
        cohort.server.take_answer(name, cohort.ask(name, "unmask", request))
    total = cohort.server.close_round()
    assert np.array_equal(total.total, ring_sum(vectors.values(), cohort.layout))
    cohort.bootstrap({LAST})
    for name, again in cohort.open_round().items():
        with pytest.raises(SpentError, match="question"):
            cohort.ask_mask(name, again, vectors[name], QUESTION)


def test_two_attempts_at_a_question_masked_before_either_is_unmasked():
    """The server collects both and asks for both; a site that masked the second has lost the first.

    With older copies of its state beside the register it could answer either, and answers one.
    """
    cohort = Cohort(5)
    vectors = cohort.vectors()
    first = confirmed(cohort, vectors, question=QUESTION)
    states = [dict(cohort.disk)]
    second = confirmed(cohort, vectors, silent={LAST}, question=QUESTION)
    states.append(dict(cohort.disk))
    for name in set(cohort.names) - {LAST}:
        with pytest.raises(StageError):
            cohort.ask(name, "unmask", first)
        assert cohort.ask(name, "unmask", second).masking_keys
        with pytest.raises(SpentError, match="question"):
            cohort.restored(name, states[0][name]).unmask(first)
    # The one that was left out of the second may give its share of the first; it is the only one.
    assert cohort.restored(LAST, states[0][LAST]).unmask(first).self_seeds


@pytest.mark.parametrize("sites", [3, 4, 5, 7, 10])
@given(data=st.data())
def test_at_most_one_attempt_at_a_question_reaches_the_threshold(sites, data):
    """Whatever is asked in whatever order, of any copy of a state, with all allowed colluders."""
    cohort = Cohort(sites)
    threshold = cohort.roster.threshold
    colluding = cohort.names[: 2 * threshold - sites - 1]
    attempts = []
    for _ in range(3):
        request = confirmed(cohort, question=QUESTION)
        attempts.append((request, dict(cohort.disk)))
    asked = [(name, place) for name in cohort.names[len(colluding) :] for place in range(3)]
    shares = {place: set(colluding) for place in range(3)}
    for name, place in data.draw(st.permutations(asked)):
        request, states = attempts[place]
        with contextlib.suppress(SpentError):
            cohort.restored(name, states[name]).unmask(request)
            shares[place].add(name)
    reached = [place for place, sharing in shares.items() if len(sharing) >= threshold]
    assert len(reached) <= 1
    assert sum(len(sharing) for sharing in shares.values()) == sites + 2 * len(colluding)


def test_one_more_that_colludes_could_unmask_two_attempts():
    """The bound is sharp: what is claimed is not claimed for one site more."""
    for sites in (3, 4, 5, 7, 10):
        threshold = Cohort(sites).roster.threshold
        colluding = 2 * threshold - sites
        honest = sites - colluding
        assert 2 * (threshold - colluding) <= honest


def test_the_second_attempt_after_the_first_was_unmasked_by_some():
    """Too few for the first sum; they take no part in the second, and so it has too few as well."""
    cohort = Cohort(4)  # three make a sum
    vectors = cohort.vectors()
    first = confirmed(cohort, vectors, question=QUESTION)
    for name in cohort.names[:2]:
        cohort.ask(name, "unmask", first)
    cohort.bootstrap()
    answered = []
    for name, request in cohort.open_round().items():
        if name in cohort.names[:2]:
            with pytest.raises(SpentError, match="question"):
                cohort.ask_mask(name, request, vectors[name], QUESTION)
        else:
            cohort.server.take_vector(name, cohort.ask_mask(name, request, vectors[name], QUESTION))
            answered.append(name)
    assert len(answered) == 2
    with pytest.raises(ThresholdError):
        cohort.server.close_vectors()
    # An honest server goes on with the first: who has answered gives the same again.
    assert all(cohort.ask(name, "unmask", first) for name in cohort.names[:2])


def test_one_vector_in_two_attempts_gives_unrelated_words():
    """All others collude, and take off what they have in common with the victim.

    What is left is its values under its own mask, which is fresh for each attempt.
    """
    cohort = Cohort(4, length=1000)
    vector = np.arange(cohort.layout.words, dtype=np.uint32)
    seen = []
    for number in (1, 2):
        cohort.bootstrap()
        stages = {name: cohort.restored(name)._stages[number] for name in cohort.names}
        request = cohort.open_round()[ME]
        masked = cohort.ask_mask(ME, request, vector, QUESTION).vector.copy()
        for place, name in enumerate(cohort.names[1:], start=1):
            victim = next(keys for keys in stages[name].peers if keys.site == 0)
            private = stages[name].secrets.masking
            seed = pairwise_seed(
                private, victim.masking, context=request.context, mine=place, theirs=0
            )
            add_mask(masked, seed, negate=True)
        seen.append(masked.copy())
        own = self_mask_seed(stages[ME].secrets.self_seed, context=request.context, site=0)
        add_mask(masked, own, negate=True)
        assert np.array_equal(masked, vector), "nothing but its own mask was left"
    difference = seen[0] - seen[1]
    assert len(np.unique(difference)) > 990


def test_a_question_named_by_the_server_when_it_unmasks():
    """It is the site that remembers what its vector was an answer to; no message carries it."""
    assert {field.name for field in dataclasses.fields(wire.UnmaskRequest)} == {
        "context",
        "signatures",
    }
    assert {field.name for field in dataclasses.fields(wire.MaskRequest)} == {"context", "shares"}


# --- replay -------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [{"run": "run-2"}, {"study": "another"}])
def test_replay_from_another_run_or_study(other):
    """The same sites with the same keys in another run: each of its messages is refused."""
    here, there = Cohort(4), Cohort(4, **other)
    assert here.roster == there.roster
    what = "run" if "run" in other else "study"

    def refused(method, message, **arguments):
        with pytest.raises(ContextError, match=what):
            getattr(here.restored(ME), method)(message, **arguments)

    refused("advertise", there.server.open_setup())
    here.advertise()
    refused("share", advertised(there))
    here, there = Cohort(4), Cohort(4, **other)
    here.bootstrap()
    there.bootstrap()
    arguments = {"layout": here.layout, "model_digest": MODEL, "question": question_of(1)}
    refused("mask", there.open_round()[ME], **arguments)
    here.mask(here.vectors())
    here_set, there_set = here.server.close_vectors(), masked(Cohort(4, **other))
    refused("sign", there_set)
    here.ask(ME, "sign", here_set)
    signatures = tuple((site, bytes(64)) for site in range(4))
    refused("unmask", wire.UnmaskRequest(context=there_set.context, signatures=signatures))


def test_keys_of_another_round_under_this_rounds_name():
    cohort = Cohort(4)
    old = advertised(cohort)
    new = advertised(cohort)
    replayed = at(new.keys, 1, old.keys[1])
    with pytest.raises(SignatureError):
        cohort.ask(ME, "share", changed(new, keys=replayed))


def test_sealed_shares_of_another_round_under_this_rounds_name():
    cohort = Cohort(4)
    cohort.bootstrap()
    old = cohort.open_round()[ME]
    cohort.bootstrap()
    new = cohort.open_round()[ME]
    with pytest.raises(ShareError):
        cohort.ask_mask(ME, changed(new, shares=old.shares))


def test_confirmations_of_another_round_under_this_rounds_name():
    cohort = Cohort(4)
    cohort.bootstrap()
    cohort.round(cohort.vectors(), (), (), ())
    cohort.mask(cohort.vectors())
    cohort.sign()
    old = cohort.server.close_confirmations()
    cohort.bootstrap()
    cohort.mask(cohort.vectors())
    message = cohort.server.close_vectors()
    cohort.ask(ME, "sign", message)
    with pytest.raises(ConsistencyError):
        cohort.ask(ME, "unmask", changed(old, context=message.context))


def test_a_message_of_a_past_round_as_it_was():
    cohort = Cohort(4)
    cohort.bootstrap()
    request = cohort.open_round()[ME]
    cohort.ask_mask(ME, request)
    cohort.bootstrap()
    with pytest.raises(SpentError):
        cohort.ask_mask(ME, request)


# --- the model ----------------------------------------------------------------------------------


def test_another_model_than_the_one_that_was_sent():
    cohort = Cohort(4)
    cohort.bootstrap()
    rogue = cohort.server.open_round(layout=cohort.layout, model_digest=b"x" * 32)
    with pytest.raises(ContextError, match="model"):
        cohort.ask_mask(ME, rogue[ME])


def test_a_model_of_its_own_for_one_site():
    """Each site sees a consistent story, but they sign different ones."""
    cohort = Cohort(4)
    cohort.bootstrap()
    requests = cohort.open_round()
    special = cohort.terms.masking(1, layout=cohort.layout, model_digest=b"x" * 32)
    cohort.restored(ME)
    site = cohort.restored(ME)
    cohort.accept(site, changed(requests[ME], context=special), model=b"x" * 32)
    cohort.disk[ME] = site.to_bytes()
    for name in cohort.names[1:]:
        cohort.ask_mask(name, requests[name])
    told = wire.Survivors(context=special, survivors=(0, 1, 2, 3), dropped=())
    signatures = [(0, cohort.ask(ME, "sign", told).signature)]
    told = changed(told, context=requests[OTHER].context)
    signatures += [
        (index, cohort.ask(name, "sign", told).signature)
        for index, name in enumerate(cohort.names)
        if name != ME
    ]
    request = wire.UnmaskRequest(context=special, signatures=tuple(signatures))
    with pytest.raises(ConsistencyError):
        cohort.ask(ME, "unmask", request)
    with pytest.raises(ConsistencyError):
        cohort.ask(OTHER, "unmask", changed(request, context=told.context))


# --- shares -------------------------------------------------------------------------------------


def test_a_sealed_share_tampered_with_by_the_server():
    cohort = Cohort(4)
    cohort.bootstrap()
    request = cohort.open_round()[ME]
    (sender, sealed), *rest = request.shares
    with pytest.raises(ShareError, match=f"site {sender}"):
        cohort.ask_mask(ME, changed(request, shares=((sender, flipped(sealed)), *rest)))


def test_a_sealed_share_given_to_another_site():
    cohort = Cohort(4)
    cohort.bootstrap()
    requests = cohort.open_round()
    shares = {name: dict(request.shares) for name, request in requests.items()}
    wrong = shares[ME] | {2: shares[OTHER][2]}
    with pytest.raises(ShareError):
        cohort.ask_mask(ME, changed(requests[ME], shares=tuple(wrong.items())))


def test_a_share_from_a_site_without_keys():
    cohort = Cohort(5)
    cohort.bootstrap({"hospital-04"})
    request = cohort.open_round()[ME]
    with pytest.raises(RosterError, match="no keys"):
        cohort.ask_mask(ME, changed(request, shares=(*request.shares, (4, b"x" * 84))))


@pytest.mark.parametrize(
    "dealt",
    [b"", (b"\0\1" * 34)[:-1], b"\0\1" * 34 + b"\0", b"\0\2" * 34],
    ids=["none", "too short", "too long", "of another site"],
)
def test_a_share_that_a_colluding_site_has_dealt_wrongly(dealt):
    cohort = Cohort(4)
    cohort.advertise()
    message = cohort.server.close_keys()
    for name in cohort.names:
        answer = cohort.ask(name, "share", message)
        if name == OTHER:
            secrets = cohort.restored(OTHER)._stages[1].secrets
            sealed = seal(
                dealt,
                private=secrets.sealing,
                public=message.keys[0].sealing,
                context=message.context,
                sender=1,
                receiver=0,
            )
            answer = changed(answer, shares=at(answer.shares, 0, (0, sealed)))
        cohort.server.take_shares(name, answer)
    request = cohort.open_round()[ME]
    with pytest.raises(ShareError):
        cohort.ask_mask(ME, request)


def unmasked(cohort, kind, liars, dropped):
    """The round closed after these sites have sent a wrong share of the first secret."""
    cohort.bootstrap()
    vectors = cohort.vectors()
    cohort.mask(vectors, dropped)
    cohort.sign()
    request = cohort.server.close_confirmations()
    for place, name in enumerate(cohort.server.confirmed):
        answer = cohort.ask(name, "unmask", request)
        if name in liars:
            # Each lies in another bit: equal errors can cancel, and the secret be true again.
            (owner, share), *rest = getattr(answer, kind)
            answer = changed(answer, **{kind: ((owner, flipped(share, -1 - place)), *rest)})
        cohort.server.take_answer(name, answer)
    kept = [vectors[name] for name in cohort.names if name not in dropped]
    return cohort.server.close_round(), ring_sum(kept, cohort.layout)


@pytest.mark.parametrize("kind", ["self_seeds", "masking_keys"])
def test_an_unmask_answer_tampered_with(kind):
    """A wrong share would silently give a wrong sum; the commitment and public key show it."""
    with pytest.raises(ShareError, match="do not give the secret"):
        unmasked(Cohort(4), kind, liars={ME}, dropped={LAST})


@pytest.mark.parametrize("kind", ["self_seeds", "masking_keys"])
@pytest.mark.parametrize("liars", [{0}, {3}, {7}, {0, 1}, {2, 7}, {0, 7}])
def test_false_shares_are_left_out_as_long_as_enough_true_ones_remain(kind, liars):
    """Ten sites, seven are needed and nine answer: two may lie."""
    cohort = Cohort(10)
    lying = {cohort.names[place] for place in liars}
    total, plain = unmasked(cohort, kind, lying, dropped={cohort.names[9]})
    assert np.array_equal(total.total, plain)


def test_sites_that_lie_about_different_secrets_are_all_left_out():
    cohort = Cohort(10)
    cohort.bootstrap()
    vectors = cohort.vectors()
    cohort.mask(vectors)
    cohort.sign()
    request = cohort.server.close_confirmations()
    for place, name in enumerate(cohort.server.confirmed):
        answer = cohort.ask(name, "unmask", request)
        seeds = answer.self_seeds
        if place < 3:
            owner, share = seeds[place]
            answer = changed(answer, self_seeds=at(seeds, place, (owner, flipped(share))))
        cohort.server.take_answer(name, answer)
    total = cohort.server.close_round().total
    assert np.array_equal(total, ring_sum(vectors.values(), cohort.layout))


def test_one_lie_too_many_gives_the_round_up():
    cohort = Cohort(10)
    with pytest.raises(ShareError):
        unmasked(cohort, "self_seeds", set(cohort.names[:4]), dropped=set())


def test_a_commitment_fits_one_seed_round_and_site():
    context = Cohort(3).terms.setup(1)
    later = changed(context, round=2)
    seeds = [bytes(32), bytes(31) + b"\1"]
    made = {
        commitment(seed, context=where, site=site)
        for seed in seeds
        for where in (context, later)
        for site in (0, 1)
    }
    assert len(made) == 8


# --- malformed ----------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["truncated", "oversized", "malformed"])
def test_damaged_messages(damage):
    cohort = Cohort(4)
    data = encode(advertised(cohort))
    damaged, why = {
        "truncated": (data[:-1], "truncated"),
        "oversized": (data + bytes(wire.MAX_BYTES), "longer than any"),
        "malformed": (b"no" + data[2:], "none of secure aggregation"),
    }[damage]
    with pytest.raises(MessageError, match=why):
        decode(damaged, wire.Advertisements)


def test_terms_hold_nothing_that_a_message_could_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Cohort(3).terms.run = "another"
    assert {field.name for field in dataclasses.fields(Terms)} == {"study_id", "run", "roster"}
