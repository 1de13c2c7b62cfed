"""What is kept of a patient while the files are read."""

from array import array
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from wardround_client.sources.fhir.days import Day
from wardround_client.sources.fhir.faults import Fault

# Of a value: day from which it is known, day of the observation, number of the feature, value.
_WIDTH = 4


@dataclass(frozen=True, kw_only=True)
class Person:
    """What a Patient resource says.

    Attributes:
        key: patient key; None without an identifier of the system that the study names.
        sex: 0 female, 1 male, NaN anything else.
    """

    key: str | None
    birth: Day | None
    death: Day | None
    sex: float

    def agrees(self, other: "Person") -> bool:
        """Whether both may be the same patient."""
        return repr(self) == repr(other)  # NaN is no different from NaN here


@dataclass(kw_only=True)
class Chart:
    """Everything that the study asks of one patient, over all files.

    Attributes:
        place: where the Patient, or the first of the resources, stands.
        fault: why the patient cannot be used.
        encounters: days.
        conditions: when each Condition of the label began; None where nobody says.
        end: last day on which something happened; 0 where nothing did.
    """

    place: str
    person: Person | None = None
    fault: str | None = None
    encounters: set[int] = field(default_factory=set)
    conditions: list[Day | None] = field(default_factory=list)
    end: int = 0
    # Numbers in a row: a tuple for each value of a large hospital would not fit into memory.
    _values: "array[float]" = field(default_factory=lambda: array("d"))

    def observe(self, *, known: int, day: int, feature: int, value: float) -> None:
        """Add a value of a feature."""
        self._values.extend((known, day, feature, value))

    def happened(self, when: Day | None) -> None:
        """The record goes on to this day at least."""
        if when is not None:
            self.end = max(self.end, when.earliest)

    def values(self) -> NDArray[np.float64]:
        """[n, 4]: day from which it is known, day of the observation, feature, value."""
        return np.array(self._values).reshape(-1, _WIDTH)

    def is_person(self, person: Person, place: str) -> None:
        """Whose chart it is; a Patient that contradicts an earlier one spoils it."""
        if self.person is None:
            self.person, self.place = person, place
        elif not self.person.agrees(person):
            self.spoil(Fault.CONTRADICTION)

    def spoil(self, fault: str) -> None:
        """The patient cannot be used; the first reason stays."""
        self.fault = self.fault or fault

    def add(self, other: "Chart") -> None:
        """Take over what another file has of this patient."""
        if other.person is not None:
            self.is_person(other.person, other.place)
        if other.fault is not None:
            self.spoil(other.fault)
        self.encounters |= other.encounters
        self.conditions += other.conditions
        self.end = max(self.end, other.end)
        self._values.extend(other.values().ravel())
