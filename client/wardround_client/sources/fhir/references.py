"""Whose a resource is: references to a patient (FHIR R4, section 2.3.0).

A patient is named by a handle: `Patient/<id>`, the same in all files of a folder, or, for a Patient
without an id, the URL of its entry in its own file.
"""

import re
from collections.abc import Sequence
from urllib.parse import parse_qsl

from wardround_client.sources.fhir.documents import Entry
from wardround_client.sources.fhir.faults import Fault
from wardround_client.sources.fhir.fields import Element, child, identifiers, text
from wardround_shared.errors import UnreadableError

_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}", re.ASCII)
_RELATIVE = re.compile(r"([A-Z][A-Za-z]*)/([A-Za-z0-9\-.]{1,64})", re.ASCII)
_VERSION = re.compile(r"/_history/[^/]*\Z")


def patient_id(patient: Element) -> str | None:
    """The Patient's id, or None where it has none.

    Raises:
        UnreadableError: it is no id.
    """
    given = text(patient, "id")
    if given is not None and not _ID.fullmatch(given):
        raise UnreadableError(Fault.MALFORMED)
    return given


class References:
    """Resolves the references of one document."""

    def __init__(self, place: str, entries: Sequence[Entry] = ()) -> None:
        """Learn by which names the document's patients may be meant.

        Args:
            place: of the document; tells patients without an id of two files apart.
            entries: of the Bundle; none for a resource that stands alone.
        """
        self._place = place
        self._by_name: dict[str, str] = {}
        self._others: set[str] = set()
        for entry in entries:
            if entry.resource["resourceType"] == "Patient":
                self._learn(entry)
            elif entry.url is not None:
                self._others.add(entry.url)

    def _learn(self, entry: Entry) -> None:
        handle = self.handle(entry.resource, entry.url)
        named = [f"{system}|{value}" for system, value in identifiers(entry.resource) if system]
        for name in (handle, entry.url, *named):
            if name is not None:
                # Two patients in one document are refused by whoever asks.
                self._by_name.setdefault(name, handle)

    def handle(self, patient: Element, url: str | None) -> str:
        """Handle of a Patient resource.

        Raises:
            UnreadableError: there is neither id nor URL to refer to it by.
        """
        known = patient_id(patient)
        if known is not None:
            return f"Patient/{known}"
        if url is None:
            raise UnreadableError(Fault.NO_KEY)
        return f"{self._place}#{url}"

    def subject(self, resource: Element) -> str | None:
        """Handle of the patient whose resource it is; None if it is about something else.

        Raises:
            UnreadableError: it is about nobody who could be found.
        """
        subject = child(resource, "subject") or {}
        reference = text(subject, "reference")
        if reference is None:
            return self._identified(subject)
        reference = _VERSION.sub("", reference)
        if reference in self._by_name:
            return self._by_name[reference]
        if relative := _RELATIVE.fullmatch(reference):
            # Another file may have this patient.
            return reference if relative.group(1) == "Patient" else None
        if reference in self._others:
            return None
        return self._conditional(reference)

    def _conditional(self, reference: str) -> str:
        """`Patient?identifier=system|value`."""
        kind, _, query = reference.partition("?")
        asked = parse_qsl(query)
        if kind != "Patient" or len(asked) != 1 or asked[0][0] != "identifier":
            raise UnreadableError(Fault.NOWHERE)
        return self._named(asked[0][1])

    def _identified(self, subject: Element) -> str:
        """A reference by identifier alone."""
        given = child(subject, "identifier")
        if given is None:
            raise UnreadableError(Fault.NOWHERE)
        return self._named(f"{text(given, 'system')}|{text(given, 'value')}")

    def _named(self, identifier: str) -> str:
        if "|" not in identifier or identifier not in self._by_name:
            raise UnreadableError(Fault.NOWHERE)
        return self._by_name[identifier]
