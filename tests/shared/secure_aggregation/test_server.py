"""The server's state machine: drop-out at every stage, and nothing below the threshold."""

import dataclasses
import gc
import weakref

import numpy as np
import pytest
from secure_cohort import MODEL, Cohort, ring_sum, wired

from wardround_shared.errors import NotEnoughSitesError
from wardround_shared.secure_aggregation import wire
from wardround_shared.secure_aggregation.faults import (
    ContextError,
    MessageError,
    RosterError,
    ShareError,
    SignatureError,
    SpentError,
    StageError,
    ThresholdError,
)
from wardround_shared.secure_aggregation.server import SecureServer

# Of seven sites two may be missing.
GONE = {"hospital-02", "hospital-05"}
TOO_MANY = GONE | {"hospital-06"}


def summed_without(cohort, vectors, gone):
    return ring_sum([v for name, v in vectors.items() if name not in gone], cohort.layout)


@pytest.mark.parametrize("stage", ["keys", "shares"])
def test_a_site_that_is_silent_in_the_setup_is_absent(stage):
    cohort = Cohort(7)
    cohort.bootstrap(GONE if stage == "keys" else (), GONE if stage == "shares" else ())
    vectors = cohort.vectors()
    summed = cohort.round(vectors)
    assert np.array_equal(summed.total, summed_without(cohort, vectors, GONE))
    assert summed.sites == 5
    assert summed.dropped == ()
    vectors = cohort.vectors()  # and it is back in the next round
    assert np.array_equal(cohort.round(vectors).total, summed_without(cohort, vectors, ()))


def test_a_site_that_is_silent_during_upload_is_dropped():
    cohort = Cohort(7)
    cohort.bootstrap()
    vectors = cohort.vectors()
    summed = cohort.round(vectors, GONE)
    assert np.array_equal(summed.total, summed_without(cohort, vectors, GONE))
    assert set(summed.dropped) == GONE


@pytest.mark.parametrize("exchange", [2, 3])
def test_a_site_that_is_silent_after_upload_survives(exchange):
    cohort = Cohort(7)
    cohort.bootstrap()
    vectors = cohort.vectors()
    silent = [GONE if exchange == number else () for number in (1, 2, 3)]
    summed = cohort.round(vectors, *silent)
    assert np.array_equal(summed.total, summed_without(cohort, vectors, ()))
    assert summed.sites == 7


def test_different_sites_may_be_silent_at_every_stage():
    cohort = Cohort(10)
    cohort.bootstrap({"hospital-00"}, {"hospital-01"})
    vectors = cohort.vectors()
    with pytest.raises(ThresholdError):
        cohort.round(vectors, {"hospital-02"}, {"hospital-03"}, {"hospital-04"})
    cohort.bootstrap({"hospital-00"})
    vectors = cohort.vectors()
    summed = cohort.round(vectors, {"hospital-02"}, {"hospital-03"}, ())
    expected = summed_without(cohort, vectors, {"hospital-00", "hospital-02"})
    assert np.array_equal(summed.total, expected)


@pytest.mark.parametrize("exchange", [1, 2, 3])
def test_below_the_threshold_the_round_is_given_up_and_the_next_one_starts(exchange):
    cohort = Cohort(7)
    cohort.bootstrap()
    silent = [TOO_MANY if exchange == number else () for number in (1, 2, 3)]
    with pytest.raises(ThresholdError, match="nothing is revealed") as caught:
        cohort.round(cohort.vectors(), *silent)
    assert isinstance(caught.value, NotEnoughSitesError)
    with pytest.raises(StageError):
        cohort.server.close_round()
    if not cohort.server.ready:
        cohort.bootstrap()
    vectors = cohort.vectors()
    summed = cohort.round(vectors)
    assert np.array_equal(summed.total, summed_without(cohort, vectors, ()))


@pytest.mark.parametrize("stage", [1, 2])
def test_below_the_threshold_a_setup_is_given_up(stage):
    cohort = Cohort(7)
    cohort.advertise(TOO_MANY if stage == 1 else ())
    if stage == 1:
        with pytest.raises(ThresholdError):
            cohort.server.close_keys()
    else:
        cohort.share(TOO_MANY)
        with pytest.raises(ThresholdError):
            cohort.open_round()
    assert not cohort.server.ready
    cohort.bootstrap()
    assert cohort.server.ready


def test_the_keys_of_a_round_are_never_those_of_another():
    cohort = Cohort(3)
    seen = set()
    for _ in range(3):
        cohort.advertise()
        message = cohort.server.close_keys()
        seen |= {key for one in message.keys for key in (one.sealing, one.masking, one.commitment)}
    assert len(seen) == 3 * 3 * 3


def test_the_server_keeps_no_vector():
    cohort = Cohort(3, length=1000)
    cohort.bootstrap()
    requests = cohort.open_round()
    for name, request in requests.items():
        message = cohort.ask_mask(name, request)
        owned = message.vector.copy()
        message = dataclasses.replace(message, vector=owned)
        kept = weakref.ref(owned)
        cohort.server.take_vector(name, message)
        del message, owned
        gc.collect()
        assert kept() is None


def test_a_vector_that_comes_after_the_close_is_refused_and_not_added():
    cohort = Cohort(7)
    cohort.bootstrap()
    vectors = cohort.vectors()
    requests = cohort.open_round()
    late = cohort.ask_mask("hospital-06", requests["hospital-06"])
    for name in cohort.names[:6]:
        cohort.server.take_vector(name, cohort.ask_mask(name, requests[name], vectors[name]))
    cohort.sign()
    with pytest.raises(StageError):
        cohort.server.take_vector("hospital-06", late)
    cohort.unmask()
    summed = cohort.server.close_round()
    assert np.array_equal(summed.total, summed_without(cohort, vectors, {"hospital-06"}))


@pytest.mark.parametrize("vector", [np.zeros(4, np.uint32), np.zeros(6, np.uint32)])
def test_a_vector_of_another_length_leaves_the_sum_as_it_was(vector):
    cohort = Cohort(4)
    cohort.bootstrap()
    vectors = cohort.vectors()
    requests = cohort.open_round()
    for name in cohort.names:
        message = cohort.ask_mask(name, requests[name], vectors[name])
        if name == "hospital-01":
            with pytest.raises(MessageError, match="words"):
                cohort.server.take_vector(name, dataclasses.replace(message, vector=vector))
        else:
            cohort.server.take_vector(name, message)
    cohort.sign()
    cohort.unmask()
    summed = cohort.server.close_round()
    assert np.array_equal(summed.total, summed_without(cohort, vectors, {"hospital-01"}))


def test_no_site_answers_twice():
    cohort = Cohort(4)
    request = cohort.server.open_setup()
    keys = {name: cohort.ask(name, "advertise", request) for name in cohort.names}
    for name in cohort.names:
        cohort.server.take_keys(name, keys[name])
    with pytest.raises(SpentError):
        cohort.server.take_keys("hospital-00", keys["hospital-00"])
    message = cohort.server.close_keys()
    shares = {name: cohort.ask(name, "share", message) for name in cohort.names}
    for name in cohort.names:
        cohort.server.take_shares(name, shares[name])
    with pytest.raises(SpentError):
        cohort.server.take_shares("hospital-00", shares["hospital-00"])
    requests = cohort.open_round()
    vectors = {name: cohort.ask_mask(name, requests[name]) for name in cohort.names}
    for name in cohort.names:
        cohort.server.take_vector(name, vectors[name])
    with pytest.raises(SpentError):
        cohort.server.take_vector("hospital-00", vectors["hospital-00"])
    survivors = cohort.server.close_vectors()
    signed = {name: cohort.ask(name, "sign", survivors) for name in cohort.names}
    for name in cohort.names:
        cohort.server.take_confirmation(name, signed[name])
    with pytest.raises(SpentError):
        cohort.server.take_confirmation("hospital-00", signed["hospital-00"])
    request = cohort.server.close_confirmations()
    answers = {name: cohort.ask(name, "unmask", request) for name in cohort.names}
    for name in cohort.names:
        cohort.server.take_answer(name, answers[name])
    with pytest.raises(SpentError):
        cohort.server.take_answer("hospital-00", answers["hospital-00"])


def test_no_site_speaks_for_another():
    cohort = Cohort(4)
    message = cohort.ask("hospital-00", "advertise", cohort.server.open_setup())
    with pytest.raises(RosterError, match="in the name of"):
        cohort.server.take_keys("hospital-01", message)
    with pytest.raises(RosterError, match="not in the roster"):
        cohort.server.take_keys("hospital-99", message)


def test_unsigned_keys_are_refused():
    cohort = Cohort(4)
    message = cohort.ask("hospital-00", "advertise", cohort.server.open_setup())
    unsigned = dataclasses.replace(message.keys, signature=bytes(64))
    with pytest.raises(SignatureError):
        cohort.server.take_keys("hospital-00", dataclasses.replace(message, keys=unsigned))


def test_an_answer_of_another_round_is_refused():
    cohort = Cohort(4)
    old = cohort.ask("hospital-00", "advertise", cohort.server.open_setup())
    cohort.server.open_setup()
    with pytest.raises(ContextError, match="round"):
        cohort.server.take_keys("hospital-00", old)


def test_a_confirmation_of_another_set_is_refused():
    cohort = Cohort(4)
    cohort.bootstrap()
    cohort.mask(cohort.vectors())
    survivors = cohort.server.close_vectors()
    other = wire.Survivors(context=survivors.context, survivors=(0, 1, 2), dropped=(3,))
    signed = cohort.ask("hospital-00", "sign", other)
    with pytest.raises(SignatureError):
        cohort.server.take_confirmation("hospital-00", signed)


def test_sites_outside_a_stage_are_refused():
    cohort = Cohort(7)
    cohort.bootstrap({"hospital-00"}, {"hospital-01"})
    cohort.mask(cohort.vectors())
    context = cohort.server.close_vectors().context
    vector = wire.MaskedVector(context=context, vector=np.zeros(5, np.uint32))
    signature = wire.Confirmation(context=context, signature=bytes(64))
    for absent in ("hospital-00", "hospital-01"):
        with pytest.raises(StageError):
            cohort.server.take_vector(absent, vector)
        with pytest.raises(RosterError):
            cohort.server.take_confirmation(absent, signature)
    fresh = Cohort(7, seed=1)
    fresh.bootstrap({"hospital-00"})
    request = fresh.open_round()["hospital-01"]
    vector = wire.MaskedVector(context=request.context, vector=np.zeros(5, np.uint32))
    with pytest.raises(RosterError, match="not in the cohort"):
        fresh.server.take_vector("hospital-00", vector)


def test_shares_are_taken_from_sites_with_keys_one_for_each_other():
    cohort = Cohort(5)
    cohort.advertise({"hospital-04"})
    message = cohort.server.close_keys()
    answer = cohort.ask("hospital-00", "share", message)
    with pytest.raises(RosterError, match="no keys"):
        cohort.server.take_shares("hospital-04", answer)
    for shares in (answer.shares[1:], ((0, b"own"), *answer.shares), (*answer.shares, (4, b""))):
        with pytest.raises(MessageError, match="one share to each"):
            cohort.server.take_shares("hospital-00", dataclasses.replace(answer, shares=shares))


def test_a_site_that_is_late_with_its_confirmation_does_not_unmask():
    cohort = Cohort(4)
    cohort.bootstrap()
    cohort.mask(cohort.vectors())
    survivors = cohort.server.close_vectors()
    signed = {name: cohort.ask(name, "sign", survivors) for name in cohort.names}
    for name in cohort.names[:3]:
        cohort.server.take_confirmation(name, signed[name])
    request = cohort.server.close_confirmations()
    with pytest.raises(StageError, match="closed"):
        cohort.server.take_confirmation("hospital-03", signed["hospital-03"])
    answer = cohort.ask("hospital-03", "unmask", request)
    with pytest.raises(RosterError, match="has not confirmed"):
        cohort.server.take_answer("hospital-03", answer)


def test_an_incomplete_answer_is_refused():
    cohort = Cohort(4)
    cohort.bootstrap()
    cohort.mask(cohort.vectors(), {"hospital-03"})
    cohort.sign()
    request = cohort.server.close_confirmations()
    answer = cohort.ask("hospital-00", "unmask", request)
    fewer = dataclasses.replace(answer, self_seeds=answer.self_seeds[1:])
    with pytest.raises(MessageError, match="one share for each"):
        cohort.server.take_answer("hospital-00", fewer)
    more = dataclasses.replace(answer, self_seeds=(*answer.self_seeds, *answer.masking_keys))
    with pytest.raises(MessageError, match="one share for each"):
        cohort.server.take_answer("hospital-00", more)
    other = cohort.ask("hospital-01", "unmask", request)
    with pytest.raises(ShareError, match="dealt to"):
        cohort.server.take_answer("hospital-00", other)


def test_steps_out_of_order_are_refused():
    cohort = Cohort(4)
    server = cohort.server
    steps = [
        server.close_keys,
        cohort.open_round,
        server.close_vectors,
        server.close_confirmations,
        server.close_round,
    ]
    for step in steps:
        with pytest.raises(StageError):
            step()
    cohort.bootstrap()
    for step in [server.close_keys, *steps[2:]]:
        with pytest.raises(StageError):
            step()
    cohort.mask(cohort.vectors())
    for step in [*steps[:2], *steps[3:]]:
        with pytest.raises(StageError):
            step()
    cohort.sign()
    for step in [*steps[:3], server.close_round]:
        with pytest.raises(StageError):
            step()


def test_a_restarted_server_goes_on_with_a_number_that_no_site_has_seen():
    cohort = Cohort(4)
    cohort.bootstrap()
    cohort.round(cohort.vectors())
    cohort.server = SecureServer(terms=cohort.terms, first_round=cohort.server.next_round)
    cohort.bootstrap()
    vectors = cohort.vectors()
    assert np.array_equal(cohort.round(vectors).total, summed_without(cohort, vectors, ()))


def test_a_layout_for_fewer_sites_is_refused_because_the_sum_could_overflow():
    cohort = Cohort(4)
    cohort.bootstrap()
    small = dataclasses.replace(cohort.layout, sites=3)
    with pytest.raises(ContextError, match="layout"):
        cohort.server.open_round(layout=small, model_digest=MODEL)
    assert wired(cohort.open_round()["hospital-00"]).shares
