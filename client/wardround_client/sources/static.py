"""Columns that accompany an image or signal as a vector. n = rows, S = static columns."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wardround_client.sources import within_patient
from wardround_client.sources.cells import feature_values
from wardround_client.sources.examples import patient_of_rows
from wardround_client.sources.index import Index
from wardround_shared.errors import UnreadableError
from wardround_shared.study import WithStatic

_FORMS = {
    "over-patient": within_patient.over_patient,
    "over-neighbours": within_patient.over_neighbours,
    "variation": within_patient.variation,
}


@dataclass(frozen=True, kw_only=True)
class Static:
    """Values float64 [n, S], NaN where missing; `faults` says why a row cannot be used."""

    values: NDArray[np.float64]
    faults: dict[int, str]

    def of(self, row: int) -> NDArray[np.float64]:
        """The values of a row.

        Raises:
            UnreadableError: it cannot be used.
        """
        if row in self.faults:
            raise UnreadableError(self.faults[row])
        values: NDArray[np.float64] = self.values[row]
        return values


def read_static(index: Index, data: WithStatic) -> Static | None:
    """The study's static columns, each in its form; None without any.

    A form that looks at other rows of the patient looks at all in the index, also those that
    `where` leaves out: a filter on the label must not show in a feature.

    Raises:
        DataError: a column is not there.
    """
    if not data.static:
        return None
    columns = [index.column(feature.column) for feature in data.static]
    values, faults = feature_values(columns, data.static, data.missing)
    patients = patient_of_rows(index, data)
    for place, feature in enumerate(data.static):
        if feature.form != "value":
            values[:, place] = _FORMS[feature.form](values[:, place], patients)
    return Static(values=values, faults=faults)
