"""The way to the server: straight, or through the proxy that the environment names.

It has to be the way that Flower takes. Its client is httpx, which reads HTTPS_PROXY, ALL_PROXY and
NO_PROXY, in small letters first, and takes the entries of NO_PROXY less broadly than curl does.
"""

import base64
import ipaddress
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from wardround_client.doctor.surroundings import Machine
from wardround_shared.errors import EnrolmentError

_LONGEST_ANSWER = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """A proxy, and the variable that names it."""

    variable: str
    scheme: str
    host: str
    port: int
    authorization: str | None

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"  # without name and password


@dataclass(frozen=True, kw_only=True)
class Way:
    """Where the server is, and what leads there.

    Attributes:
        unheeded: entry of NO_PROXY that seems to mean the server, and that httpx does not heed.
    """

    host: str
    port: int
    proxy: Proxy | None
    unheeded: str | None = None

    @property
    def first(self) -> tuple[str, int]:
        """Host and port of the first connection."""
        if self.proxy is None:
            return self.host, self.port
        return self.proxy.host, self.proxy.port


class ProxyRefusedError(OSError):
    """The proxy lets no connection through.

    Attributes:
        status: of its answer; 0 if that was no HTTP.
    """

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status


def way_to(server: str, environment: Mapping[str, str]) -> Way:
    """The way to `host:port`.

    Raises:
        EnrolmentError: that is no address, or the proxy's is none.
    """
    host, _, port = server.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise EnrolmentError(f"site.toml: server: {server!r} is not host:port.")
    proxy = _proxy(environment)
    if proxy is None:
        return Way(host=host, port=int(port), proxy=None)
    entries = _entries(environment)
    if "*" in entries or any(_heeded(entry, host, int(port)) for entry in entries):
        return Way(host=host, port=int(port), proxy=None)
    meant = next((entry for entry in entries if _seems_meant(entry, host)), None)
    return Way(host=host, port=int(port), proxy=proxy, unheeded=meant)


def connect(way: Way, machine: Machine) -> socket.socket:
    """A connection to the server, through the proxy if there is one.

    Raises:
        ProxyRefusedError: the proxy says no.
        OSError: nobody answers.
    """
    opened = machine.connect(way.first, machine.patience)
    try:
        opened.settimeout(machine.patience)
        if way.proxy is not None:
            _ask_proxy(opened, way, way.proxy)
    except BaseException:
        opened.close()
        raise
    return opened


def read_head(opened: socket.socket) -> str:
    """An HTTP answer up to the empty line; all there is if none comes."""
    answer = b""
    while b"\r\n\r\n" not in answer and len(answer) < _LONGEST_ANSWER:
        piece = opened.recv(4096)
        if not piece:
            break
        answer += piece
    return answer.partition(b"\r\n\r\n")[0].decode("latin-1")


def bracketed(host: str) -> str:
    """A host as it stands before a port."""
    return f"[{host}]" if ":" in host else host


def _ask_proxy(opened: socket.socket, way: Way, proxy: Proxy) -> None:
    target = f"{bracketed(way.host)}:{way.port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.authorization is not None:
        lines.append(f"Proxy-Authorization: Basic {proxy.authorization}")
    opened.sendall("\r\n".join([*lines, "", ""]).encode())
    status_line = read_head(opened).partition("\r\n")[0]
    words = status_line.split(maxsplit=2)
    status = int(words[1]) if len(words) > 1 and words[1].isdecimal() else 0
    if not (words and words[0].startswith("HTTP/")):
        raise ProxyRefusedError(0, "what it answers is not HTTP")
    if not 200 <= status < 300:
        raise ProxyRefusedError(status, " ".join(words[1:])[:80])


def _variable(environment: Mapping[str, str], name: str) -> tuple[str, str]:
    """Name and value of a variable; small letters go before capitals, even if they say nothing."""
    lower = f"{name}_proxy"
    taken = lower if lower in environment else lower.upper()
    return taken, environment.get(taken, "")


def _proxy(environment: Mapping[str, str]) -> Proxy | None:
    for name in ("https", "all"):
        variable, value = _variable(environment, name)
        if value:
            return _parsed(variable, value)
    return None


def _parsed(variable: str, value: str) -> Proxy:
    try:
        url = urlsplit(value if "://" in value else f"http://{value}")
        host, port = url.hostname, url.port
    except ValueError:
        host, port = None, None
    if not host:
        raise EnrolmentError(f"{variable}: this is no address of a proxy; write http://host:port.")
    login = None
    if url.username is not None:
        pair = f"{unquote(url.username)}:{unquote(url.password or '')}"
        login = base64.b64encode(pair.encode()).decode()
    usual = {"http": 80, "https": 443}.get(url.scheme, 1080)
    return Proxy(
        variable=variable, scheme=url.scheme, host=host, port=port or usual, authorization=login
    )


def _entries(environment: Mapping[str, str]) -> list[str]:
    value = _variable(environment, "no")[1]
    return [entry.strip() for entry in value.split(",") if entry.strip()]


def _heeded(entry: str, host: str, port: int) -> bool:
    """Whether httpx leaves the proxy out for this entry of NO_PROXY."""
    scheme, _, rest = entry.rpartition("://")
    if scheme not in {"", "all", "https"}:
        return False
    name, colon, wanted = rest.rpartition(":")
    if colon and wanted.isdecimal() and ":" not in name:
        if int(wanted) != port:
            return False
        rest = name
    rest, host = rest.strip("[]").lower(), host.lower()
    if rest == host:
        return True
    if scheme or rest == "localhost" or _is_address(rest):
        return False
    return host.endswith(rest if rest.startswith(".") else f".{rest}")


def _seems_meant(entry: str, host: str) -> bool:
    """Whether an entry that is not heeded would be, by programs that read it more broadly."""
    if entry.startswith("*"):
        return host.lower().endswith(entry.lstrip("*").lower())
    if entry.startswith("."):
        return host.lower() == entry[1:].lower()
    with suppress(ValueError):
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    return False


def _is_address(text: str) -> bool:
    with suppress(ValueError):
        ipaddress.ip_address(text)
        return True
    return False
