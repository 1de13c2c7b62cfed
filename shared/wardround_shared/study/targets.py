"""What is to be told of an example, where it is not one class: parts of `[data]`."""

from pydantic import Field

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
