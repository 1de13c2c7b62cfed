"""Signals: recordings, beats, sequences of steps."""

from typing import Literal

from pydantic import Field, model_validator

from wardround_shared.study.data.cohort import IndexedData
from wardround_shared.study.data.columns import StaticFeature
from wardround_shared.study.section import Section


class Windows(Section):
    """Windows that a long recording is cut into, each an example of the same patient and label.

    Attributes:
        length: of a window, in seconds.
        stride: from the start of one window to that of the next, in seconds; without it `length`.
        start: where the first one starts, in seconds.
    """

    length: float = Field(gt=0)
    stride: float | None = Field(default=None, gt=0)
    start: float = Field(default=0.0, ge=0)

    @property
    def overlap(self) -> bool:
        """Whether one sample may be in several windows."""
        return self.stride is not None and self.stride < self.length


class WfdbData(IndexedData):
    """`source = "wfdb"`: WFDB records named (without ending) in column `record`.

    Attributes:
        leads: signal names to read, in this order; a record that lacks one is set aside.
        annotator: with it (for example "atr"), one example per beat annotation: `before` and
            `after` seconds around it, the annotation's symbol as column `symbol`, and the
            columns `rr_prev` and `rr_next` in seconds; without it, one example per record.
        static, patient_median: as for `signals`; the median is taken over the record's beats.
        windows: without an annotator, what each record is cut into.
    """

    source: Literal["wfdb"]
    record: str
    folder: str = "."
    leads: tuple[str, ...] = Field(min_length=1)
    annotator: str | None = None
    before: float = Field(default=0.3, gt=0)
    after: float = Field(default=0.5, gt=0)
    static: tuple[StaticFeature, ...] = ()
    patient_median: bool = False
    windows: Windows | None = None

    @property
    def several_of(self) -> str | None:
        """Windows; an annotator's beats are rows of their own before anything is counted."""
        return "windows" if self.windows else None


class RecordingsData(IndexedData):
    """Signal files of one recording each, named by `file` in the label table.

    Attributes:
        leads: channels to read, in this order; a recording that lacks one is set aside.
        unit: of the values. Volts are converted to it (V, mV, uV, nV); a channel in another unit
            is set aside. "any" leaves every channel in its own.
        windows: what each recording is cut into; without them it is one example.
        static: as for `signals`.
    """

    file: str
    folder: str = "."
    leads: tuple[str, ...] = Field(min_length=1)
    unit: str = Field(min_length=1)
    windows: Windows | None = None
    static: tuple[StaticFeature, ...] = ()

    @property
    def several_of(self) -> str | None:
        """Windows, if there are any."""
        return "windows" if self.windows else None


class EdfData(RecordingsData):
    """`source = "edf"`: EDF and EDF+ files (Kemp et al. 1992, Kemp and Olivan 2003).

    A lead is named by its label, with blanks at the ends left out.
    """

    source: Literal["edf"]
    unit: str = Field(default="uV", min_length=1)


class DicomWaveformData(RecordingsData):
    """`source = "dicom-waveform"`: DICOM waveforms, such as an ECG (PS3.3 A.34, C.10.9).

    A lead is named by its label, code or meaning in the file, or as ECG leads are (I, aVR, V1).
    """

    source: Literal["dicom-waveform"]
    unit: str = Field(default="mV", min_length=1)


class SignalsData(IndexedData):
    """`source = "signals"`: signals in npz `arrays`.

    Attributes:
        signal: name of the array of shape [n, time] or [n, channels, time]; every other array of
            length n in the same file is a column of the index.
        sampling_rate: in Hz.
        static: columns that accompany the signal as a vector (RR intervals, age).
        patient_median: as many channels again, with the median of all the patient's signals in
            the file: what is usual for this patient.
        windows: what each signal is cut into; without them it is one example.
    """

    source: Literal["signals"]
    arrays: tuple[str, ...] = Field(min_length=1)
    signal: str = "X"
    sampling_rate: float = Field(gt=0)
    static: tuple[StaticFeature, ...] = ()
    patient_median: bool = False
    windows: Windows | None = None

    @model_validator(mode="after")
    def _beats_or_windows(self) -> "SignalsData":
        if self.windows and self.patient_median:
            raise ValueError(
                "patient-median is the usual form of beats, which windows of a recording do not "
                "have; leave one of them out"
            )
        return self

    @property
    def several_of(self) -> str | None:
        """Windows, if there are any."""
        return "windows" if self.windows else None


class SequencesData(IndexedData):
    """`source = "sequences"`: npz files named in column `record`, each with many steps in a row.

    A file is cut into examples of `length` steps, one after the other; the last one is filled up
    with its last step, whose repetitions are neither trained on nor counted. `label.column` is the
    name of the array [steps] that holds each step's class; a cell in `missing` is a step without
    one.

    Attributes:
        record: column that names the file, without the ending `.npz`.
        steps: name of the array [steps, channels].
    """

    source: Literal["sequences"]
    record: str
    folder: str = "."
    steps: str = "X"
    length: int = Field(ge=2, le=4096)
