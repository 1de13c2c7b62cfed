"""A scripted malicious server, or peer, against honest sites: each attack ends in its own error."""

import dataclasses

import numpy as np
import pytest
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
    SurvivorsError,
)
from wardround_shared.secure_aggregation.keys import Identity, new_pair, seal
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
    for method, again in (("sign", message), ("unmask", request)):
        with pytest.raises(SpentError):
            cohort.ask(ME, method, again)


# --- once means once ----------------------------------------------------------------------------


def test_a_second_unmask():
    cohort = Cohort(4)
    cohort.bootstrap()
    cohort.mask(cohort.vectors())
    cohort.sign()
    before = dict(cohort.disk)
    cohort.unmask()
    request = cohort.server._round
    message = wire.UnmaskRequest(
        context=request.context, signatures=tuple(sorted(request.signatures.items()))
    )
    with pytest.raises(SpentError):
        cohort.ask(ME, "unmask", message)
    with pytest.raises(SpentError):  # nor from the state before
        cohort.restored(ME, before[ME]).unmask(message)


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
