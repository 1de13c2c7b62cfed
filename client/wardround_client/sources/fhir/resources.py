"""Patient, Encounter, Condition and Observation: what the study asks for goes into a chart."""

import math
from collections import Counter
from collections.abc import Callable, Mapping

from wardround_client.sources.fhir.charts import Chart, Person
from wardround_client.sources.fhir.days import Day, day, period
from wardround_client.sources.fhir.faults import Fault, Unused
from wardround_client.sources.fhir.fields import (
    Element,
    child,
    children,
    codes,
    identifiers,
    text,
)
from wardround_client.sources.fhir.references import patient_id
from wardround_client.sources.fhir.values import coded, quantity
from wardround_shared.errors import UnreadableError
from wardround_shared.study import FhirData

_FINAL = {"final", "amended", "corrected"}
_VOID = {"entered-in-error", "cancelled"}
_TOOK_PLACE = {"arrived", "triaged", "in-progress", "onleave", "finished"}
# Of a Condition (http://terminology.hl7.org/CodeSystem/condition-ver-status): nobody has it for
# certain.
_DOUBTFUL = {"unconfirmed", "provisional", "differential", "refuted", "entered-in-error"}


class Resources:
    """Reads resources as the study's data section says.

    Attributes:
        unused: how many values of each feature were not used, by feature and reason.
    """

    def __init__(self, data: FhirData) -> None:
        self._data = data
        self._features = {
            code: number for number, one in enumerate(data.features) for code in one.codes
        }
        self._conditions = frozenset(data.label.conditions)
        self.unused: Counter[tuple[int, Unused]] = Counter()
        self._readers: Mapping[str, Callable[[Element, Chart], None]] = {
            "Observation": self._observation,
            "Condition": self._condition,
            "Encounter": self._encounter,
        }

    def concerns(self, resource: Element) -> bool:
        """Whether a resource of this type is read."""
        return resource["resourceType"] in self._readers

    def read(self, resource: Element, chart: Chart) -> None:
        """Take what the study asks for.

        Raises:
            UnreadableError: the resource is not as FHIR R4 says.
        """
        self._readers[resource["resourceType"]](resource, chart)

    def person(self, patient: Element) -> Person:
        """What is read of a Patient.

        Raises:
            UnreadableError: as `read`.
        """
        if "animal" in patient:  # gone with R4
            raise UnreadableError(Fault.OTHER_VERSION)
        gender = text(patient, "gender")
        dead = patient.get("deceasedBoolean", False)
        if not isinstance(dead, bool):
            raise UnreadableError(Fault.MALFORMED)
        return Person(
            key=self._key(patient),
            birth=day(patient, "birthDate"),
            death=day(patient, "deceasedDateTime"),
            sex={"female": 0.0, "male": 1.0}.get(gender or "", math.nan),
        )

    def _key(self, patient: Element) -> str | None:
        system = self._data.patient
        if system is None:
            return patient_id(patient)
        values = {value for of, value in identifiers(patient) if of == system}
        if len(values) != 1 or not (value := values.pop()).isprintable() or not value.strip():
            return None
        return value

    def _encounter(self, encounter: Element, chart: Chart) -> None:
        # A text in DSTU2, a list and actualPeriod in R5.
        if "actualPeriod" in encounter or isinstance(encounter.get("class"), str | list):
            raise UnreadableError(Fault.OTHER_VERSION)
        when = period(encounter, "period")
        if text(encounter, "status") not in _TOOK_PLACE or when is None:
            return
        chart.encounters.add(when.earliest)
        chart.happened(when)

    def _condition(self, condition: Element, chart: Chart) -> None:
        for key in ("clinicalStatus", "verificationStatus"):
            if isinstance(condition.get(key), str):  # up to STU3
                raise UnreadableError(Fault.OTHER_VERSION)
        verification = codes(child(condition, "verificationStatus"))
        began = _onset(condition)
        meant = codes(child(condition, "code")) & self._conditions
        if any(code.rpartition("|")[2] in _DOUBTFUL for code in verification):
            return
        chart.happened(began)
        chart.happened(day(condition, "recordedDate"))
        if meant:
            chart.conditions.append(began)

    def _observation(self, observation: Element, chart: Chart) -> None:
        if "context" in observation or "comment" in observation:  # STU3
            raise UnreadableError(Fault.OTHER_VERSION)
        status = text(observation, "status")
        when, issued = _effective(observation), day(observation, "issued")
        parts = [observation, *children(observation, "component")]
        found = [(number, part) for part in parts for number in self._meant(part)]
        if status in _VOID:
            return
        chart.happened(when)
        for number, part in found:
            value = self._value(number, part)
            if status not in _FINAL:
                self.unused[number, Unused.STATUS] += 1
            elif when is None:
                self.unused[number, Unused.UNDATED] += 1
            elif isinstance(value, Unused):
                self.unused[number, value] += 1
            else:
                known = max(when.latest, issued.latest if issued else 0)
                chart.observe(known=known, day=when.latest, feature=number, value=value)

    def _meant(self, part: Element) -> set[int]:
        """Numbers of the features that an Observation or a component is about."""
        code = child(part, "code")
        if code is None:
            raise UnreadableError(Fault.MALFORMED)
        return {self._features[one] for one in codes(code) if one in self._features}

    def _value(self, number: int, part: Element) -> float | Unused:
        feature = self._data.features[number]
        return quantity(part, feature) if feature.unit is not None else coded(part, feature)


def _onset(condition: Element) -> Day | None:
    """When it began; when it was recorded, where the onset is not told at all."""
    began = day(condition, "onsetDateTime") or period(condition, "onsetPeriod")
    recorded = day(condition, "recordedDate")
    if began is not None and "onsetPeriod" in condition and "onsetDateTime" not in condition:
        return Day(earliest=began.earliest, latest=began.earliest)
    told = any(key.startswith("onset") for key in condition)
    return began if told else recorded


def _effective(observation: Element) -> Day | None:
    return (
        day(observation, "effectiveDateTime")
        or day(observation, "effectiveInstant")
        or period(observation, "effectivePeriod")
    )
