"""What is to be told of an example, where it is not one class: parts of `[data]`."""

from pydantic import Field, model_validator

from wardround_shared.study.section import Section


class Survival(Section):
    """`[data.survival]`: until when a patient was seen, and whether the event was then.

    Attributes:
        time: column of the time from the beginning until the event or the last look.
        event: column that says whether the event was seen.
        occurred: texts of that column that mean it was; any other text means it was not.
        horizon: in the unit of `time`; what is later counts as not seen until here.
        intervals: of equal length up to the horizon, with a constant baseline hazard on each.
    """

    time: str
    event: str
    occurred: tuple[str, ...] = Field(default=("1",), min_length=1)
    horizon: float = Field(gt=0, allow_inf_nan=False)
    intervals: int = Field(default=10, ge=1, le=100)


class Mask(Section):
    """`[data.mask]`: the class of every pixel; exactly one of the two.

    Attributes:
        column: names a PNG of the image's size, relative to the folder of the images; the value of
            a pixel is the number of its class, 0 for the first.
        above: pixels above this intensity, without holes and of one piece, the largest, are the
            second class, all others the first: a body on a CT, in Hounsfield units.
    """

    column: str | None = None
    above: float | None = Field(default=None, allow_inf_nan=False)

    @model_validator(mode="after")
    def _exactly_one(self) -> "Mask":
        if (self.column is None) == (self.above is None):
            raise ValueError("give exactly one of column, above")
        return self


class Points(Section):
    """`[data.points]`: where the lesions of an image are; empty cells in an image without one.

    A cell holds one number, or several with semicolons between them.

    Attributes:
        row, column: of the centre, in pixels of the image as stored.
        radius: in such pixels; a mark within it has found the lesion.
        most: lesions of one image.
    """

    row: str
    column: str
    radius: str
    most: int = Field(default=8, ge=1, le=64)
