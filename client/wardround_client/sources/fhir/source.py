"""The source: files into charts, charts into examples."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from wardround_client.sources.fhir.charts import Chart
from wardround_client.sources.fhir.documents import (
    Entry,
    entries,
    is_lines,
    read_document,
    read_lines,
)
from wardround_client.sources.fhir.faults import Fault, LeftOut
from wardround_client.sources.fhir.fields import Element, text
from wardround_client.sources.fhir.question import age, day_of_prediction, label
from wardround_client.sources.fhir.references import References
from wardround_client.sources.fhir.resources import Resources
from wardround_client.sources.fhir.timeline import over_time
from wardround_client.sources.files import file_fault, fingerprint, matching
from wardround_client.sources.records import RawRecord, SetAside
from wardround_shared.errors import CohortError, UnreadableError
from wardround_shared.study import FhirData, Study


class FhirSource:
    """Patients of FHIR files; `main` is float64 [F + 1, T], values and days.

    Files are called by their number in the order of their paths: names of such files are often
    names of patients.
    """

    def __init__(
        self, study: Study, data: FhirData, folder: Path, *, labelled: bool = True
    ) -> None:
        """Find the files, open none.

        Args:
            study: as it is.
            data: its data section.
            folder: data folder.
            labelled: whether a patient of whom nobody knows what came is left out; otherwise for a
                trained model, of which nobody is left out without a word.
        """
        self._data, self._folder, self._labelled = data, folder, labelled
        self._files = tuple(sorted(matching(folder, data.files, "data.files")))
        self._notes: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Hash over names, sizes and times of the files."""
        return fingerprint(self._folder, self._files)

    def notes(self) -> tuple[str, ...]:
        """What a person should know, complete once `records` is exhausted."""
        return self._notes

    def records(self) -> Iterator[RawRecord | SetAside]:
        """Every patient of the files whom the study's question concerns.

        Raises:
            CohortError: an NDJSON file cannot be opened, where part of every record may be; or the
                question of the study concerns nobody.
        """
        reading = _Reading(self._data)
        for number, path in enumerate(self._files, start=1):
            reading.add(path, f"file {number}")
        yield from reading.lost
        left_out: Counter[LeftOut] = Counter()
        patients = 0
        for chart in reading.patients():
            outcome = self._example(chart)
            patients += not isinstance(outcome, SetAside)
            if not isinstance(outcome, LeftOut):
                yield outcome
            elif self._labelled:
                left_out[outcome] += 1
            else:
                yield SetAside(key=chart.place, site=None, reason=str(outcome))
        about = _of_patients(left_out, patients)
        if patients and left_out.total() == patients:
            raise CohortError(about[0])
        self._notes = (*self._of_values(reading.resources), *about)

    def _example(self, chart: Chart) -> RawRecord | SetAside | LeftOut:
        person = chart.person
        if chart.fault is not None or person is None or person.key is None:
            fault = chart.fault or (Fault.NO_PATIENT if person is None else Fault.NO_KEY)
            return SetAside(key=chart.place, site=None, reason=str(fault))
        today = day_of_prediction(chart, person, self._data.prediction)
        if isinstance(today, LeftOut):
            return today
        outcome = label(chart, person, today, self._data.label)
        if isinstance(outcome, LeftOut):
            # What comes after the day is not known of a patient of today; what was before, is.
            if self._labelled or outcome is LeftOut.BEFORE:
                return outcome
            outcome = 0
        features, length = len(self._data.features), self._data.length
        main = over_time(chart.values(), today, features=features, length=length)
        if main is None:
            return LeftOut.NOTHING
        about = {"age": age(person, today), "sex": person.sex}
        static = [about[name] for name in self._data.static]
        return RawRecord(
            key=chart.place,
            patient=person.key,
            site=None,
            stratum=outcome,
            target=np.array(outcome, dtype=np.int64),
            main=main,
            static=np.array(static, dtype=np.float64) if static else None,
        )

    def _of_values(self, resources: Resources) -> list[str]:
        return [
            f"data.features: {count} values of {self._data.features[number].name} {reason} and "
            "are not used."
            for (number, reason), count in sorted(resources.unused.items())
        ]


def _of_patients(left_out: Counter[LeftOut], patients: int) -> list[str]:
    if not left_out:
        return []
    reasons = ", ".join(f"{reason} ({count})" for reason, count in left_out.most_common())
    counts = f"{left_out.total()} of {patients} patients"
    return [f"data.prediction and data.label leave out {counts}: {reasons}."]


class _Reading:
    """Charts as they grow from file to file.

    Attributes:
        lost: documents of nobody knows whom.
    """

    def __init__(self, data: FhirData) -> None:
        self.resources = Resources(data)
        self.lost: list[SetAside] = []
        self._charts: dict[str, Chart] = {}

    def add(self, path: Path, place: str) -> None:
        """Read a file.

        Raises:
            CohortError: an NDJSON file cannot be opened.
        """
        if not is_lines(path):
            try:
                self._bundle(read_document(path), place)
            except UnreadableError as error:
                self._lose(place, error)
            return
        try:
            for number, line in read_lines(path):
                self._line(line, f"{place}, line {number}")
        except OSError as error:
            raise CohortError(
                f"{place} of data.files: {file_fault(error)}; records of all patients may have a "
                "part in it."
            ) from error

    def patients(self) -> Iterator[Chart]:
        """Each patient's chart; two handles with one patient key are one patient."""
        by_key: dict[str, Chart] = {}
        for handle, chart in self._charts.items():
            key = chart.person.key if chart.person else None
            # No key of a person has a line break, which tells the two kinds apart.
            first = by_key.setdefault(f"\n{handle}" if key is None else key, chart)
            if first is not chart:
                first.add(chart)
        yield from by_key.values()

    def _line(self, line: Element | UnreadableError, place: str) -> None:
        try:
            if isinstance(line, UnreadableError):
                raise line
            if text(line, "resourceType") == "Bundle":
                self._bundle(line, place)
            elif "resourceType" not in line:
                raise UnreadableError(Fault.MALFORMED)
            else:
                self._document([Entry(resource=line, url=None)], place, alone=True)
        except UnreadableError as error:
            self._lose(place, error)

    def _bundle(self, bundle: Element, place: str) -> None:
        self._document(entries(bundle), place, alone=False)

    def _document(self, found: Sequence[Entry], place: str, *, alone: bool) -> None:
        """Add what a document says of its one patient; a fault in it spoils the patient.

        Raises:
            UnreadableError: it is of nobody knows whom.
        """
        references = References(place, found)
        chart = Chart(place=place)
        handles: dict[str, None] = {}
        fault: str | None = None
        for entry in found:
            try:
                self._entry(entry, references, chart, handles)
            except UnreadableError as error:
                fault = fault or str(error)
        if not handles:
            if alone and fault is None:
                return  # of no concern
            raise UnreadableError(fault or Fault.NO_PATIENT)
        if len(handles) > 1:
            fault = str(Fault.SEVERAL)
        for handle in handles:
            kept = self._charts.setdefault(handle, Chart(place=place))
            if fault is None:
                kept.add(chart)
            else:
                kept.spoil(fault)

    def _entry(
        self, entry: Entry, references: References, chart: Chart, handles: dict[str, None]
    ) -> None:
        resource = entry.resource
        if resource["resourceType"] == "Patient":
            handles[references.handle(resource, entry.url)] = None
            chart.is_person(self.resources.person(resource), chart.place)
        elif self.resources.concerns(resource):
            handle = references.subject(resource)
            if handle is not None:
                handles[handle] = None
                self.resources.read(resource, chart)

    def _lose(self, place: str, error: UnreadableError) -> None:
        self.lost.append(SetAside(key=place, site=None, reason=str(error)))
