"""What a study says of records over time: which observations, when to predict, and what.

A code is written as `system|code`, as in a FHIR search: `http://loinc.org|29463-7`.
"""

import datetime
from typing import Annotated, Literal

from pydantic import Field, model_validator

from wardround_shared.study.section import Section

Code = Annotated[str, Field(pattern=r"^[^|\s]+\|[^|\s]+$", max_length=256)]
Finite = Annotated[float, Field(allow_inf_nan=False, ge=-1e12, le=1e12)]
Ucum = Annotated[str, Field(min_length=1, max_length=64)]


class Conversion(Section):
    """A value in `unit` times `factor` plus `offset` is one in the feature's unit."""

    unit: Ucum
    factor: Finite
    offset: Finite = 0.0

    @model_validator(mode="after")
    def _not_constant(self) -> "Conversion":
        if self.factor == 0.0:
            raise ValueError("a factor of 0 makes every value the same")
        return self


class Observed(Section):
    """A feature: the values of Observations, or of their components, with one of the codes.

    Exactly one of `unit` (the UCUM code of a quantity) and `values` (number of each answer of a
    coded observation).

    Attributes:
        convert: other units in which the value may stand; it is converted.
        low, high: a quantity outside is not used, in the feature's unit.
    """

    name: Annotated[str, Field(min_length=1, max_length=64)]
    codes: tuple[Code, ...] = Field(min_length=1)
    unit: Ucum | None = None
    convert: tuple[Conversion, ...] = ()
    low: Finite | None = None
    high: Finite | None = None
    values: dict[Code, Finite] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_kind(self) -> "Observed":
        if (self.unit is None) == (not self.values):
            raise ValueError("give either unit, of a quantity, or values, of coded answers")
        if self.values and (self.convert or self.low is not None or self.high is not None):
            raise ValueError("convert, low and high need a unit")
        units = [self.unit, *(conversion.unit for conversion in self.convert)]
        if len(set(units)) != len(units):
            raise ValueError("a unit stands there twice")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError("low must be below high")
        return self


class Prediction(Section):
    """The day of the prediction; nothing of that day or later is in the input.

    Exactly one of these:

    Attributes:
        encounter: so many days with an encounter, of which the last is the day.
        last_encounter: the day of the last encounter.
        age: the day on which the patient reaches this age in years.
        date: this day for all patients.
        years_observed: so many years after the first value of a feature.
    """

    encounter: int | None = Field(default=None, ge=1)
    last_encounter: bool = False
    age: float | None = Field(default=None, ge=0, le=150)
    date: datetime.date | None = None
    years_observed: float | None = Field(default=None, gt=0, le=150)

    @model_validator(mode="after")
    def _exactly_one(self) -> "Prediction":
        given = (self.encounter, self.age, self.date, self.years_observed)
        if sum(rule is not None for rule in given) + self.last_encounter != 1:
            raise ValueError(
                "give exactly one of encounter, last-encounter, age, date, years-observed"
            )
        return self


class ConditionLabel(Section):
    """The second class: a Condition with one of the codes begins.

    Attributes:
        begins: `first-after`, on the day of the prediction or later, and patients who had one
            before are left out; `after`, the same with them; `ever`, at any time.
        within_days: after the prediction; patients without the condition whose record ends
            earlier are left out. Without it, whenever the record tells.
    """

    conditions: tuple[Code, ...] = Field(min_length=1)
    begins: Literal["first-after", "after", "ever"] = "first-after"
    within_days: int | None = Field(default=None, ge=1, le=60_000)

    @model_validator(mode="after")
    def _horizon_fits(self) -> "ConditionLabel":
        if self.begins == "ever" and self.within_days is not None:
            raise ValueError('begins = "ever" asks for no time; leave within-days out')
        return self
