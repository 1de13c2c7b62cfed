"""Columns that accompany a signal as a vector. n = rows, S = static columns."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wardround_client.sources.cells import feature_values, relative_to_patient
from wardround_client.sources.examples import patient_of_rows
from wardround_client.sources.index import Index
from wardround_shared.errors import StudyError
from wardround_shared.study import SignalsData, WfdbData


@dataclass(frozen=True, kw_only=True)
class Static:
    """Values float64 [n, S], NaN where missing; `faults` says why a row cannot be used."""

    values: NDArray[np.float64]
    faults: dict[int, str]


def read_static(index: Index, data: WfdbData | SignalsData) -> Static | None:
    """The study's static columns, then those relative to the patient; None without any.

    The patient's median is taken over all rows of the index, also those that `where` leaves out:
    a filter on the label must not show in a feature.

    Raises:
        DataError: a column is not there.
        StudyError: a relative column is no numeric static column.
    """
    if not data.static:
        return None
    columns = [index.column(feature.column) for feature in data.static]
    values, faults = feature_values(columns, data.static, data.missing)
    numeric = {f.column: i for i, f in enumerate(data.static) if f.kind == "numeric"}
    parts = [values]
    for name in data.relative_to_patient:
        if name not in numeric:
            raise StudyError(f"data.relative-to-patient: {name!r} is no numeric column of static.")
        relative = relative_to_patient(values[:, numeric[name]], patient_of_rows(index, data))
        parts.append(relative[:, None])
    return Static(values=np.concatenate(parts, axis=1), faults=faults)
