"""Elements of a resource, each checked for its JSON type when it is taken.

FHIR has no null: an element that is not there has no key.
"""

from typing import Any

from wardround_client.sources.fhir.faults import Fault
from wardround_shared.errors import UnreadableError

Element = dict[str, Any]


def text(element: Element, key: str) -> str | None:
    """A string, or None where there is none.

    Raises:
        UnreadableError: it is something else, as in all functions here.
    """
    value = element.get(key)
    if key in element and not isinstance(value, str):
        raise UnreadableError(Fault.MALFORMED)
    return value


def child(element: Element, key: str) -> Element | None:
    """An element with elements of its own, or None where there is none."""
    value = element.get(key)
    if key in element and not isinstance(value, dict):
        raise UnreadableError(Fault.MALFORMED)
    return value


def children(element: Element, key: str) -> list[Element]:
    """A list of elements; empty where there is none."""
    values = element.get(key, [])
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise UnreadableError(Fault.MALFORMED)
    return values


def codes(concept: Element | None) -> frozenset[str]:
    """`system|code` of each coding of a CodeableConcept."""
    found = set()
    for coding in children(concept or {}, "coding"):
        system, code = text(coding, "system"), text(coding, "code")
        if system is not None and code is not None:
            found.add(f"{system}|{code}")
    return frozenset(found)


def identifiers(element: Element) -> list[tuple[str | None, str]]:
    """System and value of each identifier that has a value."""
    found = []
    for identifier in children(element, "identifier"):
        system, value = text(identifier, "system"), text(identifier, "value")
        if value is not None:
            found.append((system, value))
    return found
