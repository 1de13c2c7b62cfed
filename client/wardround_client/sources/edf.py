"""`source = "edf"`: EDF and EDF+ recordings. C = leads, T = samples in time.

Formats: Kemp et al. 1992 ("A simple format for exchange of digitized polygraphic recordings") and
Kemp and Olivan 2003 (EDF+). The header begins with the patient's name, which nothing here asks for.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround_client.sources.labelled import LabelledFiles
from wardround_client.sources.quiet import unheard
from wardround_client.sources.records import Reading
from wardround_client.sources.units import factor
from wardround_client.sources.windows import cut
from wardround_shared.errors import UnreadableError
from wardround_shared.study import EdfData, Study, Windows

_ENDINGS = (".edf",)
_DAMAGED = "the EDF file is truncated or damaged"
_VERSION = b"0       "
# Bytes of the header: of the file, of each signal, and where a signal's number of samples stands
# (in the fields before it, 16 + 80 + 8 + 8 + 8 + 8 + 8 + 80 bytes a signal).
_HEADER, _SIGNAL, _SAMPLES = 256, 256, 216


def edf_source(study: Study, data: EdfData, folder: Path) -> LabelledFiles:
    """EDF files of one recording each."""
    read = partial(read_edf, leads=data.leads, unit=data.unit, windows=data.windows)
    return LabelledFiles(study, data, folder, read=read, endings=_ENDINGS)


def read_edf(
    path: Path, *, leads: Sequence[str], unit: str, windows: Windows | None = None
) -> tuple[Reading, ...]:
    """The named leads of a recording, in this order, or its windows.

    Args:
        path: of the file.
        leads: labels of signals.
        unit: of the values, as `data.unit`.
        windows: what it is cut into.

    Raises:
        UnreadableError: no EDF, damaged, with gaps, a lead missing or in another unit, leads of
            several sampling rates, or too short.
        OSError: the system refuses the file.
    """
    _require_whole(path)
    import edfio  # noqa: PLC0415 - slow to import

    with unheard():
        try:
            # Letters beyond ASCII, such as that for micro, are against the standard and common.
            recording = edfio.read_edf(path, header_encoding="latin-1")
            signal, rate = _signal(recording.signals, leads, unit)
        except UnreadableError:
            raise
        except Exception as error:  # a parser may raise anything on a damaged file
            raise UnreadableError(_DAMAGED) from error
    return cut(signal, rate, windows)


def _require_whole(path: Path) -> None:
    """Refuse what is no EDF file, has gaps, or is shorter or longer than its header says."""
    with path.open("rb") as file:
        head = file.read(_HEADER)
        if len(head) < _HEADER or head[:8] != _VERSION:
            raise UnreadableError("the file is not an EDF file")
        if head[192:197] == b"EDF+D":
            raise UnreadableError("the EDF+ recording has gaps (EDF+D)")
        try:
            records, signals = int(head[236:244]), int(head[252:256])
            if signals < 1 or records < 1:
                raise UnreadableError(_DAMAGED)
            header = file.read(signals * _SIGNAL)
            place = signals * _SAMPLES
            counts = [int(header[place + 8 * i : place + 8 * i + 8]) for i in range(signals)]
        except ValueError as error:
            raise UnreadableError(_DAMAGED) from error
        size = file.seek(0, 2)
    if min(counts) < 1 or size != _HEADER + signals * _SIGNAL + 2 * records * sum(counts):
        raise UnreadableError(_DAMAGED)


def _signal(
    signals: Sequence[Any], leads: Sequence[str], unit: str
) -> tuple[NDArray[np.float32], float]:
    """Physical values [C, T] and the sampling rate in Hz."""
    if not signals:
        raise UnreadableError("the EDF file has annotations and no signal")
    chosen = []
    for lead in leads:
        found = [signal for signal in signals if signal.label.strip() == lead.strip()]
        if not found:
            raise UnreadableError("the record lacks a lead that the study names")
        if len(found) > 1:
            raise UnreadableError("the recording has a lead twice that the study names")
        chosen += found
    rates = {signal.sampling_frequency for signal in chosen}
    if len(rates) > 1:
        raise UnreadableError("the leads that the study names differ in sampling rate")
    values = np.stack([_values(signal, unit) for signal in chosen])
    if not np.isfinite(values).all():
        raise UnreadableError(_DAMAGED)
    return values, float(rates.pop())


def _values(signal: Any, unit: str) -> NDArray[np.float32]:
    (low, high), (least, most) = signal.physical_range, signal.digital_range
    if low == high or least >= most:
        # The library would hand out the digital values instead.
        raise UnreadableError("a lead of the EDF file has no scale")
    into = factor(signal.physical_dimension.strip(), unit)
    values: NDArray[np.float32] = (signal.data * into).astype(np.float32)
    return values
