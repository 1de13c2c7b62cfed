"""Attribute by attribute: a new data set of what may stay, the old one being only read."""

from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from wardround_client.deidentification import tables, values
from wardround_client.deidentification.project_key import ProjectKey
from wardround_client.deidentification.tables import Action, kept

if TYPE_CHECKING:
    from pydicom import DataElement, Dataset
    from pydicom.tag import BaseTag

PIXELS = "PixelData"
PATIENT = ("PatientID", "PatientName")
_FIRST_GROUP = 8
"""Lower ones are of messages and of file meta information, and have no place in a data set."""
_DUMMY_TEXT = "REMOVED"
_DUMMIES = {"DA": "19000101", "DT": "19000101", "AS": "000Y", "IS": "0", "DS": "0"}
_TEXTS = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT"})


class Outcome(StrEnum):
    """What was done to an attribute; a removed one says which rule it fell under."""

    KEPT = "kept"
    REPLACED = "replaced"
    EMPTIED = "emptied"
    REMOVED_BY_PROFILE = "removed_by_profile"
    REMOVED_PRIVATE = "removed_private"
    REMOVED_UNKNOWN = "removed_unknown"


class _Made(NamedTuple):
    """`value` is None where the attribute is not written."""

    outcome: Outcome
    value: Any = None


_EMPTIED = _Made(Outcome.EMPTIED, "")
_UNKNOWN = _Made(Outcome.REMOVED_UNKNOWN)


class Attributes:
    """Makes the new data set of one file."""

    def __init__(
        self, key: ProjectKey, *, patient: str, order: Literal["little", "big"] = "little"
    ) -> None:
        """For a file.

        Args:
            key: of the project.
            patient: Patient ID, by which all of the patient's dates move alike.
            order: of the bytes of the file.
        """
        self._key = key
        self._days = key.days(patient)
        self._pseudonym = key.pseudonym(patient)
        self._order = order
        self.outcomes: Counter[Outcome] = Counter()

    def rebuilt(self, source: "Dataset") -> "Dataset":
        """A new data set, or item of a sequence, without pixel data, which pixels.py is for."""
        from pydicom import DataElement, Dataset  # noqa: PLC0415 - slow to import
        from pydicom.datadict import keyword_for_tag  # noqa: PLC0415

        new = Dataset()
        for tag in sorted(source.keys()):
            keyword = keyword_for_tag(tag)
            if keyword == PIXELS:
                continue
            made, vr = self._made(source, tag, keyword)
            self.outcomes[made.outcome] += 1
            if made.value is not None:
                value = None if made.outcome is Outcome.EMPTIED else made.value
                new.add(DataElement(tag, vr, value, already_converted=vr == "SQ"))
        return new

    def _made(self, source: "Dataset", tag: "BaseTag", keyword: str) -> tuple[_Made, str]:
        from pydicom.datadict import dictionary_VR  # noqa: PLC0415 - slow to import

        if tag.is_private:
            return _Made(Outcome.REMOVED_PRIVATE), ""
        rule = self._patient if keyword in PATIENT else self._rule(keyword)
        by_profile = tables.action(tag.group, tag.element)
        if tag.group < _FIRST_GROUP or (rule is None and by_profile in {None, Action.REMOVE}):
            return (_UNKNOWN if by_profile is None else _Made(Outcome.REMOVED_BY_PROFILE)), ""
        try:
            element = source[tag]
            vr = str(element.VR)
            if vr != dictionary_VR(tag) and vr not in dictionary_VR(tag).split(" or "):
                return _UNKNOWN, ""
            if rule is not None:
                return rule(element, source), vr
            assert by_profile is not None
            return self._by_profile(by_profile, element), vr
        except Exception:  # noqa: BLE001 - a parser may raise anything on a damaged value
            return _UNKNOWN, ""

    def _rule(self, keyword: str) -> "Callable[[DataElement, Dataset], _Made] | None":
        """For what may stay; before the profile, whose dates are shifted (option 113107)."""
        allowed = kept()
        for keywords, rule in (
            (allowed.numbers, self._numbers),
            (allowed.terms, self._terms),
            (allowed.dates, self._dates),
            (allowed.classes, self._classes),
            (allowed.sequences, self._sequence),
            (allowed.codes, self._codes),
            (allowed.tables, self._table),
            (allowed.emptied, self._empty),
        ):
            if keyword in keywords:
                return rule
        return None

    def _patient(self, _element: "DataElement", _source: "Dataset") -> _Made:
        return _Made(Outcome.REPLACED, self._pseudonym)

    def _numbers(self, element: "DataElement", _source: "Dataset") -> _Made:
        from pydicom.datadict import dictionary_has_tag, dictionary_VM  # noqa: PLC0415 - as above

        multiplicity = dictionary_VM(element.tag)
        found = values.listed(element.value)
        if isinstance(element.value, bytes):  # "US or SS", which the sign of the pixels decides
            fits = values.fits_words(element.value, multiplicity)
            return _Made(Outcome.KEPT, element.value) if fits else _EMPTIED
        if element.VR == "AT":
            fits = 0 < len(found) <= 8 and all(map(dictionary_has_tag, found))
            return _Made(Outcome.KEPT, element.value) if fits else _EMPTIED
        if not values.are_measures(found, multiplicity):
            return _EMPTIED
        return _Made(Outcome.KEPT, [values.plain(value, element.VR) for value in found])

    def _terms(self, element: "DataElement", _source: "Dataset") -> _Made:
        found = values.terms(values.listed(element.value), kept().terms[element.keyword])
        return _Made(Outcome.KEPT, found) if found else _EMPTIED

    def _dates(self, element: "DataElement", _source: "Dataset") -> _Made:
        return self._shifted(element)

    def _shifted(self, element: "DataElement") -> _Made:
        found = [values.shifted(value, self._days) for value in values.listed(element.value)]
        return _Made(Outcome.REPLACED, found[0]) if len(found) == 1 and found[0] else _EMPTIED

    def _classes(self, element: "DataElement", _source: "Dataset") -> _Made:
        from pydicom.uid import UID  # noqa: PLC0415 - slow to import

        uid = UID(str(element.value))
        return _Made(Outcome.KEPT, uid) if uid.type == "SOP Class" else _EMPTIED

    def _sequence(self, element: "DataElement", _source: "Dataset") -> _Made:
        from pydicom.sequence import Sequence  # noqa: PLC0415 - slow to import

        # An item that is left empty stays: the n-th item belongs to the n-th frame.
        items = [self.rebuilt(item) for item in element.value]
        return _Made(Outcome.KEPT, Sequence(items)) if any(map(len, items)) else _UNKNOWN

    def _codes(self, element: "DataElement", _source: "Dataset") -> _Made:
        from pydicom.sequence import Sequence  # noqa: PLC0415 - slow to import

        meanings = {
            code: meaning
            for group in kept().codes[element.keyword]
            for code, meaning in tables.known_codes(group).items()
        }
        found = [
            (str(item.get("CodingSchemeDesignator")), str(item.get("CodeValue")))
            for item in element.value
        ]
        items = [code_item(*code, meanings[code]) for code in found if code in meanings]
        return _Made(Outcome.REPLACED, Sequence(items)) if items else _UNKNOWN

    def _table(self, element: "DataElement", source: "Dataset") -> _Made:
        described = source.get(element.keyword.removesuffix("Data") + "Descriptor")
        if isinstance(described, bytes):
            described = [int.from_bytes(described[:2], self._order)]
        entries = (int(described[0]) & 0xFFFF) or 0x10000  # PS3.3 C.11.1.1: 0 stands for 2^16
        if isinstance(element.value, bytes):
            fits = len(element.value) in {2 * entries, entries + entries % 2}
        else:
            fits = len(values.listed(element.value)) == entries
        return _Made(Outcome.KEPT, element.value) if fits else _EMPTIED

    def _empty(self, _element: "DataElement", _source: "Dataset") -> _Made:
        return _EMPTIED

    def _by_profile(self, action: Action, element: "DataElement") -> _Made:
        if action is Action.UID and element.VR == "UI":
            found = [self._key.uid(str(value)) for value in values.listed(element.value)]
            return _Made(Outcome.REPLACED, found) if found else _EMPTIED
        if action is Action.EMPTY and element.VR != "SQ":
            return _EMPTIED
        if action is Action.DUMMY:
            return self._dummy(element)
        return _Made(Outcome.REMOVED_BY_PROFILE)

    def _dummy(self, element: "DataElement") -> _Made:
        """A value that says nothing; what has none, a sequence or bytes, is removed."""
        if element.VR in {"DA", "DT"}:
            made = self._shifted(element)
            if made.value:
                return made
        if element.VR == "TM":
            return _EMPTIED  # any time would pass for one
        if element.VR in _TEXTS:
            return _Made(Outcome.REPLACED, _DUMMY_TEXT)
        if element.VR in _DUMMIES:
            return _Made(Outcome.REPLACED, _DUMMIES[element.VR])
        return _Made(Outcome.REMOVED_BY_PROFILE)


def code_item(scheme: str, value: str, meaning: str) -> "Dataset":
    """An item of a code sequence (PS3.3 8.8)."""
    from pydicom import Dataset  # noqa: PLC0415 - slow to import

    item = Dataset()
    item.CodeValue = value
    item.CodingSchemeDesignator = scheme
    item.CodeMeaning = meaning
    return item
