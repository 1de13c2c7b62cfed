"""`[rules]` of the site's policy: which studies this hospital takes part in, when, and on what.

Each refusal is a sentence that may leave the site: what the policy wants, what the study says, and
what to do.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, time
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StrictBool, StrictInt

from wardround_shared.secure_aggregation.roster import SMALLEST_COHORT, smallest_threshold
from wardround_shared.study import MODEL_NAMES, Study
from wardround_shared.study.section import Section

_HOURS = re.compile(r"([0-9]{1,2}):([0-9]{2}) *- *([0-9]{1,2}):([0-9]{2})")
_DAY = 24 * 60


@dataclass(frozen=True, kw_only=True)
class Hours:
    """A part of each day, in minutes after midnight; over midnight where it ends before it begins.

    >>> Hours.parse("20:00-06:00").contain(time(5, 59))
    True
    >>> Hours.parse("20:00-06:00").contain(time(6, 0))
    False
    """

    begin: int
    end: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of a text such as 20:00-06:00; 24:00 is midnight as an end.

        Raises:
            ValueError: it is none, in words.
        """
        found = _HOURS.fullmatch(text.strip())
        if found is None:
            raise ValueError(f'{text[:40]!r} are no hours; write them like "20:00-06:00"')
        begin, end = _minutes(found[1], found[2]), _minutes(found[3], found[4])
        if begin == _DAY:
            raise ValueError(f'{text[:40]!r} begins at 24:00; write "00:00"')
        if begin == end:
            raise ValueError(
                f"{text[:40]!r} begins when it ends; leave hours out to take part at any time"
            )
        return cls(begin=begin, end=end)

    def contain(self, moment: time) -> bool:
        """Whether the moment is in them; the minute of the end is not."""
        minute = moment.hour * 60 + moment.minute
        if self.begin < self.end:
            return self.begin <= minute < self.end
        return minute >= self.begin or minute < self.end

    def __str__(self) -> str:
        return f"from {_clock(self.begin)} to {_clock(self.end)}"


def _minutes(hours: str, minutes: str) -> int:
    total = int(hours) * 60 + int(minutes)
    if int(minutes) > 59 or total > _DAY:
        raise ValueError(f"{hours}:{minutes} is no time of a day; it has 00:00 to 24:00")
    return total


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def _known_model(name: str) -> str:
    if name not in MODEL_NAMES:
        raise ValueError(f"there is no model {name[:40]!r}; there are {', '.join(MODEL_NAMES)}")
    return name


def _known_hours(text: str) -> str:
    Hours.parse(text)
    return text


class Rules(Section):
    """`[rules]`.

    Attributes:
        minimum_cohort: fewest sites of any sum that this site gives its part to.
        require_secure_aggregation: whether the server must not see this site's part by itself.
        allow_without_privacy: whether a study may train without differential privacy.
        allow_burned_in_annotation: whether DICOM images are read whose header says that they have
            text burned in, which may name the patient.
        models: names that a study may ask for; without it all.
        hours: local time in which this site answers; without it always.
        device: what the site trains on.
    """

    minimum_cohort: Annotated[StrictInt, Field(ge=1)] = SMALLEST_COHORT
    require_secure_aggregation: StrictBool = True
    allow_without_privacy: StrictBool = False
    allow_burned_in_annotation: StrictBool = False
    models: (
        Annotated[tuple[Annotated[str, AfterValidator(_known_model)], ...], Field(min_length=1)]
        | None
    ) = None
    hours: Annotated[str, AfterValidator(_known_hours)] | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def open_at(self, now: datetime) -> bool:
        """Whether `now`, in the local time of this machine, is within the hours."""
        return self.hours is None or Hours.parse(self.hours).contain(now.astimezone().time())

    def closed_at(self, now: datetime) -> str | None:
        """Why this site does not answer now, as a sentence; None = it does."""
        if self.open_at(now) or self.hours is None:
            return None
        return (
            f"This site takes part {Hours.parse(self.hours)} of its local time, and it is "
            f"{now.astimezone():%H:%M} there; ask again then."
        )

    def refusals(self, study: Study, *, sites: int | None) -> Iterator[str]:
        """Every rule that the study does not keep, one sentence each.

        Args:
            study: that asks.
            sites: on the roster of the run; None: not known yet, and the number that a sum is over
                is then only checked where the study says it.
        """
        if self.require_secure_aggregation and not study.aggregation.secure:
            yield (
                "This site takes part only with secure aggregation, and the study says "
                "aggregation.secure = false; write true, or ask the hospital to allow it."
            )
        if not (self.allow_without_privacy or study.privacy.private):
            yield (
                "This site takes part only with differential privacy, and the study says "
                'privacy.mechanism = "none"; write "dp-sgd", or ask the hospital to allow it.'
            )
        if self.models is not None and study.model.name not in self.models:
            yield (
                f"This site allows the models {', '.join(self.models)}, and the study asks for "
                f"{study.model.name}; take one of these, or ask the hospital to allow it."
            )
        fewest = fewest_sites(study, sites)
        if fewest is not None and fewest < self.minimum_cohort:
            yield (
                f"This site gives its part only to sums over at least {self.minimum_cohort} "
                f"sites, and a sum of this study may be over {fewest}; raise "
                "aggregation.minimum-sites, or invite more sites."
            )


def fewest_sites(study: Study, sites: int | None) -> int | None:
    """How many sites a sum of the study is over at least; None if that is not known.

    Args:
        study: with its minimum.
        sites: on the roster of the run, which settles the threshold of secure aggregation.
    """
    least = study.aggregation.minimum_sites
    if not study.aggregation.secure:
        return least
    return None if sites is None else max(least, smallest_threshold(sites))
