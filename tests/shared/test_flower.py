"""Who may speak to an API of ours: attacks at its door, without a network."""

import ast
import asyncio
from pathlib import Path

import httpx
import pytest

from wardround_shared import flower
from wardround_shared.errors import ProtocolError
from wardround_shared.flower import (
    LARGEST_BODY,
    TESTED,
    Token,
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
