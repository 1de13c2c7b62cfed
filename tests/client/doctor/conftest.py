"""A server on loopback with real TLS, whatever certificate it shows, and a proxy before it."""

import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import format_datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from wardround_client.doctor import Examined, Machine
from wardround_client.enrolment.keys import KeyFiles, SiteKeys
from wardround_client.ledger import Ledger
from wardround_client.policy import TEMPLATE
from wardround_shared.audit_log import AuditLog
from wardround_shared.consortium.fields import node_key_line
from wardround_shared.consortium.roster_file import RosterLine, SignedRoster
from wardround_shared.consortium.signatures import public_hex, public_pem

DAY = datetime.timedelta(days=1)


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


@dataclass
class Authority:
    """A CA that makes certificates of servers."""

    name: str = "Consortium CA"
    days: int = 3650
    began: int = 1
    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )

    def __post_init__(self):
        self.subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"{self.name} Ltd"),
                x509.NameAttribute(NameOID.COMMON_NAME, self.name),
            ]
        )
        self.certificate = self._certificate(
            self.subject, self.key, days=self.days, began=self.began, authority=True
        )
        self.pem = self.certificate.public_bytes(Encoding.PEM).decode()

    def server(self, folder, *, days=365, began=1, names=("127.0.0.1", "localhost")) -> Path:
        """Certificate and key of a server in one file."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        certificate = self._certificate(subject, key, days=days, began=began, names=names)
        file = folder / f"{self.name}-{days}-{began}.pem"
        file.write_bytes(
            certificate.public_bytes(Encoding.PEM)
            + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        return file

    def _certificate(self, subject, key, *, days, began, authority=False, names=()):
        path_length = 0 if authority else None
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now() - began * DAY)
            .not_valid_after(now() + days * DAY)
            .add_extension(x509.BasicConstraints(authority, path_length), critical=True)
        )
        if authority:
            usage = dict.fromkeys(
                (
                    "digital_signature",
                    "content_commitment",
                    "key_encipherment",
                    "data_encipherment",
                    "key_agreement",
                    "encipher_only",
                    "decipher_only",
                ),
                False,
            )
            builder = builder.add_extension(
                x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True
            )
        if names:
            alternatives = [_alternative(name) for name in names]
            builder = builder.add_extension(
                x509.SubjectAlternativeName(alternatives), critical=False
            )
        return builder.sign(self.key, hashes.SHA256())


def _alternative(name: str) -> x509.GeneralName:
    with suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(name))
    return x509.DNSName(name)


class Listener:
    """Answers each connection on a loopback port in a thread of its own."""

    def __init__(self, answer: Callable[[socket.socket], None]) -> None:
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.count = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with suppress(OSError):
            while True:
                opened, _ = self._socket.accept()
                self.count += 1
                threading.Thread(target=self._one, args=(opened,), daemon=True).start()

    def _one(self, opened):
        with opened, suppress(OSError):
            opened.settimeout(5)
            self._answer(opened)

    def close(self):
        # A thread in accept() is not woken by close() alone.
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def listen():
    """Starts listeners and ends them."""
    started = []

    def start(answer):
        started.append(Listener(answer))
        return started[-1]

    yield start
    for listener in started:
        listener.close()


@pytest.fixture(scope="session")
def authority():
    return Authority()


@pytest.fixture
def tls_server(listen, authority, tmp_path):
    """Starts a server that speaks TLS and answers any request with 404 and a date."""

    def start(pem=None, *, skew=0.0, date=True):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem or authority.server(tmp_path))

        def answer(opened):
            with context.wrap_socket(opened, server_side=True) as secure:
                secure.recv(4096)
                there = now() + datetime.timedelta(seconds=skew)
                line = f"Date: {format_datetime(there, usegmt=True)}\r\n" if date else ""
                secure.sendall(
                    f"HTTP/1.1 404 Not Found\r\n{line}Content-Length: 0\r\n\r\n".encode()
                )

        return listen(answer)

    return start


@pytest.fixture
def proxy(listen):
    """Starts a proxy that knows CONNECT; with `status`, one that refuses."""

    def start(*, status=200, login=None):
        asked = []

        def answer(opened):
            head = b""
            while b"\r\n\r\n" not in head:
                head += opened.recv(4096)
            lines = head.decode().split("\r\n")
            asked.append(lines[0])
            given = [line for line in lines if line.startswith("Proxy-Authorization: ")]
            if login is not None and given != [f"Proxy-Authorization: Basic {login}"]:
                opened.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
                return
            if status != 200:
                opened.sendall(f"HTTP/1.1 {status} No\r\n\r\n".encode())
                return
            host, _, port = lines[0].split()[1].rpartition(":")
            with socket.create_connection((host, int(port)), 5) as onward:
                opened.sendall(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")
                back = threading.Thread(target=_pass, args=(onward, opened), daemon=True)
                back.start()
                _pass(opened, onward)
                back.join(5)

        listener = listen(answer)
        listener.asked = asked
        return listener

    return start


def _pass(source, target):
    with suppress(OSError):
        while piece := source.recv(4096):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)


# --- a home --------------------------------------------------------------------------------------


@dataclass
class Home:
    """A site's home that is in order, and what it was made with."""

    examined: Examined
    consortium: Ed25519PrivateKey
    lines: list[RosterLine]
    authorities: str

    def write_roster(self, lines=None, *, version=3, key=None):
        roster = SignedRoster.sign(
            key or self.consortium,
            version=version,
            issued="2027-03-01T00:00:00Z",
            authorities=self.authorities,
            lines=self.lines if lines is None else lines,
        )
        self.examined.roster.write_bytes(roster.to_bytes())


@pytest.fixture
def home(tmp_path, authority):
    """A home that has joined; its server is nowhere."""
    folder = tmp_path / "home"
    Ledger.create(folder, site="north", durable=False)
    folder.chmod(0o700)
    (folder / "server").mkdir()
    identity = Ed25519PrivateKey.generate()
    consortium = Ed25519PrivateKey.generate()
    examined = Examined(
        name="north",
        server="127.0.0.1:9",
        home=folder,
        authorities=folder / "server" / "ca.pem",
        consortium=folder / "server" / "consortium.pem",
        roster=folder / "server" / "roster.json",
        keys=KeyFiles(folder=folder / "keys"),
        secrets=(folder / "keys" / "identity.key", folder / "keys" / "ledger.key"),
        policy=folder / "policy.toml",
        audit_log=folder / "audit.jsonl",
    )
    pair = SiteKeys(identity=identity, node=ec.generate_private_key(ec.SECP384R1()))
    for file, data in pair.content(examined.keys).items():
        file.write_bytes(data)
        file.chmod(0o600)
    examined.policy.write_text(TEMPLATE)
    examined.authorities.write_text(authority.pem)
    examined.consortium.write_bytes(public_pem(public_hex(consortium)))
    AuditLog(examined.audit_log).append("joined", site="north")
    lines = [
        RosterLine(
            site=name,
            identity=public_hex(key),
            node_key=node_key_line(ec.generate_private_key(ec.SECP384R1()).public_key()),
            admitted="2027-03-01",
        )
        for name, key in (("north", identity), ("south", Ed25519PrivateKey.generate()))
    ]
    made = Home(examined=examined, consortium=consortium, lines=lines, authorities=authority.pem)
    made.write_roster()
    return made


@pytest.fixture
def machine():
    """A machine without variables, with room, without a GPU."""

    def build(**changes):
        usual = {
            "environment": {},
            "free_bytes": lambda _: 100 * 1024**3,
            "gpu": lambda: None,
            "flwr": lambda: "1.41.0",
            "patience": 5.0,
        }
        return Machine(**(usual | changes))

    return build
