"""What may stand in a roster, a request or an answer: names, keys, times, addresses.

Every value has one spelling, so that two that look alike are alike: nothing is trimmed, folded or
completed here, only accepted or refused.
"""

import ipaddress
import re
from datetime import UTC, date, datetime
from typing import Annotated

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_public_key,
)
from pydantic import AfterValidator, Field

_SITE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,62}[A-Za-z0-9])?")
_HOST = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(?:\.(?!-)[a-z0-9-]{1,63}(?<!-))*")
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_PORT = re.compile(r"[1-9][0-9]{0,4}")


def check_site_name(name: str) -> str:
    """Refuse a name that could be mistaken on a command line, in a path or over the telephone."""
    if _SITE.fullmatch(name) is None:
        raise ValueError(
            "a site's name has 1 to 64 letters a-z, digits and hyphens, and no hyphen at its ends"
        )
    return name


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port`; an IPv6 host stands in brackets, as in `[2001:db8::1]:9092`.

    Raises:
        ValueError: not in this form; lower case only.
    """
    host, colon, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    bracketed = bare != host
    if not colon or _PORT.fullmatch(port) is None or int(port) > 65535:
        raise ValueError("write it as host:port, with a port of 1 to 65535")
    check_host(bare)
    if bracketed is not (":" in bare):
        raise ValueError("an IPv6 address, and only that, stands in brackets: [2001:db8::1]:9092")
    return bare, int(port)


def check_host(host: str) -> str:
    """Refuse what is neither a host name in lower case nor an IP address in its short spelling."""
    try:
        short = str(ipaddress.ip_address(host))
    except ValueError:
        # A last label of digits alone would be a misspelt IPv4 address.
        last = host.rpartition(".")[2]
        if _HOST.fullmatch(host) is None or len(host) > 253 or last.isdigit():
            raise ValueError(
                "a host is a name of a-z, digits, hyphens and dots, or an IP address"
            ) from None
        return host
    if host != short or "%" in host:
        raise ValueError(f"write this IP address as {short.partition('%')[0]}")
    return host


def node_key_line(public: ec.EllipticCurvePublicKey) -> str:
    """A node key as the roster has it: an OpenSSH line without a comment."""
    return public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")


def node_key(line: str) -> ec.EllipticCurvePublicKey:
    """The public key of a line.

    Raises:
        ValueError: not an EC P-384 key, or not the line that `node_key_line` gives.
    """
    message = "a node key is an OpenSSH public key of EC P-384, one line without a comment"
    try:
        public = load_ssh_public_key(line.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(message) from None
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise ValueError(message)  # noqa: TRY004 - of a text that somebody sent
    if not isinstance(public.curve, ec.SECP384R1) or node_key_line(public) != line:
        raise ValueError(message)
    return public


def node_key_pem(line: str) -> bytes:
    """A node key as Flower keeps it: SubjectPublicKeyInfo in PEM.

    Raises:
        ValueError: as for `node_key`.
    """
    return node_key(line).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def iso_time(moment: datetime) -> str:
    """A moment in UTC to the second, as documents have it."""
    return moment.astimezone(UTC).strftime(_TIME)


def moment_of(time: str) -> datetime:
    """The inverse of `iso_time`.

    Raises:
        ValueError: not in that form.
    """
    return datetime.strptime(time, _TIME).replace(tzinfo=UTC)


def _node_key_line(line: str) -> str:
    node_key(line)
    return line


def _address(address: str) -> str:
    split_address(address)
    return address


def _time(time: str) -> str:
    try:
        same = iso_time(moment_of(time)) == time
    except ValueError:
        same = False
    if not same:
        raise ValueError("a time is written as 2026-01-31T12:00:00Z")
    return time


def _day(day: str) -> str:
    try:
        same = date.fromisoformat(day).isoformat() == day
    except ValueError:
        same = False
    if not same:
        raise ValueError("a day is written as 2026-01-31")
    return day


def _printable(text: str) -> str:
    if not (text.isascii() and text.isprintable()):
        raise ValueError("only printable ASCII letters may stand here")
    return text


SiteName = Annotated[str, AfterValidator(check_site_name)]
Host = Annotated[str, AfterValidator(check_host)]
Address = Annotated[str, AfterValidator(_address)]
Port = Annotated[int, Field(ge=1, le=65535)]
Ed25519Hex = Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]
SignatureHex = Annotated[str, Field(pattern=r"\A[0-9a-f]{128}\z")]
NodeKeyLine = Annotated[str, Field(max_length=256), AfterValidator(_node_key_line)]
NodeSignatureHex = Annotated[str, Field(pattern=r"\A(?:[0-9a-f]{2}){8,110}\z")]
IsoTime = Annotated[str, AfterValidator(_time)]
IsoDay = Annotated[str, AfterValidator(_day)]
SoftwareVersion = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_printable)]
