"""Records over time, from FHIR."""

from typing import Literal

from pydantic import Field, model_validator

from wardround_shared.study.data.cohort import CohortData
from wardround_shared.study.fhir import ConditionLabel, Observed, Prediction


class FhirData(CohortData):
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
