"""A server that may be killed at any time: one sum for each question, and the same as without."""

import dataclasses
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from secure_federation import COUNTS, Disk, Federation, Killed, Ticks

from wardround_server import secure_attempt
from wardround_shared.errors import LostRoundError, NotEnoughSitesError
from wardround_shared.messages import (
    EVALUATE,
    KEYS_REQUEST,
    MASK_REQUEST,
    MASKED_VECTOR,
    SURVIVORS,
    TRAIN,
    UNMASK,
    UNMASK_ANSWER,
    UNMASK_REQUEST,
)
from wardround_shared.secure_aggregation.faults import MessageError
from wardround_shared.secure_aggregation.wire import MaskedVector, UnmaskAnswer, decode, encode

LAST = "hospital-03"


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr(secure_attempt, "PAUSE_SECONDS", 0.0)


def asked(federation, part):
    return [name for name, _, parts in federation.asked if part in parts]


def run(federation, store, *, rounds=2, deaths=0):
    """A small coordinator: what `done` has is in a checkpoint; killed, it starts again."""
    done = []
    while len(done) < rounds:
        try:
            sums = federation.sums(store)
            while len(done) < rounds:
                total = federation.updates(sums, len(done) + 1)
                federation.tick("before checkpoint")
                done.append((total.delta.counts.copy(), total.weight, sums.roster_line))
                federation.tick("after checkpoint")
                sums.settled()
        except Killed:
            deaths -= 1
            assert deaths >= 0
    return done


def uninterrupted():
    ticks = Ticks()
    federation = Federation(tick=ticks)
    return run(federation, Disk(ticks)), ticks.count, ticks.seen


WHOLE, STEPS, SEEN = uninterrupted()


def check_same(done, federation):
    for number, ((counts, weight, line), (whole, its_weight, its_line)) in enumerate(
        zip(done, WHOLE, strict=True), start=1
    ):
        np.testing.assert_array_equal(counts, whole)
        np.testing.assert_array_equal(counts, federation.expected(number))
        assert (weight, line) == (its_weight, its_line)
    assert len(federation.unmasked) == 2 * 4, "each site has unmasked each question"
    assert all(len(answers) == 1 for answers in federation.unmasked.values()), "in one form"


def test_every_kind_of_step_is_among_those_at_which_the_server_is_killed():
    kinds = {seen.partition(" at ")[0] for seen in SEEN}
    steps = ["query.keys", "train", "query.confirm", "query.unmask", "number", "save", "clear"]
    assert kinds == {
        f"{when} {step}" for step in [*steps, "checkpoint"] for when in ("before", "after")
    }
    assert STEPS > 70


@pytest.mark.parametrize("kill_at", range(1, STEPS + 1))
def test_a_server_killed_at_any_step_has_the_same_sums(kill_at):
    ticks = Ticks(kill_at)
    federation = Federation(tick=ticks)
    done = run(federation, Disk(ticks), deaths=1)
    check_same(done, federation)


@settings(max_examples=40)
@given(st.lists(st.integers(1, 2 * STEPS), min_size=2, max_size=6))
def test_a_server_killed_again_and_again_has_the_same_sums(kill_at):
    ticks = Ticks(*kill_at)
    federation = Federation(tick=ticks)
    done = run(federation, Disk(ticks), deaths=len(kill_at))
    check_same(done, federation)


def test_once_a_sum_may_be_unmasked_nobody_is_asked_for_a_vector_again():
    place = SEEN.index("after save") + 1
    for kill_at in range(place, SEEN.index("before clear") + 2):
        ticks = Ticks(kill_at)
        federation = Federation(tick=ticks)
        run(federation, Disk(ticks), rounds=1, deaths=1)
        assert sorted(asked(federation, MASK_REQUEST)) == sorted(federation.cohort.names)


def test_a_sum_is_stored_before_a_site_can_unmask_it_and_numbers_before_a_site_can_see_them():
    save, unmask = SEEN.index("after save"), SEEN.index("before query.unmask at hospital-00")
    assert save < unmask
    events = []
    federation = Federation(tick=lambda what: None)
    disk = Disk()
    keep, ask_each = disk.keep_next_round, federation.ask_each
    disk.keep_next_round = lambda number: (events.append(("kept", number)), keep(number))

    def listening(requests, **keys):
        for _, content in requests.values():
            if KEYS_REQUEST in content["secure"]:
                events.append(("asked", disk.number))
        return ask_each(requests, **keys)

    federation.ask_each = listening
    sums = federation.sums(disk)
    for number in (1, 2):
        federation.updates(sums, number)
        sums.settled()
    # Each number is kept as used up before any of the four sites gets it.
    assert events == [
        event for number in (2, 3, 4) for event in [("kept", number), *[("asked", number)] * 4]
    ]


# --- what goes wrong ----------------------------------------------------------------------------


def test_without_a_store_too_few_answers_to_unmask_lose_the_question():
    federation = Federation()
    federation.silent = {LAST: {UNMASK_REQUEST}, "hospital-02": {UNMASK_REQUEST}}
    sums = federation.sums()
    with pytest.raises(LostRoundError, match="2 of 4 sites have sent their shares"):
        federation.updates(sums, 1)
    assert [drop.why for drop in sums.roster_line.dropped] == ["the round was given up"] * 4
    federation.silent = {}
    assert federation.updates(sums, 2).sites == 4


@pytest.mark.parametrize("part", [KEYS_REQUEST, MASK_REQUEST, SURVIVORS])
@pytest.mark.parametrize("stored", [False, True])
def test_too_few_sites_before_unmasking_lose_nothing_and_the_round_is_tried_again(part, stored):
    federation, disk = Federation(), Disk() if stored else None
    sums = federation.sums(disk)
    federation.silent = {LAST: {part}, "hospital-02": {part}}
    for _ in range(3):
        with pytest.raises(NotEnoughSitesError, match="2 of 4") as raised:
            federation.updates(sums, 1)
        assert not isinstance(raised.value, LostRoundError)
        assert not federation.unmasked
        assert disk is None or disk.data is None
    federation.silent = {}
    total = federation.updates(sums, 1)
    np.testing.assert_array_equal(total.delta.counts, federation.expected(1))


def test_with_a_store_unmasking_waits_for_sites_to_come_back():
    federation, disk = Federation(), Disk()
    federation.silent = {LAST: {UNMASK_REQUEST}, "hospital-02": {UNMASK_REQUEST}}
    passes = []

    def later():
        passes.append(len(asked(federation, UNMASK_REQUEST)))
        if len(passes) == 5:
            federation.silent.pop("hospital-02")
        return False

    total = federation.updates(federation.sums(disk, should_stop=later), 1)
    np.testing.assert_array_equal(total.delta.counts, federation.expected(1))
    assert passes == [2] * 5, "who has answered is not asked again"
    assert asked(federation, UNMASK_REQUEST)[-1] == "hospital-02"
    # Whoever looks sees for whom it waits; the first pass brought two answers.
    assert len(federation.observer.waited) == 4
    for number, sites, why in federation.observer.waited:
        assert (number, set(sites)) == (1, {"hospital-02", LAST})
        assert why == "2 of 3 sites have unmasked the sum."


def test_sites_that_refuse_for_good_to_unmask_end_the_question():
    """Their disks were set back, say: they have lost what they had confirmed."""
    federation, disk = Federation(3), Disk()
    federation.refusing = {"hospital-02": {UNMASK_REQUEST}}
    sums = federation.sums(disk)
    with pytest.raises(LostRoundError, match=r"refuse to unmask .* hospital-02: it has lost it"):
        federation.updates(sums, 1)
    assert asked(federation, UNMASK_REQUEST).count("hospital-00") == 1
    assert federation.refused == secure_attempt.MOST_REFUSALS
    assert federation.observer.waited[-1][1] == {"hospital-02": "it has lost it"}
    federation.refusing = {}
    sums.settled()
    assert federation.updates(sums, 2).sites == 3
    assert all(len(forms) == 1 for forms in federation.unmasked.values())


def test_a_site_that_refuses_now_and_then_is_asked_on():
    federation, disk = Federation(3), Disk()
    federation.refusing = {"hospital-02": {UNMASK_REQUEST}}

    def later():
        if federation.refused == secure_attempt.MOST_REFUSALS - 1:
            federation.refusing = {}
        return False

    total = federation.updates(federation.sums(disk, should_stop=later), 1)
    np.testing.assert_array_equal(total.delta.counts, federation.expected(1))


def test_who_is_silent_is_waited_for_however_long_it_takes():
    """A site that was switched off may come back with all that it has."""
    federation, disk, passes = Federation(3), Disk(), []
    federation.silent = {"hospital-02": {UNMASK_REQUEST}}

    def later():
        passes.append(1)
        if len(passes) == 3 * secure_attempt.MOST_REFUSALS:
            federation.silent = {}
        return False

    total = federation.updates(federation.sums(disk, should_stop=later), 1)
    np.testing.assert_array_equal(total.delta.counts, federation.expected(1))


def test_told_to_stop_it_stops_and_goes_on_later():
    federation, disk = Federation(), Disk()
    federation.silent = {LAST: {UNMASK_REQUEST}, "hospital-02": {UNMASK_REQUEST}}
    with pytest.raises(NotEnoughSitesError, match="is stored") as raised:
        federation.updates(federation.sums(disk, should_stop=lambda: True), 1)
    assert not isinstance(raised.value, LostRoundError)
    federation.silent = {}
    total = federation.updates(federation.sums(disk), 1)
    np.testing.assert_array_equal(total.delta.counts, federation.expected(1))
    assert sorted(asked(federation, MASK_REQUEST)) == sorted(federation.cohort.names)


def test_a_stored_sum_whose_sites_are_not_all_invited_asks_for_them():
    """After a restart others are there than had confirmed: whoever invites has to hear of it."""
    federation, disk = Federation(5), Disk()  # four make a sum
    federation.silent = {"hospital-04": {MASK_REQUEST}, LAST: {UNMASK_REQUEST}}
    with pytest.raises(NotEnoughSitesError, match="is stored"):
        federation.updates(federation.sums(disk, should_stop=lambda: True), 1)
    federation.silent = {}
    others = {node: name for node, name in federation.names.items() if name != LAST}
    sums = federation.sums(disk)
    with pytest.raises(NotEnoughSitesError, match="3 sites have unmasked"):
        federation.updates(sums, 1, invited=others)
    assert sums.roster_line.invited == federation.cohort.names
    total = federation.updates(sums, 1)
    there = federation.cohort.names[:4]
    np.testing.assert_array_equal(total.delta.counts, federation.expected(1, there))
    assert [drop.site for drop in sums.roster_line.dropped] == ["hospital-04"]


def test_the_roster_line_of_a_resumed_sum_says_who_was_asked_then_and_why_one_is_missing():
    lines = []
    for kill in (False, True):
        ticks = Ticks()
        federation, disk = Federation(tick=ticks), Disk(ticks)
        spoilt = {LAST}

        def twist(site, parts, spoilt=spoilt):
            if site in spoilt and MASKED_VECTOR in parts:
                return {MASKED_VECTOR: b"nonsense"}
            return parts

        federation.twist = twist
        sums = federation.sums(disk)
        if kill:
            ticks.kill_at = {SEEN.index("after save") + 1}
            with pytest.raises(Killed):
                federation.updates(sums, 1)
            sums = federation.sums(disk)
            # Somebody else is there now; that is not who took part.
            invited = {node: name for node, name in federation.names.items() if name != LAST}
            federation.updates(sums, 1, invited=invited)
        else:
            federation.updates(sums, 1)
        lines.append(sums.roster_line)
    assert lines[0] == lines[1]
    assert [(drop.site, drop.why) for drop in lines[0].dropped] == [
        (LAST, "A message is malformed: it is none of secure aggregation.")
    ]


def false_share(site, parts):
    if UNMASK_ANSWER not in parts or site not in {"hospital-01", "hospital-02"}:
        return parts
    answer = decode(parts[UNMASK_ANSWER], UnmaskAnswer)
    (owner, share), *rest = answer.self_seeds
    false = share[:-1] + bytes([share[-1] ^ (1 if site == "hospital-01" else 2)])
    return {UNMASK_ANSWER: encode(dataclasses.replace(answer, self_seeds=((owner, false), *rest)))}


def wrong_vector(site, parts):
    if MASKED_VECTOR not in parts or site != LAST:
        return parts
    message = decode(parts[MASKED_VECTOR], MaskedVector)
    spoilt = dataclasses.replace(message, vector=message.vector + np.uint32(2**31 - 5))
    return {**parts, MASKED_VECTOR: encode(spoilt)}


@pytest.mark.parametrize("twist", [false_share, wrong_vector])
@pytest.mark.parametrize("stored", [False, True])
def test_a_question_spent_without_a_sum_is_lost_also_after_a_restart(twist, stored):
    federation, disk = Federation(), Disk() if stored else None
    federation.twist = twist
    sums = federation.sums(disk)
    with pytest.raises(LostRoundError):
        federation.updates(sums, 1)
    if stored:  # killed before the coordinator has noted it
        sums = federation.sums(disk)
        with pytest.raises(LostRoundError):
            federation.updates(sums, 1)
        assert sorted(asked(federation, MASK_REQUEST)) == sorted(federation.cohort.names)
    sums.settled()
    federation.twist = lambda site, parts: parts
    total = federation.updates(sums, 2)
    np.testing.assert_array_equal(total.delta.counts, federation.expected(2))


@pytest.mark.parametrize("unmasked", [1, 2])
def test_a_sum_lost_with_the_store_is_asked_for_again_while_enough_sites_may_answer(unmasked):
    """The server's disk was set back: one of four sites may have unmasked, two are too many."""
    federation, disk = Federation(), Disk()
    federation.silent = {name: {UNMASK_REQUEST} for name in federation.cohort.names[unmasked:]}
    with pytest.raises(NotEnoughSitesError):
        federation.updates(federation.sums(disk, should_stop=lambda: True), 1)
    disk.data, federation.silent = None, {}
    sums = federation.sums(disk)
    if unmasked == 1:
        total = federation.updates(sums, 1)
        there = federation.cohort.names[1:]
        np.testing.assert_array_equal(total.delta.counts, federation.expected(1, there))
    else:
        with pytest.raises(LostRoundError, match="each has one"):
            federation.updates(sums, 1)
        assert federation.updates(sums, 2).sites == 4
    assert all(len(forms) == 1 for forms in federation.unmasked.values())


def test_a_stored_sum_of_another_request_is_not_used():
    federation, disk = Federation(), Disk()
    federation.updates(federation.sums(disk), 1)  # and killed after the checkpoint, before settled
    assert disk.data is not None
    total = federation.updates(federation.sums(disk), 2)
    np.testing.assert_array_equal(total.delta.counts, federation.expected(2))


@pytest.mark.parametrize("damage", [b"", b"WRSU", b"WRSU\x02" + bytes(200)])
def test_a_damaged_store_is_one_sentence(damage):
    federation, disk = Federation(), Disk()
    disk.data = damage
    with pytest.raises(MessageError):
        federation.updates(federation.sums(disk), 1)


def test_what_is_settled_leaves_nothing_behind():
    federation, disk = Federation(), Disk()
    sums = federation.sums(disk)
    federation.updates(sums, 1)
    sums.settled()
    assert disk.data is None
    sums.settled()
    federation.sums().settled()


# --- who is asked -------------------------------------------------------------------------------


def test_only_the_invited_are_asked():
    federation = Federation(5)
    sums = federation.sums()
    invited = {node: name for node, name in federation.names.items() if name != LAST}
    total = federation.updates(sums, 1, invited=invited)
    assert LAST not in {name for name, _, _ in federation.asked}
    assert sums.roster_line.invited == tuple(invited.values())
    np.testing.assert_array_equal(total.delta.counts, federation.expected(1, invited.values()))


def test_who_is_invited_back_gets_keys_and_is_in_the_next_sum():
    federation = Federation(5)
    sums = federation.sums()
    without = {node: name for node, name in federation.names.items() if name != LAST}
    federation.updates(sums, 1, invited=without)
    assert federation.updates(sums, 2).sites == 4
    assert [drop.site for drop in sums.roster_line.dropped] == [LAST]
    assert federation.updates(sums, 3).sites == 5


def test_keys_are_set_up_anew_when_too_few_of_the_invited_have_them():
    federation = Federation(4)  # three make a sum
    sums = federation.sums()
    first, second = (
        {node: name for node, name in federation.names.items() if node != away} for away in (0, 1)
    )
    federation.updates(sums, 1, invited=first)
    total = federation.updates(sums, 2, invited=second)  # two of them had keys
    assert total.sites == 3
    np.testing.assert_array_equal(total.delta.counts, federation.expected(2, second.values()))


def test_other_sums_are_resumed_as_well():
    federation, disk = Federation(), Disk()

    def evaluated(sums, invited=federation.names):
        request = federation.request(2)
        return sums.sums(EVALUATE, request, 2, length=COUNTS, invited=invited)

    federation.silent = {LAST: {MASK_REQUEST}}
    first, dropped = evaluated(federation.sums(disk))
    again, dropped_again = evaluated(federation.sums(disk))
    np.testing.assert_array_equal(first, again)
    assert dropped == dropped_again
    assert [drop.site for drop in dropped] == [LAST]
    assert {kind for _, kind, parts in federation.asked if MASK_REQUEST in parts} == {EVALUATE}
    assert TRAIN not in {kind for _, kind, _ in federation.asked}
    assert len([1 for _, kind, _ in federation.asked if kind == UNMASK]) == 6


# --- memory -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sites", [3, 6])
def test_a_sum_holds_one_vector_beside_the_total_whatever_the_number_of_sites(sites):
    parameters = 500_000
    federation = Federation(sites, parameters=parameters)
    request, peaks = federation.request(1), []

    def server_only(what):
        """While a site works its memory is not the server's."""
        if what.startswith("before"):
            peaks.append(tracemalloc.get_traced_memory()[1])
        else:
            tracemalloc.reset_peak()

    federation.tick = server_only
    sums = federation.sums()
    tracemalloc.start()
    base = tracemalloc.get_traced_memory()[0]
    total = sums.updates(request, 1, parameters=parameters, invited=federation.names)
    for _, block in total.delta.blocks():
        assert np.isfinite(block).all()
    peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    assert max(peaks) - base < 2.2 * 4 * parameters
