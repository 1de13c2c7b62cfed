"""A sum on the server's disk: taken up where it was, and by nobody whose sum it is not."""

import dataclasses

import numpy as np
import pytest
from secure_cohort import MODEL, Cohort, ring_sum

from wardround_shared.secure_aggregation.faults import (
    ContextError,
    MessageError,
    RosterError,
    StageError,
)
from wardround_shared.secure_aggregation.server import SecureServer
from wardround_shared.secure_aggregation.server_state import ConfirmedRound

GONE = "hospital-03"


def confirmed(cohort, vectors):
    """A sum in which one site is dropped, up to where it may be unmasked."""
    cohort.bootstrap()
    cohort.mask(vectors, {GONE})
    cohort.sign()
    return cohort.server.close_confirmations()


def stored(cohort, note=b"note"):
    return bytearray(b"".join(cohort.server.confirmed_round(note=note).parts()))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("length", [1, 5, 1000])
def test_another_server_finishes_the_sum(kind, length):
    cohort = Cohort(4, length=length)
    vectors = cohort.vectors()
    request = confirmed(cohort, vectors)
    data = kind(stored(cohort))
    cohort.server = SecureServer(terms=cohort.terms)
    read = ConfirmedRound.from_buffer(data)
    assert read.note == b"note"
    assert cohort.server.take_up(read, layout=cohort.layout, model_digest=MODEL) == request
    assert cohort.server.next_round == 2, "never a number twice"
    assert cohort.server.unmasked == ()
    for name in cohort.server.confirmed:
        cohort.server.take_answer(name, cohort.ask(name, "unmask", request))
    assert cohort.server.unmasked == cohort.server.confirmed == cohort.names[:3]
    total = cohort.server.close_round()
    kept = [vectors[name] for name in cohort.names[:3]]
    assert np.array_equal(total.total, ring_sum(kept, cohort.layout))
    assert total.dropped == (GONE,)


def test_what_is_written_is_the_total_itself_and_what_is_read_too():
    cohort = Cohort(4, length=1000)
    confirmed(cohort, cohort.vectors())
    _, words = cohort.server.confirmed_round(note=b"").parts()
    assert np.shares_memory(np.frombuffer(words, np.uint32), cohort.server._round.total)
    data = stored(cohort)
    total = ConfirmedRound.from_buffer(data).total
    assert np.shares_memory(np.frombuffer(data, np.uint8), total)
    assert total.flags.aligned
    assert total.flags.writeable


def test_only_a_sum_that_may_be_unmasked_is_stored():
    cohort = Cohort(4)
    steps = [cohort.bootstrap, lambda: cohort.mask(cohort.vectors()), cohort.sign]
    for step in steps:
        with pytest.raises(StageError):
            cohort.server.confirmed_round(note=b"")
        step()
    with pytest.raises(StageError):
        cohort.server.confirmed_round(note=b"")
    cohort.server.close_confirmations()
    assert cohort.server.confirmed_round(note=b"").signatures
    cohort.server.give_up()
    with pytest.raises(StageError):
        cohort.server.confirmed_round(note=b"")


def test_a_sum_cut_anywhere_or_continued_is_refused():
    cohort = Cohort(4)
    confirmed(cohort, cohort.vectors())
    data = stored(cohort)
    for end in range(len(data)):
        with pytest.raises(MessageError):
            ConfirmedRound.from_buffer(data[:end])
    with pytest.raises(MessageError):
        ConfirmedRound.from_buffer(data + b"\0")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"model_digest": b"x" * 32}, ContextError),
        ({"layout": dataclasses.replace(Cohort(4).layout, ring_bits=16)}, ContextError),
    ],
)
def test_a_sum_of_another_request_is_not_taken_up(change, error):
    cohort = Cohort(4)
    confirmed(cohort, cohort.vectors())
    read = ConfirmedRound.from_buffer(stored(cohort))
    server = SecureServer(terms=cohort.terms)
    with pytest.raises(error):
        server.take_up(read, **{"layout": cohort.layout, "model_digest": MODEL, **change})
    assert server.confirmed == ()


@pytest.mark.parametrize(
    ("other", "error"), [({"run": "run-2"}, ContextError), ({"seed": 1}, RosterError)]
)
def test_a_sum_of_another_run_or_roster_is_not_taken_up(other, error):
    cohort = Cohort(4)
    confirmed(cohort, cohort.vectors())
    read = ConfirmedRound.from_buffer(stored(cohort))
    server = SecureServer(terms=Cohort(4, **other).terms)
    with pytest.raises(error):
        server.take_up(read, layout=cohort.layout, model_digest=MODEL)


def test_a_sum_of_another_length_is_not_taken_up():
    cohort = Cohort(4)
    confirmed(cohort, cohort.vectors())
    read = ConfirmedRound.from_buffer(stored(cohort))
    shorter = dataclasses.replace(read, total=read.total[:-1])
    with pytest.raises(MessageError, match="length"):
        SecureServer(terms=cohort.terms).take_up(shorter, layout=cohort.layout, model_digest=MODEL)
