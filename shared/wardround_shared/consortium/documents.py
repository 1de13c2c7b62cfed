"""Signed documents in JSON: strict when read, with one canonical form to be signed.

Canonical is: keys sorted, no white space, ASCII. What is signed begins with a label of its own, so
that no signature is good for a document of another kind.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from wardround_shared.errors import EnrolmentError

MAX_BYTES = 2**20
"""Longest document; a roster of 1024 sites is about half of it."""

_PREFIX = b"wardround/consortium/1/"


class Fields(BaseModel):
    """Frozen fields of exact types; no key may be unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Document(Fields):
    """A file of one kind.

    Attributes:
        what: how people call it.
        label: what its signatures begin with.
    """

    what: ClassVar[str]
    label: ClassVar[bytes]

    @classmethod
    def parse(cls, data: bytes, *, origin: str | None = None) -> Self:
        """Read a document; its signatures are not checked yet.

        Args:
            data: the file.
            origin: names it in errors; without it, what it is.

        Raises:
            EnrolmentError: too long, cut off, of another kind, or with a wrong, unknown or
                repeated key.
        """
        origin = origin or cls.what
        if len(data) > MAX_BYTES:
            raise EnrolmentError(f"{origin}: this is too long for a {cls.what}.")
        try:
            json.loads(data, object_pairs_hook=_once)
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise EnrolmentError(f"{origin}: {first_fault(error)}.") from error
        except _RepeatedKeyError as error:
            raise EnrolmentError(f"{origin}: the key {error} stands there twice.") from error
        except (ValueError, RecursionError) as error:
            raise EnrolmentError(
                f"{origin}: this is no whole {cls.what}; have the file sent again."
            ) from error

    def to_bytes(self) -> bytes:
        """The file. It ends in a bracket, so that no shorter file is a document."""
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True).encode("ascii")

    def signed_bytes(self, *, without: Collection[str]) -> bytes:
        """What a signature covers: the label, and everything but the signatures themselves."""
        content = self.model_dump(mode="json", exclude=set(without))
        return _PREFIX + self.label + b"\n" + canonical(content)


def canonical(content: Any) -> bytes:
    """The one encoding of a content."""
    return json.dumps(
        content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode("ascii")


def read_bytes(file: Path) -> bytes:
    """A file that somebody sent, or as much of it as shows that it is too long.

    Raises:
        EnrolmentError: it cannot be read.
    """
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise EnrolmentError(f"{file}: cannot be read ({error.strerror}).") from error


def first_fault(error: ValidationError) -> str:
    """The first fault: key, value and what is allowed; no full stop."""
    fault = error.errors()[0]
    key = ".".join(str(part) for part in fault["loc"])
    prefix = f"{key}: " if key else ""
    if fault["type"] == "extra_forbidden":
        return f"{prefix}there is no such key"
    if fault["type"] == "missing":
        return f"{prefix}this key is required"
    message = fault["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if fault["type"] == "value_error" and not key:
        return message
    given = json.dumps(fault["input"], default=str)[:80]
    return f"{prefix}{given} is not allowed here, {message}"


class _RepeatedKeyError(Exception):
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two readers may take different ones of two equal keys; so there are none."""
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise _RepeatedKeyError(json.dumps(key)[:80])
        content[key] = value
    return content
