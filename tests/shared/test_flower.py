"""Who may speak to an API of ours: attacks at its door, without a network."""

import ast
import asyncio
import functools
from pathlib import Path

import httpx
import pytest

from wardround_shared import flower
from wardround_shared.errors import ProtocolError
from wardround_shared.flower import (
    LARGEST_BODY,
    TESTED,
    Token,
    local_without_proxy,
    only_below,
    require_tested_flwr,
    with_token,
)

ROOT = Path(__file__).parents[2]
PACKAGES = ("shared/wardround_shared", "server/wardround_server", "client/wardround_client")
PUBLIC = {"app", "clientapp", "serverapp"}
"""What Flower offers to apps; the rest of it may change with any version."""

HEADER = b"x-wardround-token"
FLEET = "/v1/fleet/"


class App:
    """Stands for Flower's API: counts whoever gets in."""

    def __init__(self):
        self.entered = []

    async def __call__(self, scope, receive, send):
        self.entered.append(scope["type"])
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"in"})


def call(guard, app, *, kind="http", path="/v1/fleet/pull", headers=((b"content-length", b"0"),)):
    """What comes back: the status; of a websocket the code it is closed with; None: nothing."""
    sent = []

    async def send(event):
        sent.append(event)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": kind, "path": path, "headers": list(headers)}
    asyncio.run(guard(app)(scope, receive, send))
    return next((e.get("status", e.get("code")) for e in sent if "body" not in e["type"]), None)


def knocking(*headers, kind="http"):
    app = App()
    status = call(lambda a: with_token(a, "secret"), app, headers=headers, kind=kind)
    return status, app.entered


def asking(**scope):
    app = App()
    return call(lambda a: only_below(a, FLEET), app, **scope), app.entered


def test_who_knows_the_token_gets_in():
    assert knocking((HEADER, b"secret")) == (200, ["http"])


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(HEADER, b"")],
        [(HEADER, b"secre")],
        [(HEADER, b"secret ")],
        [(HEADER, b"SECRET")],
        [(HEADER, "sécret".encode())],
        [(b"authorization", b"secret")],
        [(HEADER, b"secret"), (HEADER, b"wrong")],
    ],
)
def test_who_does_not_stays_outside(headers):
    assert knocking(*headers) == (403, [])


@pytest.mark.parametrize("kind", ["websocket", "webtransport"])
def test_no_other_way_of_speaking_leads_past_the_token(kind):
    assert knocking(kind=kind) == (1008, [])
    assert knocking((HEADER, b"secret"), kind=kind) == (1008, [])


def test_the_app_is_started_and_stopped_without_a_token():
    assert knocking(kind="lifespan") == (None, ["lifespan"])


def test_only_what_is_below_the_prefix_is_there():
    assert asking() == (200, ["http"])
    for path in (
        "/",
        "",
        "/v1/control/start-run",
        "/v1/runtime/acquire-task",
        "//v1/fleet/pull",
        "/v1//fleet/pull",
        "/V1/FLEET/pull",
        "/v1/fleet",
        "/v1/fleet%2fpull",
        "/x/../v1/fleet/pull",
        "/v1/control/v1/fleet/",
        "v1/fleet/pull",
    ):
        assert asking(path=path) == (404, []), path


@pytest.mark.parametrize("kind", ["websocket", "webtransport"])
def test_the_public_door_speaks_http_only(kind):
    assert asking(kind=kind) == (1008, [])


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"content-length", b"")],
        [(b"content-length", b"-1")],
        [(b"content-length", b"1e3")],
        [(b"content-length", b"0x10")],
        [(b"content-length", "٣".encode())],
        [(b"content-length", str(LARGEST_BODY + 1).encode())],
        [(b"content-length", b"9" * 10_000)],
        [(b"transfer-encoding", b"chunked")],
        [(b"content-length", b"5"), (b"transfer-encoding", b"chunked")],
        [(b"content-length", b"5"), (b"content-length", b"99999999999")],
    ],
    ids=lambda headers: str(headers)[:60],
)
def test_a_body_whose_length_is_not_known_or_too_large_is_not_read(headers):
    assert asking(headers=headers) == (413, [])


def test_a_body_of_the_largest_size_is_read():
    length = str(LARGEST_BODY).encode()
    assert asking(headers=[(b"content-length", length)]) == (200, ["http"])


SMALL = 64 * 1024


def sized(length):
    return [(b"content-length", str(length).encode()), (b"who", b"somebody")]


def test_who_is_not_known_sends_little():
    asked = []

    def unknown(headers):
        asked.append(dict(headers))
        return False

    for length, expected in ((SMALL, (200, ["http"])), (SMALL + 1, (401, []))):
        app = App()
        status = call(lambda a: only_below(a, FLEET, known=unknown), app, headers=sized(length))
        assert (status, app.entered) == expected
    assert asked == [dict(sized(SMALL + 1))], "its headers say who it is"


def test_what_is_too_large_or_elsewhere_is_refused_before_it_is_asked_who_sends_it():
    def asked(_):
        raise AssertionError

    for path, length, status in (("/x", SMALL + 1, 404), ("/v1/fleet/x", LARGEST_BODY + 1, 413)):
        headers = sized(length)
        guard = functools.partial(only_below, prefix=FLEET, known=asked)
        assert call(guard, App(), path=path, headers=headers) == status


def requests(guarded, count, *, length, receive):
    """So many requests at a time, each with its own end of the connection."""

    async def send(_):
        pass

    scope = {"type": "http", "path": "/v1/fleet/push", "headers": sized(length)}
    return [asyncio.create_task(guarded(scope, receive, send)) for _ in range(count)]


@pytest.mark.parametrize(("length", "inside"), [(SMALL + 1, 32), (SMALL, 100)])
def test_so_many_large_bodies_are_read_at_a_time(length, inside):
    async def run():
        most, now, open_now = 0, 0, asyncio.Event()

        async def app(scope, receive, send):
            nonlocal most, now
            now += 1
            most = max(most, now)
            await open_now.wait()
            now -= 1

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        tasks = requests(only_below(app, FLEET), 100, length=length, receive=receive)
        await asyncio.sleep(0.05)
        assert (now, most) == (inside, inside)
        open_now.set()
        await asyncio.gather(*tasks)
        assert (now, most) == (0, inside)

    asyncio.run(run())


@pytest.mark.parametrize("length", [100, SMALL + 1])
@pytest.mark.parametrize("pieces", [0, 1, 3])
def test_a_body_that_comes_no_further_ends(monkeypatch, length, pieces):
    monkeypatch.setattr(flower, "_PATIENCE_SECONDS", 0.05)

    async def run():
        left, heard = pieces, []

        async def receive():
            nonlocal left
            if not left:
                await asyncio.Event().wait()
            left -= 1
            return {"type": "http.request", "body": b"x", "more_body": True}

        async def app(scope, receive, send):
            while not heard or heard[-1] == "http.request":
                heard.append((await receive())["type"])

        (task,) = requests(only_below(app, FLEET), 1, length=length, receive=receive)
        await asyncio.wait_for(task, 10)
        assert heard == ["http.request"] * pieces + ["http.disconnect"]

    asyncio.run(run())


def test_an_answer_may_take_longer_than_a_body(monkeypatch):
    """The app listens for the end of the connection while it works."""
    monkeypatch.setattr(flower, "_PATIENCE_SECONDS", 0.05)

    async def run():
        events = [{"type": "http.request", "body": b"x", "more_body": False}]

        async def receive():
            if not events:
                await asyncio.Event().wait()
            return events.pop()

        async def app(scope, receive, send):
            await receive()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(receive(), 0.3)

        await requests(only_below(app, FLEET), 1, length=100, receive=receive)[0]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("known", "names"),
    [
        ({}, "127.0.0.1,localhost"),
        ({"NO_PROXY": "intranet"}, "intranet,127.0.0.1,localhost"),
        ({"no_proxy": "a", "NO_PROXY": "b"}, "a,127.0.0.1,localhost"),
        ({"NO_PROXY": "*"}, "*,127.0.0.1,localhost"),
    ],
)
def test_a_proxy_is_not_asked_for_this_machine(known, names):
    assert local_without_proxy(known) == {"NO_PROXY": names, "no_proxy": names}


def test_a_client_of_ours_says_its_token_on_each_request():
    class Context:
        request = httpx.Request("GET", "http://127.0.0.1/")

    answered = Token("secret").intercept(Context(), lambda context: context.request.headers)
    assert answered[HEADER.decode()] == "secret"


def test_the_installed_flower_is_the_tested_one():
    require_tested_flwr()


def test_another_flower_is_refused_in_words(monkeypatch):
    monkeypatch.setattr(flower, "version", lambda _name: "1.42.0")
    with pytest.raises(ProtocolError, match=rf"1\.42\.0 .* install flwr=={TESTED}"):
        require_tested_flwr()


def internals(file):
    """The lines at which a module imports what Flower does not offer to apps."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            package, *below = name.split(".")
            if package == "flwr" and (not below or below[0] not in PUBLIC or len(below) > 1):
                yield node.lineno, name


def modules():
    return [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]


def test_flower_s_internals_are_touched_in_the_adapters_only():
    touching = {str(file.relative_to(ROOT)) for file in modules() if any(internals(file))}
    assert len(touching) >= 4
    assert all("/flower/" in name for name in touching), touching


def test_each_adapter_asks_for_the_version_before_it_touches_anything():
    for file in modules():
        lines = [line for line, _ in internals(file)]
        if lines:
            checks = [
                node.lineno
                for node in ast.parse(file.read_text(encoding="utf-8")).body
                if isinstance(node, ast.Expr) and "require_tested_flwr" in ast.unparse(node)
            ]
            assert checks, file
            assert checks[0] < min(lines), file
