"""One TLS connection to the server, looked at from all sides.

If the certificate is not trusted, a second connection is made that trusts any, to name whose it is
and to compare the clocks. Nothing is sent over either but a request for nothing.
"""

import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, timedelta
from email.utils import parsedate_to_datetime

from cryptography import x509
from cryptography.x509.oid import NameOID

from wardround_client.doctor.surroundings import Machine
from wardround_client.doctor.way import Way, bracketed, connect, read_head


@dataclass(frozen=True, kw_only=True)
class Look:
    """What was seen.

    Attributes:
        distrust: why the certificate is not trusted; None = it is.
        certificate: of the server, or of whoever answers in its place.
        ahead: by how much this machine's clock is before the server's; None: the server gives no
            date. Off by up to half a second and half the time of the answer.
    """

    distrust: ssl.SSLCertVerificationError | None
    certificate: x509.Certificate
    ahead: timedelta | None


def look_at(way: Way, machine: Machine, *, authorities: str) -> Look:
    """Connect and look.

    Args:
        way: to the server.
        machine: to connect with.
        authorities: CA certificates in PEM.

    Raises:
        OSError: no connection, or whoever answers does not speak TLS.
    """
    # As Flower's client does: these authorities and no others.
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.load_verify_locations(cadata=authorities)
    try:
        return _look(way, machine, trusting, None)
    except ssl.SSLCertVerificationError as error:
        return _look(way, machine, _any_certificate(), error)


def issuer_of(certificate: x509.Certificate) -> str:
    """Who has signed a certificate, as it says itself; printable, and not too long."""
    names = [
        str(part.value)
        for kind in (NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME)
        for part in certificate.issuer.get_attributes_for_oid(kind)
    ]
    text = ", ".join(dict.fromkeys(names)) or "nobody by name"
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:120]


def _any_certificate() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _look(
    way: Way,
    machine: Machine,
    context: ssl.SSLContext,
    distrust: ssl.SSLCertVerificationError | None,
) -> Look:
    with (
        connect(way, machine) as opened,
        context.wrap_socket(opened, server_hostname=way.host) as secure,
    ):
        content = secure.getpeercert(binary_form=True)
        if content is None:
            raise ssl.SSLError("there is no certificate")
        return Look(
            distrust=distrust,
            certificate=x509.load_der_x509_certificate(content),
            ahead=_ahead(secure, way, machine),
        )


def _ahead(secure: socket.socket, way: Way, machine: Machine) -> timedelta | None:
    """By how much this clock is before the server's, by the date of an answer to HEAD."""
    with suppress(OSError, ValueError):
        before = machine.now()
        request = f"HEAD / HTTP/1.1\r\nHost: {bracketed(way.host)}\r\nConnection: close\r\n\r\n"
        secure.sendall(request.encode())
        head = read_head(secure)
        after = machine.now()
        for line in head.split("\r\n")[1:]:
            name, _, value = line.partition(":")
            if name.lower() == "date":
                # It has whole seconds: on average half a second more have gone by.
                date = parsedate_to_datetime(value.strip()).astimezone(UTC)
                there = date + timedelta(seconds=0.5)
                return before + (after - before) / 2 - there
    return None
