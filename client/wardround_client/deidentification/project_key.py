"""The key of a project: new UIDs, pseudonyms and shifts of dates, the same ones every time.

Each is HMAC-SHA256 (RFC 2104) under 32 bytes from the operating system. Whoever has the key can
find out to whom a pseudonym belongs by trying every patient of the hospital; without it nobody can.
The key never leaves the site; once it is destroyed, no pseudonym leads back to a patient.
"""

import hmac
import secrets
import unicodedata
from base64 import b32encode
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from wardround_shared.consortium.files import read_secret, write_new_secret
from wardround_shared.errors import EnrolmentError

_LABEL = b"wardround/deidentification/1"
_BYTES = 32
_MOST_DAYS = 3650
"""Dates move back by 1 to this many days: ten years, so that no year or season is left."""


@dataclass(frozen=True, kw_only=True)
class ProjectKey:
    """The key, for the files of one project.

    Attributes:
        project: its name; another one gives other UIDs, pseudonyms and shifts.
        secret: 32 bytes.
    """

    project: str
    secret: bytes = field(repr=False)

    @classmethod
    def read(cls, file: Path, project: str) -> Self:
        """Read a key file: 64 hexadecimal digits.

        Raises:
            EnrolmentError: it cannot be read, is open to others, or holds no key.
        """
        text = read_secret(file)
        try:
            secret = bytes.fromhex(text.decode("ascii"))
        except ValueError:
            secret = b""
        if len(secret) != _BYTES:
            raise EnrolmentError(
                f"{file}: this is no key of a project, which is {2 * _BYTES} hexadecimal digits; "
                "name the right file, or bring it back from a backup."
            )
        return cls(project=project, secret=secret)

    @classmethod
    def read_or_make(cls, file: Path, project: str) -> Self:
        """Read the key of a project, or make it when the project begins.

        Raises:
            EnrolmentError: it cannot be read or written, is open to others, or holds no key.
        """
        if not file.exists():
            write_new_secret(file, f"{secrets.token_hex(_BYTES)}\n".encode())
        return cls.read(file, project)

    def uid(self, old: str) -> str:
        """The UID in place of another one: of a UUID (PS3.5 B.2), version 8 of RFC 9562."""
        number = int.from_bytes(self._digest(b"uid", old)[:16], "big")
        number = number & ~(0xF << 76) | 0x8 << 76
        number = number & ~(0x3 << 62) | 0x2 << 62
        return f"2.25.{number}"

    def pseudonym(self, patient: str) -> str:
        """Patient ID in place of another one: 16 letters and digits, 80 bits."""
        return b32encode(self._digest(b"patient", patient)[:10]).decode("ascii")

    def days(self, patient: str) -> int:
        """How many days all dates of a patient move back."""
        number = int.from_bytes(self._digest(b"days", patient)[:8], "big")
        return 1 + number % _MOST_DAYS

    def _digest(self, what: bytes, value: str) -> bytes:
        fields = (_LABEL, what, self.project.encode(), _normal(value).encode(errors="replace"))
        # Lengths in front, so that no two sets of fields are one message.
        message = b"".join(len(field).to_bytes(4, "big") + field for field in fields)
        return hmac.digest(self.secret, message, "sha256")


def _normal(value: str) -> str:
    """One spelling of a value that scanners pad with blanks or NULs."""
    return unicodedata.normalize("NFC", value.strip(" \0\t\r\n"))
