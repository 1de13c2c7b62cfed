"""What the doctor looks at, and what it looks with."""

import os
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from wardround_client.enrolment.keys import KeyFiles


@dataclass(frozen=True, kw_only=True)
class Examined:
    """A site's home, as far as the doctor looks at it.

    Attributes:
        name: of the site; None: its settings cannot be read, and neither is its server known.
        settings: what is wrong with its settings, or with the home as a whole; empty: nothing.
        server: `host:port`; None before it has joined.
        home: its folder, which ledger and `.unfinished` files are found below.
        authorities: CA certificates in PEM by which the server is known.
        consortium: public key that the roster is signed with, PEM.
        roster: newest version that the site has.
        keys: its private keys in force.
        secrets: every file that nobody else may read.
        policy: what the hospital allows.
        audit_log: of this site.
    """

    name: str | None
    server: str | None
    home: Path
    authorities: Path
    consortium: Path
    roster: Path
    keys: KeyFiles
    secrets: Sequence[Path]
    policy: Path
    audit_log: Path
    settings: str = ""


def _addresses(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _gpu() -> str | None:
    import torch  # noqa: PLC0415 - takes seconds

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a check asks of the machine; tests put something else in its place.

    Attributes:
        environment: variables, of which those about proxies are read.
        addresses: of a host and port; raises OSError.
        connect: to a host and port within seconds; raises OSError.
        free_bytes: of the disk under a folder.
        gpu: name of a usable one, or None.
        flwr: version that is installed.
        patience: seconds that a connection may take.
    """

    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    addresses: Callable[[str, int], Sequence[str]] = _addresses
    connect: Callable[[tuple[str, int], float], socket.socket] = socket.create_connection
    free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free
    gpu: Callable[[], str | None] = _gpu
    flwr: Callable[[], str] = lambda: version("flwr")
    patience: float = 10.0
