"""`[data]`: where a study's records lie and what they mean."""

from typing import Annotated, Literal

from pydantic import Field, PlainSerializer, PlainValidator, model_validator

from wardround_shared.study.fhir import ConditionLabel, Observed, Prediction
from wardround_shared.study.section import Section
from wardround_shared.study.targets import Mask, Points, Survival

Fraction = Annotated[float, Field(gt=0.0, lt=1.0)]


def _places(value: object) -> object:
    if value in ("middle", "all"):
        return value
    listed = list(value) if isinstance(value, list | tuple) else []
    if not listed or not all(_is_place(one) for one in listed):
        raise ValueError(
            'write "middle", "all", or a list of numbers from 1 on and of shares below 1, such as '
            "[0.25, 0.5, 0.75]"
        )
    return tuple(listed)


def _is_place(one: object) -> bool:
    if isinstance(one, bool) or not isinstance(one, int | float):
        return False
    return 0 < one < 1 or (one >= 1 and isinstance(one, int))


def _written(places: str | tuple[int | float, ...]) -> str | list[int | float]:
    # pydantic would say the same, with a warning that a list is no tuple.
    return places if isinstance(places, str) else list(places)


Places = Annotated[
    Literal["middle", "all"] | tuple[int | float, ...],
    PlainValidator(_places),
    PlainSerializer(_written, when_used="json"),
]
"""Which of several: "middle", "all", or numbers from 1 on and shares of the way below 1."""


class Label(Section):
    """Where the label stands, and which cell texts mean which class.

    Without any of the following the cell text itself must be one of the study's classes.

    Attributes:
        values: class -> whole cell texts that mean it.
        containing: class -> texts that stand in a cell that means it, as one code among others.
        otherwise: the class of a cell with none of the texts of `values` or `containing`.
    """

    column: str
    values: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    containing: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    otherwise: str | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "Label":
        if self.values and self.containing:
            raise ValueError("give values or containing, not both")
        if self.otherwise is not None and not (self.values or self.containing):
            raise ValueError("otherwise needs values or containing beside it")
        if self.otherwise in {*self.values, *self.containing}:
            raise ValueError("the class of otherwise has no texts of its own")
        if any(not text.strip() for texts in self.containing.values() for text in texts):
            raise ValueError("every cell has an empty text in it; write one that is not")
        return self


class SiteKey(Section):
    """Where the hospital of an example stands; in simulations only, a hospital is one site.

    Exactly one of: `column` of the table; `file`, a regular expression whose first group is
    taken from the table's file name; `folder`, the first folder of the record's relative path.
    """

    column: str | None = None
    file: str | None = None
    folder: bool = False

    @model_validator(mode="after")
    def _exactly_one(self) -> "SiteKey":
        if (self.column is not None) + (self.file is not None) + self.folder != 1:
            raise ValueError("give exactly one of column, file, folder")
        return self


class Join(Section):
    """A further table whose columns are added to each example through a common key column."""

    file: str
    on: str


class Feature(Section):
    """One column of a table and how to read it.

    A cell in `missing` (or in the data section's `missing`) is a missing value. A categorical
    cell that is none of `categories` is set aside with its row. In a numeric column a cell in
    `values` is the number that stands there: "> 89" may be 90.
    """

    column: str
    kind: Literal["numeric", "categorical"] = "numeric"
    categories: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    values: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _categories_fit(self) -> "Feature":
        if (self.kind == "categorical") != bool(self.categories):
            raise ValueError(
                "a categorical column needs categories, and a numeric one must not have any"
            )
        if self.kind == "categorical" and self.values:
            raise ValueError("only cells of a numeric column can be given values")
        return self


class StaticFeature(Feature):
    """A column beside an image or signal, as it is or compared with the patient's other rows.

    Attributes:
        form: `value`, the cell; `over-patient`, divided by the patient's median;
            `over-neighbours`, divided by the median of the row, the ten before and the ten after;
            `variation`, the mean absolute difference between one and the next of those, over the
            patient's median.
    """

    form: Literal["value", "over-patient", "over-neighbours", "variation"] = "value"

    @model_validator(mode="after")
    def _form_fits(self) -> "StaticFeature":
        if self.kind == "categorical" and self.form != "value":
            raise ValueError("only a numeric column has another form than value")
        return self


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


class _Cohort(Section):
    """How a cohort is made of the examples, whatever their source.

    Attributes:
        survival: time to an event, instead of a label.
        mask: a class for every pixel, instead of a label.
        points: where lesions are, instead of a label.
        validation_fraction: share of patients set aside for validation.
        unreadable_share: more than this share of unreadable examples stops the run.
        max_per_patient: keep at most this many examples of one patient (none: all).
    """

    survival: Survival | None = None
    mask: Mask | None = None
    points: Points | None = None
    validation_fraction: Fraction = 0.2
    unreadable_share: float = Field(default=0.05, ge=0.0, le=1.0)
    max_per_patient: int | None = Field(default=None, ge=1)

    @property
    def names_patients(self) -> bool:
        """Whether it is known which examples are of one patient."""
        return True


class IndexedData(_Cohort):
    """An index table that gives label, patient and site of each example.

    Attributes:
        label: the class of an example, or the findings of a multilabel classification.
        table: glob patterns, relative to the data folder, of the files that make up the index.
        header: whether the first line names the columns; without it `columns` does.
        where: keep only rows whose cell is one of the given texts.
        patient: column of the patient key; without it each example is a patient of its own.
    """

    label: Label | None = None
    table: tuple[str, ...] = ()
    header: bool = True
    columns: tuple[str, ...] = ()
    delimiter: str = ","
    missing: tuple[str, ...] = ("",)
    join: tuple[Join, ...] = ()
    where: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    patient: str | None = None
    site: SiteKey | None = None

    @model_validator(mode="after")
    def _columns_or_header(self) -> "IndexedData":
        if self.header == bool(self.columns):
            raise ValueError("give columns exactly when header = false")
        return self

    @property
    def names_patients(self) -> bool:
        """Whether there is a patient key; without it each example passes for a patient."""
        return self.patient is not None

    @property
    def several_of(self) -> str | None:
        """The key by which one file or recording gives several examples; None if none does."""
        return None


class TableData(IndexedData):
    """`source = "table"`: the rows of the index table are the examples."""

    source: Literal["table"]
    features: tuple[Feature, ...] = Field(min_length=1)


class ImagesData(IndexedData):
    """`source = "images"`: PNG or JPEG files named in `file`, or npz `arrays`.

    With `arrays` (glob patterns of npz files) the images are every array whose name matches the
    pattern `images` (shape [n, height, width] or [n, height, width, 3]); the label column is the
    pattern of the array that goes with it (`*labels` for `*images`).

    Attributes:
        static: columns that accompany the image as a vector (age, sex).
    """

    source: Literal["images"]
    file: str | None = None
    folder: str = "."
    arrays: tuple[str, ...] = ()
    images: str = "*images"
    static: tuple[StaticFeature, ...] = ()

    @model_validator(mode="after")
    def _files_or_arrays(self) -> "ImagesData":
        if bool(self.arrays) == (self.file is not None):
            raise ValueError("give either file (with table) or arrays")
        return self


class DicomData(IndexedData):
    """`source = "dicom"`: a folder tree of DICOM files, named by `file` in the label table.

    Attributes:
        voi: apply the file's VOI LUT or window (PS3.3 C.11.2) after the modality transform.
        frames: which frames of a file with several are taken, each an example; without it such a
            file is set aside.
        static: as for `images`; from the label table, never from the header.
    """

    source: Literal["dicom"]
    file: str
    folder: str = "."
    voi: bool = False
    frames: Places | None = None
    static: tuple[StaticFeature, ...] = ()

    @property
    def several_of(self) -> str | None:
        """Frames, unless it is one."""
        return "frames" if _several(self.frames) else None


class NiftiData(IndexedData):
    """`source = "nifti"`: volumes in .nii or .nii.gz files, named by `file` in the label table.

    Attributes:
        axis: planes that the slices lie in, in the patient's own orientation.
        slices: which ones, counted from the patient's left, back or feet; each is an example.
        static: as for `images`.
    """

    source: Literal["nifti"]
    file: str
    folder: str = "."
    axis: Literal["sagittal", "coronal", "axial"] = "axial"
    slices: Places
    static: tuple[StaticFeature, ...] = ()

    @property
    def several_of(self) -> str | None:
        """Slices, unless it is one."""
        return "slices" if _several(self.slices) else None


def _several(places: Places | None) -> bool:
    return places == "all" or (isinstance(places, tuple) and len(places) > 1)


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


class TextData(IndexedData):
    """`source = "text"`: texts in the rows of the index table.

    Attributes:
        text: columns that are read one after the other as one text.
    """

    source: Literal["text"]
    text: tuple[str, ...] = Field(min_length=1)


class PhantomData(_Cohort):
    """`source = "phantom"`: seeded chest phantoms, written as real DICOM files on the spot.

    Attributes:
        sites: number of hospitals, each with a scanner of its own.
        patients_per_site: patients of each hospital; one image a patient.
        size: image height and width in pixels.
    """

    source: Literal["phantom"]
    label: Label | None = Label(column="finding")
    sites: int = Field(default=4, ge=1, le=64)
    patients_per_site: int = Field(default=240, ge=4)
    size: int = Field(default=64, ge=32, le=512)

    @property
    def site(self) -> SiteKey:
        """The table that is written with the files names the hospital."""
        return SiteKey(column="site")


class FhirData(_Cohort):
    """`source = "fhir"`: FHIR R4 Bundles or resources; one patient is one example.

    Attributes:
        files: glob patterns, relative to the data folder, of JSON files with a Bundle each, or
            of NDJSON files with a resource a line.
        patient: identifier system whose value is the patient key; without it the Patient's id.
        features: what is observed over time.
        length: time points of an example: days with an observation, and the prediction as the
            last one.
        static: what is known of the patient on the day of the prediction.
    """

    source: Literal["fhir"]
    files: tuple[str, ...] = Field(min_length=1)
    patient: str | None = Field(default=None, min_length=1)
    features: tuple[Observed, ...] = Field(min_length=1)
    length: int = Field(default=16, ge=2, le=1000)
    static: tuple[Literal["age", "sex"], ...] = ()
    prediction: Prediction
    label: ConditionLabel

    @property
    def site(self) -> None:
        """FHIR files name no hospital; in simulations patients are dealt."""
        return

    @model_validator(mode="after")
    def _each_once(self) -> "FhirData":
        for key, given in (
            ("the name of a feature", [feature.name for feature in self.features]),
            ("a code", [code for feature in self.features for code in feature.codes]),
            ("a static column", [*self.static]),
        ):
            if len(set(given)) != len(given):
                raise ValueError(f"{key} stands there twice")
        return self

    @model_validator(mode="after")
    def _something_follows(self) -> "FhirData":
        # Everybody without the condition would be left out as not followed.
        if self.prediction.last_encounter and self.label.within_days is not None:
            raise ValueError(
                "no days are left after prediction = last-encounter; leave label.within-days out"
            )
        return self


AnySignals = SignalsData | WfdbData | RecordingsData
"""The sources whose examples are signals."""

AnyImages = ImagesData | DicomData | NiftiData
"""The sources whose examples are images, apart from phantoms, which are written as DICOM."""

WithStatic = AnySignals | AnyImages
"""The sources that may have columns of the index table beside the main part of an example."""

Data = Annotated[
    TableData
    | ImagesData
    | DicomData
    | NiftiData
    | WfdbData
    | EdfData
    | DicomWaveformData
    | SignalsData
    | SequencesData
    | FhirData
    | TextData
    | PhantomData,
    Field(discriminator="source"),
]
