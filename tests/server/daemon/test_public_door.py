"""A real public door on loopback: strangers who hold connections keep no hospital outside."""

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
import time

import pytest
import uvicorn
from consortia import Consortium

from wardround_server.flower import connections
from wardround_server.flower.connections import Crowd, Limits, PublicServer, recognising

SOON = 0.5
"""Seconds after which a silent connection is closed here."""
LATE = 8 * SOON
MOST = 8

KNOWN = b"GET /known HTTP/1.1\r\nHost: localhost\r\n\r\n"
UNKNOWN = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
SLOW = b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def app(scope, receive, send):
    if scope["path"] == "/slow":
        await asyncio.sleep(3 * SOON)
    status = 401 if scope["path"] == "/" else 200
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


class Door:
    """A public server in a thread."""

    def __init__(self, home, loop_factory, head):
        self.opened = []
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.trust = ssl.create_default_context(cafile=str(home.authorities))
        self.crowd = Crowd(MOST)
        config = uvicorn.Config(
            recognising(app, self.crowd),
            limit_concurrency=3 * MOST,
            ssl_certfile=home.certificate,
            ssl_keyfile=home.certificate_key,
            lifespan="off",
            log_level=logging.CRITICAL,
            proxy_headers=False,
            ws="none",
        )
        limits = Limits(handshake=SOON, head=head, from_one_address=MOST)
        self.server = PublicServer(config, crowd=self.crowd, limits=limits)
        self._thread = threading.Thread(target=self._serve, args=(loop_factory,))
        self._thread.start()

    def _serve(self, loop_factory):
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(self.server.serve([self.listening]))

    def close(self):
        self.server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()
        for one in self.opened:
            one.close()

    def plain(self):
        self.opened.append(socket.create_connection(("127.0.0.1", self.port), 10))
        return self.opened[-1]

    def connect(self):
        opened = self.trust.wrap_socket(self.plain(), server_hostname="localhost")
        self.opened.append(opened)
        return opened

    def ask(self, request, opened=None):
        """The status, in words."""
        opened = opened or self.connect()
        opened.sendall(request)
        answer = b""
        while not answer.endswith((b"ok", b"received.")) and (more := opened.recv(4096)):
            answer += more
        return answer.split(b"\r\n")[0]


@pytest.fixture(params=["uvicorn's", "asyncio's"])
def doors(request, tmp_path):
    """Makes a door, on either event loop."""
    own = uvicorn.Config("").get_loop_factory()
    made = []

    def make(head):
        loop_factory = own if request.param == "uvicorn's" else asyncio.new_event_loop
        made.append(Door(Consortium(tmp_path).home, loop_factory, head))
        return made[-1]

    yield make
    for door in made:
        door.close()


@pytest.fixture
def door(doors):
    """One that does not wait for long."""
    return doors(SOON)


@pytest.fixture
def patient(doors):
    """One that waits for longer than any test."""
    return doors(60.0)


def seconds_open(opened, *, saying=b""):
    """How long the other side leaves it open; meanwhile `saying` is said again and again."""
    start = time.monotonic()
    opened.settimeout(0.1)
    while time.monotonic() - start < 2 * LATE:
        with contextlib.suppress(TimeoutError):
            try:
                if saying:
                    opened.sendall(saying)
                if not opened.recv(4096):
                    break
            except (ConnectionError, ssl.SSLError):
                break
    return time.monotonic() - start


def refused(door):
    """Whether a new connection is closed at once, request or not."""
    try:
        return door.ask(UNKNOWN) == b""
    except (ConnectionError, ssl.SSLError):
        return True


def test_a_silent_connection_is_closed(door):
    assert SOON / 2 < seconds_open(door.connect()) < LATE


def test_so_is_one_that_never_ends_its_handshake(door):
    assert SOON / 2 < seconds_open(door.plain()) < LATE


@pytest.mark.parametrize("saying", [b"\r\n", b"x-letter: b\r\n"])
def test_and_one_whose_head_has_no_end(door, saying):
    opened = door.connect()
    if saying != b"\r\n":
        opened.sendall(UNKNOWN[:-2])
    assert seconds_open(opened, saying=saying) < LATE


@pytest.mark.parametrize("saying", [b"", b"\r\n", b"GET"])
def test_and_one_that_was_answered_and_says_no_more(door, saying):
    opened = door.connect()
    assert door.ask(KNOWN, opened) == b"HTTP/1.1 200 OK"
    opened.sendall(saying or b"")
    assert seconds_open(opened) < LATE


def test_an_answer_may_take_longer_than_a_question(door):
    opened = door.connect()
    assert door.ask(SLOW, opened) == b"HTTP/1.1 200 OK"
    assert door.ask(SLOW, opened) == b"HTTP/1.1 200 OK", "and so may the next one"


def test_a_request_is_answered_while_strangers_hold_what_they_may(patient):
    silent = [patient.connect() for _ in range(MOST - 1)]
    silent += [patient.plain() for _ in range(3 * MOST)]
    assert patient.ask(KNOWN) == b"HTTP/1.1 200 OK"
    assert len(silent) == 4 * MOST - 1


def test_silence_makes_room_for_others(door):
    """More of them than there is room for at all."""
    for _ in range(3):
        silent = [door.connect() for _ in range(MOST)]
        assert seconds_open(silent[-1]) < LATE
    assert door.ask(KNOWN) == b"HTTP/1.1 200 OK"


def test_from_one_address_come_so_many_strangers(patient):
    strangers = [patient.connect() for _ in range(MOST)]
    for one in strangers:
        assert patient.ask(UNKNOWN, one) == b"HTTP/1.1 401 Unauthorized"
    assert refused(patient)
    strangers.pop().close()
    end = time.monotonic() + 10
    while refused(patient):
        assert time.monotonic() < end, "there is room again"


def test_those_that_are_known_are_not_counted(patient):
    """Hospitals behind one proxy share its address."""
    for _ in range(2 * MOST):
        assert patient.ask(KNOWN) == b"HTTP/1.1 200 OK"


def test_nothing_is_kept_of_connections_that_have_ended(patient):
    for request in (KNOWN, UNKNOWN, b"nonsense\r\n\r\n"):
        opened = [patient.connect() for _ in range(MOST)]
        for one in opened:
            patient.ask(request, one)
            one.close()
        end = time.monotonic() + 10
        while patient.server.server_state.connections or patient.crowd._strangers:
            assert time.monotonic() < end
            time.sleep(0.05)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::2:3:4:5", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("::1", "127.0.0.1", False),
    ],
)
def test_whoever_has_a_network_has_no_more_than_one_address(one, other, same):
    assert (connections._network(one) == connections._network(other)) == same
