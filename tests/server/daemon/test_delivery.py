"""Requests over a network that loses messages, to sites that restart: scripted, in memory."""

import itertools

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from scripted_nodes import HOLD, Network, Node, said

from wardround_server.daemon.delivery import PATIENCE_SECONDS, Delivery
from wardround_shared.delivery import COLLECT, Working, working_record
from wardround_shared.errors import StoppedError

TRAIN = "train"
DEADLINE = 60.0


def delivery(network, **settings):
    return Delivery(network, clock=network.clock, sleep=network.sleep, **settings)


def ask(network, *, deadline=DEADLINE, content=None, nodes=None, **settings):
    """Answers by node, and when each of them came."""
    answers, content = {}, content or RecordDict()
    made = delivery(network, **settings)
    for answer in made.ask(
        nodes or tuple(network.known), TRAIN, content, group="1", deadline=deadline
    ):
        assert answer.node_id not in answers, "two answers of one node"
        answers[answer.node_id] = (answer, network.now)
    return answers


def contents(answers):
    return {node: answer.content for node, (answer, _) in answers.items()}


def losing(*numbers, what):
    return lambda kind, number: kind == what and number in numbers


# --- answers ---------------------------------------------------------------------------------


def test_answers_are_taken_in_the_order_in_which_they_come():
    network = Network(Node(1, work=5), Node(2, work=1), Node(3, work=30))
    answers = ask(network)
    assert list(answers) == [2, 1, 3]
    assert contents(answers) == dict.fromkeys((2, 1, 3), said(TRAIN))
    assert [at for _, at in answers.values()] == pytest.approx([1, 5, 30], abs=1.5)


def test_nobody_is_asked_nothing():
    network = Network(Node(1))
    assert list(delivery(network).ask_each({}, group="1", deadline=1)) == []
    assert network.sent == []


def test_each_node_gets_a_request_of_its_own():
    def echo(kind, content):
        return RecordDict({"echo": ConfigRecord({"kind": kind, "n": content["c"]["n"]})})

    network = Network(Node(1, answers=echo), Node(2, answers=echo))
    requests = {n: (f"query.{n}", RecordDict({"c": ConfigRecord({"n": n})})) for n in (1, 2)}
    got = {
        answer.node_id: dict(answer.content["echo"])
        for answer in delivery(network).ask_each(requests, group="1", deadline=DEADLINE)
    }
    assert got == {1: {"kind": "query.1", "n": 1}, 2: {"kind": "query.2", "n": 2}}


def test_a_refusal_is_an_answer_and_comes_at_once():
    network = Network(Node(1, refuses="not approved"), Node(2))
    answer, at = ask(network)[1]
    assert (answer.content, answer.failure) == (None, "not approved")
    assert at < 1


@pytest.mark.parametrize(
    "garbage",
    [
        RecordDict(),
        RecordDict({"ticket": ConfigRecord({"id": 7})}),
        RecordDict({"ticket": ConfigRecord({"id": "0" * 32, "content": b"\xff" * 40})}),
        RecordDict({"ticket": ConfigRecord({"id": "0" * 32}), "working": ConfigRecord({})}),
        RecordDict({"ticket": ArrayRecord({})}),
    ],
)
def test_a_site_that_answers_garbage_has_failed_and_stops_nobody(garbage):
    network = Network(Node(1, garbles=lambda _: garbage), Node(2))
    answers = ask(network)
    assert answers[1][0].content is None
    assert "malformed" in answers[1][0].failure
    assert contents(answers)[2] == said(TRAIN)


def test_a_node_that_nobody_knows_delays_by_the_deadline_and_no_more():
    network = Network(Node(1))
    assert list(ask(network, nodes=(1, 99))) == [1]
    assert network.now == pytest.approx(DEADLINE, abs=2)


# --- how long --------------------------------------------------------------------------------


def test_a_site_that_gets_on_is_waited_for_beyond_the_deadline():
    network = Network(Node(1, work=10 * DEADLINE))
    told = []
    answers = ask(network, progress=lambda node, working: told.append((node, working.done)))
    assert contents(answers) == {1: said(TRAIN)}
    assert answers[1][1] == pytest.approx(10 * DEADLINE, abs=HOLD)
    assert told == sorted(told)
    assert len(told) > 50
    assert network.known[1].begun == network.known[1].begun[:1]


def test_a_site_that_says_the_same_again_and_again_is_not():
    network = Network(Node(1, work=10 * DEADLINE, moves=False), Node(2))
    assert list(ask(network)) == [2]
    assert network.now < DEADLINE + HOLD + 5


def test_an_upload_that_gets_on_is_waited_for():
    network = Network(Node(1, uploading=(20 * DEADLINE, 100)))
    answers = ask(network)
    assert contents(answers) == {1: said(TRAIN)}
    assert answers[1][1] > 20 * DEADLINE


def test_an_upload_that_moves_less_often_than_the_deadline_is_given_up():
    network = Network(Node(1, uploading=(10 * DEADLINE, 2)))
    assert ask(network) == {}
    assert network.now < 2 * DEADLINE


def test_a_large_request_has_the_time_that_a_slow_line_takes_for_it():
    content = RecordDict({"m": ArrayRecord({"p": Array(np.zeros(4_000_000, np.uint8))})})
    seconds = 4_000_000 / 100_000
    network = Network(Node(1), requests_take=seconds)
    assert contents(ask(network, content=content)) == {1: said(TRAIN)}
    network = Network(Node(1), requests_take=10 * seconds)
    assert ask(network, content=content) == {}
    assert network.now < seconds + DEADLINE + 5


def test_a_site_that_is_not_there_delays_by_the_deadline_once():
    network = Network(Node(1, online=False), Node(2))
    assert list(ask(network)) == [2]
    assert network.now == pytest.approx(DEADLINE, abs=2)


def until(network, seconds):
    """A check that ends a test which would never end."""

    def check():
        assert network.now < seconds, "it is still waited for"

    return check


@pytest.mark.parametrize("pieces", [(1, 0), (1, 2, 3, 0), (5,)])
def test_an_upload_that_stands_still_is_given_up_whatever_its_pieces_do(pieces):
    """Pieces are forgotten and sent again: what was there before is no movement."""
    network, looks = Network(Node(1, uploading=(1e9, 100)), Node(2)), itertools.count()
    network.pieces = lambda _message: pieces[next(looks) % len(pieces)]
    assert list(ask(network, check=until(network, 2 * DEADLINE))) == [2]


def again_and_again(network, node, seconds):
    def dies():
        node.restart()
        network.at(network.now + seconds, dies)

    network.at(seconds, dies)


@pytest.mark.parametrize("seconds", [10.0, 30.0, 55.0])
def test_a_worker_that_dies_in_each_training_is_given_up(seconds):
    """Too little memory, say: its connection is new each time, and its work never further."""
    node = Node(1, work=75.0)
    network = Network(node, Node(2))
    again_and_again(network, node, seconds)
    assert list(ask(network, check=until(network, 12 * DEADLINE))) == [2]
    assert len(node.begun) > 2


def test_a_site_that_says_it_goes_back_and_forth_is_given_up(monkeypatch):
    words = itertools.count()

    def lie(*_):
        return working_record(Working(stage="training", done=next(words) % 2, total=2))

    monkeypatch.setattr(Network, "_how_far", lie)
    network = Network(Node(1, work=1e9), Node(2))
    assert list(ask(network, check=until(network, 2 * DEADLINE))) == [2]


def test_a_site_that_is_at_a_new_stage_each_time_is_given_up(monkeypatch):
    words = itertools.count()

    def lie(*_):
        return working_record(Working(stage=f"stage {next(words)}", done=0, total=0))

    monkeypatch.setattr(Network, "_how_far", lie)
    network = Network(Node(1, work=1e9), Node(2))
    assert list(ask(network, check=until(network, 16 * (HOLD + 2) + 2 * DEADLINE))) == [2]


def test_what_comes_too_late_is_not_taken():
    network = Network(Node(1, online=False), Node(2))
    made = delivery(network)
    assert [a.node_id for a in made.ask((1, 2), TRAIN, RecordDict(), group="1", deadline=5)] == [2]
    network.known[1].online = True
    answers = list(made.ask((2,), "evaluate", RecordDict(), group="1", deadline=DEADLINE))
    assert [(a.node_id, a.content) for a in answers] == [(2, said("evaluate"))]


# --- what is lost ----------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["request", "reply"])
@pytest.mark.parametrize("work", [0.0, 20.0])
def test_what_was_lost_is_asked_for_again(what, work):
    network = Network(Node(1, work=work))
    network.lost = losing(1, what=what)
    answers = ask(network)
    assert contents(answers) == {1: said(TRAIN)}
    assert answers[1][1] < PATIENCE_SECONDS + work + HOLD + 5
    assert len(network.known[1].begun) == 1, "the work was done twice"


def test_a_site_that_has_never_heard_of_a_ticket_gets_the_request_again():
    network = Network(Node(1))
    network.lost = losing(1, what="request")
    ask(network)
    assert [kind for _, kind in network.sent] == [TRAIN, COLLECT, TRAIN]
    assert network.known[1].heard == [COLLECT, TRAIN]


def test_an_answer_that_is_kept_is_not_formed_again():
    network = Network(Node(1))
    network.lost = losing(1, what="reply")
    assert contents(ask(network)) == {1: said(TRAIN)}
    assert network.known[1].heard == [TRAIN, COLLECT]


def test_a_site_that_was_restarted_at_work_is_asked_at_once():
    node = Node(1, work=30)
    network = Network(node)
    network.at(20.0, node.restart)
    answers = ask(network)
    assert contents(answers) == {1: said(TRAIN)}
    assert answers[1][1] == pytest.approx(20 + 30, abs=5)
    assert len(set(node.begun)) == 1, "another ticket for the same request"
    assert len(node.begun) == 2


def test_a_site_that_goes_and_comes_back_within_the_deadline_is_heard():
    node = Node(1, work=30)
    network = Network(node)

    def goes():
        node.online = False

    def comes():
        node.restart()
        node.online = True

    network.at(10.0, goes)
    network.at(40.0, comes)
    assert contents(ask(network)) == {1: said(TRAIN)}


def test_a_site_that_comes_back_in_the_last_moment_has_the_deadline_anew():
    node = Node(1, work=30)
    network = Network(node)

    def goes():
        node.restart()
        node.online = False

    def comes():
        node.restart()
        node.online = True

    network.at(2.0, goes)
    network.at(55.0, comes)
    answers = ask(network)
    assert contents(answers) == {1: said(TRAIN)}
    assert answers[1][1] > DEADLINE


@pytest.mark.parametrize("work", [0.0, 5.0])
def test_an_answer_that_takes_longer_than_the_patience_is_still_taken(work):
    """A line over which a word takes 50 s there and back: asked for each 20 s, none would come."""
    network = Network(Node(1, work=work), latency=25.0)
    assert 2 * PATIENCE_SECONDS < 50.0
    assert contents(ask(network, deadline=300.0)) == {1: said(TRAIN)}
    assert len(network.known[1].begun) == 1


@pytest.mark.parametrize("times", [1, 5])
def test_an_answer_that_broke_off_is_asked_for_again_and_not_formed_again(times):
    node = Node(1, loses=times)
    network = Network(node, Node(2))
    assert contents(ask(network)) == dict.fromkeys((1, 2), said(TRAIN))
    assert node.heard == [TRAIN, *[COLLECT] * times]
    assert len(node.begun) == 1


def test_an_answer_that_breaks_off_each_time_has_failed():
    network = Network(Node(1, loses=1000), Node(2))
    answer, at = ask(network)[1]
    assert (answer.content, answer.failure) == (None, "the upload was broken off")
    assert at < DEADLINE
    assert network.known[1].heard == [TRAIN, *[COLLECT] * 5]


def test_a_refusal_is_no_loss():
    network = Network(Node(1, refuses="no"))
    ask(network)
    assert network.sent == [(1, TRAIN)]


def test_no_message_goes_to_a_node_that_is_not_connected():
    node = Node(1, work=5)
    network = Network(node)
    network.lost = losing(1, what="request")
    node.online = False
    network.at(50.0, lambda: setattr(node, "online", True))
    sent_while_away = []
    network.at(49.9, lambda: sent_while_away.extend(network.sent))
    assert contents(ask(network)) == {1: said(TRAIN)}
    assert sent_while_away == [(1, TRAIN)]


def test_a_quiet_line_is_asked_seldom():
    network = Network(Node(1, work=600))
    ask(network)
    assert len(network.sent) < 600 / HOLD + 5


def test_the_answer_to_a_message_that_was_sent_again_is_left():
    """Two replies come to one request; the first one came too late and is nobody's."""
    node = Node(1, work=1.0)
    network = Network(node, latency=15.0)
    network.at(17.0, lambda: setattr(network, "latency", 0.1))
    assert contents(ask(network)) == {1: said(TRAIN)}
    assert COLLECT in [kind for _, kind in network.sent]
    assert len(node.begun) == 1


# --- being told to stop ----------------------------------------------------------------------


def test_whoever_waits_can_be_told_to_stop():
    network = Network(Node(1, work=1000))

    def check():
        if network.now > 10:
            raise StoppedError("stop")

    with pytest.raises(StoppedError):
        ask(network, check=check)
    assert network.now < 12
    with pytest.raises(StoppedError):
        delivery(network, check=check).nodes(at_least=5, deadline=1000)


# --- who is connected ------------------------------------------------------------------------


def test_nodes_are_waited_for_until_there_are_enough():
    network = Network(Node(3), Node(1), Node(2, online=False))
    network.at(7.0, lambda: setattr(network.known[2], "online", True))
    made = delivery(network)
    assert made.nodes(at_least=2, deadline=DEADLINE) == (1, 3)
    assert network.now == 0
    assert made.nodes(at_least=3, deadline=DEADLINE) == (1, 2, 3)
    assert network.now == pytest.approx(7, abs=1)


def test_nodes_are_waited_for_no_longer_than_the_deadline():
    network = Network(Node(1))
    assert delivery(network).nodes(at_least=2, deadline=30) == (1,)
    assert network.now == pytest.approx(30, abs=1)


def test_another_connection_is_seen():
    network = Network(Node(1))
    made = delivery(network)
    made.online()
    before = made.connected(1)
    network.known[1].restart()
    assert made.connected(1) == before
    made.online()
    assert made.connected(1) != before
    assert made.connected(99) == ""


# --- any schedule ----------------------------------------------------------------------------

SCHEDULES = st.fixed_dictionaries(
    {
        "work": st.lists(st.floats(0, 120), min_size=1, max_size=3),
        "latency": st.floats(0.01, 5),
        "uploading": st.tuples(st.floats(0, 60), st.integers(1, 20)),
        "lost": st.sets(st.tuples(st.sampled_from(["request", "reply"]), st.integers(1, 12)))
        .filter(lambda lost: len(lost) <= 5)
        .map(frozenset),
        "restarts": st.lists(st.tuples(st.integers(0, 2), st.floats(0, 150)), max_size=3),
        "cuts": st.lists(
            st.tuples(st.integers(0, 2), st.floats(0, 150), st.floats(0, 40)), max_size=2
        ),
    }
)


@given(SCHEDULES)
def test_whatever_is_lost_each_node_that_lives_answers_once(schedule):
    nodes = [
        Node(n, work=work, uploading=schedule["uploading"])
        for n, work in enumerate(schedule["work"])
    ]
    network = Network(*nodes, latency=schedule["latency"])
    network.lost = lambda what, number: (what, number) in schedule["lost"]
    for n, at in schedule["restarts"]:
        if n < len(nodes):
            network.at(at, nodes[n].restart)
    for n, at, seconds in schedule["cuts"]:
        if n < len(nodes):
            network.at(at, lambda node=nodes[n]: setattr(node, "online", False))
            network.at(at + seconds, lambda node=nodes[n]: setattr(node, "online", True))
    answers = ask(network, deadline=600.0)
    assert contents(answers) == {node.id: said(TRAIN) for node in nodes}
    for node in nodes:
        assert len(set(node.begun)) == 1, "one request has one ticket"
    assert network.now < 2000
