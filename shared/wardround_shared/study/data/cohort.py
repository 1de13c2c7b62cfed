"""What all sources have in common."""

from typing import Annotated

from pydantic import Field, model_validator

from wardround_shared.study.data.columns import Join, Label, SiteKey
from wardround_shared.study.section import Section
from wardround_shared.study.targets import Mask, Points, Survival

Fraction = Annotated[float, Field(gt=0.0, lt=1.0)]


class CohortData(Section):
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


class IndexedData(CohortData):
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
