"""Files: a JSON file holds one Bundle, an NDJSON file a resource or a Bundle a line."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from wardround_client.sources.fhir.faults import Fault
from wardround_client.sources.fhir.fields import Element, child, children, text
from wardround_client.sources.files import file_fault
from wardround_shared.errors import UnreadableError

_LARGEST = 1 << 28
_TYPES = {"transaction", "batch", "collection", "searchset"}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One resource of a Bundle and the URL that other entries refer to it by."""

    resource: Element
    url: str | None


def is_lines(path: Path) -> bool:
    """Whether the file holds something on each line."""
    return path.suffix.lower() == ".ndjson"


def read_document(path: Path) -> Element:
    """The object in a JSON file.

    Raises:
        UnreadableError: no JSON, no object, too large, or the system refuses the file.
    """
    try:
        with path.open("rb") as file:
            return _parsed(file.read(_LARGEST + 1))
    except OSError as error:
        raise UnreadableError(file_fault(error)) from error


def read_lines(path: Path) -> Iterator[tuple[int, Element | UnreadableError]]:
    """Number and object of each line that is not empty, or what is wrong with it.

    Raises:
        OSError: the system refuses the file.
    """
    with path.open("rb") as file:
        number = 0
        while line := file.readline(_LARGEST + 1):
            number += 1
            if not line.strip():
                continue
            try:
                yield number, _parsed(line)
            except UnreadableError as error:
                yield number, error


def _parsed(content: bytes) -> Element:
    if len(content) > _LARGEST:
        raise UnreadableError(Fault.TOO_LARGE)
    try:
        document: Any = json.loads(content, parse_constant=_no_number)
    # Nested too deep for the parser, or digits beyond what Python turns into a number.
    except (ValueError, RecursionError) as error:
        raise UnreadableError(Fault.NO_JSON) from error
    if not isinstance(document, dict):
        raise UnreadableError(Fault.NO_BUNDLE)
    return document


def _no_number(name: str) -> NoReturn:
    """NaN and Infinity are no JSON, whatever Python takes."""
    raise ValueError(name)


def entries(bundle: Element) -> list[Entry]:
    """The resources of a Bundle; an entry without one asks to delete something, and is none.

    Raises:
        UnreadableError: no Bundle, one of another type, or one within it.
    """
    if bundle.get("resourceType") != "Bundle":
        raise UnreadableError(Fault.NO_BUNDLE)
    if text(bundle, "type") not in _TYPES:
        raise UnreadableError(Fault.BUNDLE_TYPE)
    found = []
    for entry in children(bundle, "entry"):
        resource = child(entry, "resource")
        if resource is None:
            continue
        if text(resource, "resourceType") in {None, "Bundle"}:
            raise UnreadableError(Fault.MALFORMED)
        found.append(Entry(resource=resource, url=text(entry, "fullUrl")))
    return found
