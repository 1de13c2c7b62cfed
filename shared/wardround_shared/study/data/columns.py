"""Columns of a table: the label, the site, what else is read of a row."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from wardround_shared.study.section import Section


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
