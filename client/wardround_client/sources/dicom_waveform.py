"""`source = "dicom-waveform"`: ECGs and other waveforms in DICOM files. C = leads, T = samples.

Format: PS3.3 A.34 (Waveform IODs) and C.10.9 (Waveform Module). Only the tags of `ALLOWED_TAGS`
are parsed, at any depth.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wardround_client.sources.dicom_header import DAMAGED, read_tags
from wardround_client.sources.labelled import LabelledFiles
from wardround_client.sources.quiet import unheard
from wardround_client.sources.records import Reading
from wardround_client.sources.units import factor
from wardround_client.sources.windows import cut
from wardround_shared.errors import UnreadableError
from wardround_shared.study import DicomWaveformData, Study, Windows

if TYPE_CHECKING:
    from pydicom import Dataset

ALLOWED_TAGS = (
    "WaveformSequence",
    "NumberOfWaveformChannels",
    "NumberOfWaveformSamples",
    "SamplingFrequency",
    "ChannelDefinitionSequence",
    "ChannelLabel",
    "ChannelSourceSequence",
    "CodeValue",
    "CodeMeaning",
    "ChannelSensitivity",
    "ChannelSensitivityUnitsSequence",
    "ChannelSensitivityCorrectionFactor",
    "ChannelBaseline",
    "WaveformBitsAllocated",
    "WaveformSampleInterpretation",
    "WaveformPaddingValue",
    "WaveformData",
)
_ENDINGS = (".dcm", ".dicom", ".ima")
# The ECG leads of CID 3001 in its two schemes: "2:" and "5.6.3-9-" with these numbers.
_LEADS = {
    "i": 1,
    "ii": 2,
    "iii": 61,
    "avr": 62,
    "avl": 63,
    "avf": 64,
    **{f"v{number}": number + 2 for number in range(1, 7)},
}
# Bits and interpretation (C.10.9.1.5); the two that are companded, MB and AB, are not read.
_KINDS = {
    (8, "SB"): "i1",
    (8, "UB"): "u1",
    (16, "SS"): "<i2",
    (16, "US"): "<u2",
    (32, "SL"): "<i4",
    (32, "UL"): "<u4",
}


def waveform_source(study: Study, data: DicomWaveformData, folder: Path) -> LabelledFiles:
    """DICOM files of one recording each."""
    read = partial(read_waveform, leads=data.leads, unit=data.unit, windows=data.windows)
    return LabelledFiles(study, data, folder, read=read, endings=_ENDINGS)


def read_waveform(
    path: Path, *, leads: Sequence[str], unit: str, windows: Windows | None = None
) -> tuple[Reading, ...]:
    """The named leads of a recording, in this order, or its windows.

    They are of the first multiplex group (a set of channels sampled together) that has them all.

    Args:
        path: of the file.
        leads: by label, code value or meaning of the channel, or as ECG leads are named.
        unit: of the values, as `data.unit`.
        windows: what it is cut into.

    Raises:
        UnreadableError: no DICOM, no waveform, damaged, a lead missing or in another unit, a
            sample marked as invalid, or too short.
        OSError: the system refuses the file.
    """
    dataset = read_tags(path, ALLOWED_TAGS)
    with unheard("pydicom"):
        try:
            group, places = _group_with(dataset, leads)
            signal = _signal(group, places, unit)
            rate = float(group.SamplingFrequency)
        except UnreadableError:
            raise
        except Exception as error:  # a damaged element may be anything once it is looked at
            raise UnreadableError(DAMAGED) from error
    return cut(signal, rate, windows)


def _group_with(dataset: "Dataset", leads: Sequence[str]) -> tuple["Dataset", list[int]]:
    groups = dataset.get("WaveformSequence") or []
    if not groups:
        raise UnreadableError("the DICOM file has no waveform or is truncated")
    for group in groups:
        names = [_names(channel) for channel in group.ChannelDefinitionSequence]
        found = [[i for i, known in enumerate(names) if known & _asked(lead)] for lead in leads]
        if all(found):
            if any(len(places) > 1 for places in found):
                raise UnreadableError("the recording has a lead twice that the study names")
            return group, [places[0] for places in found]
    raise UnreadableError("the record lacks a lead that the study names")


def _names(channel: "Dataset") -> frozenset[str]:
    sources = channel.get("ChannelSourceSequence") or []
    said = [channel.get("ChannelLabel")]
    said += [value for one in sources for value in (one.get("CodeValue"), one.get("CodeMeaning"))]
    return frozenset(str(name).strip().casefold() for name in said if name)


def _asked(lead: str) -> frozenset[str]:
    name = lead.strip().casefold()
    number = _LEADS.get(name)
    codes = () if number is None else (f"2:{number}", f"5.6.3-9-{number}")
    return frozenset((name, *codes))


def _signal(group: "Dataset", places: Sequence[int], unit: str) -> NDArray[np.float32]:
    """Physical values [C, T]: sample x sensitivity x correction factor + baseline (C.10.9.1.4)."""
    kind = _KINDS.get((group.WaveformBitsAllocated, group.WaveformSampleInterpretation))
    if kind is None:
        raise UnreadableError("the waveform's samples are of a kind that is not read")
    channels, samples = int(group.NumberOfWaveformChannels), int(group.NumberOfWaveformSamples)
    size = channels * samples * np.dtype(kind).itemsize
    data: bytes = group.WaveformData
    # An odd number of bytes is padded with one.
    if size <= 0 or not size <= len(data) <= size + 1:
        raise UnreadableError("the waveform data is truncated or damaged")
    stored = np.frombuffer(data[:size], dtype=kind).reshape(samples, channels)[:, [*places]].T
    padding = group.get("WaveformPaddingValue")
    if padding is not None and (stored == np.frombuffer(_bytes(padding), dtype=kind)[0]).any():
        raise UnreadableError("the record has samples marked as invalid")
    definitions = [group.ChannelDefinitionSequence[place] for place in places]
    scale, baseline = np.array([_calibration(channel, unit) for channel in definitions]).T
    values: NDArray[np.float32] = (stored * scale[:, None] + baseline[:, None]).astype(np.float32)
    if not np.isfinite(values).all():
        raise UnreadableError(DAMAGED)
    return values


def _bytes(padding: object) -> bytes:
    if not isinstance(padding, bytes):
        raise UnreadableError(DAMAGED)
    return padding


def _calibration(channel: "Dataset", unit: str) -> tuple[float, float]:
    """Factor and offset of a channel; without a sensitivity its numbers have no unit."""
    sensitivity = channel.get("ChannelSensitivity")
    units = channel.get("ChannelSensitivityUnitsSequence") or []
    into = factor(str(units[0].CodeValue).strip() if units else "", unit)
    scale = 1.0 if sensitivity is None else float(sensitivity)
    correction = channel.get("ChannelSensitivityCorrectionFactor")
    baseline = channel.get("ChannelBaseline")
    return (
        into * scale * (1.0 if correction is None else float(correction)),
        into * (0.0 if baseline is None else float(baseline)),
    )
