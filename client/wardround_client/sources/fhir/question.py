"""The question that a study asks of a patient: on which day, and what came of it."""

import datetime
import math

import numpy as np

from wardround_client.sources.fhir.charts import Chart, Person
from wardround_client.sources.fhir.days import Day
from wardround_client.sources.fhir.faults import LeftOut
from wardround_shared.study import ConditionLabel, Prediction

_YEAR = 365.25


def day_of_prediction(chart: Chart, person: Person, rule: Prediction) -> int | LeftOut:
    """The day by the study's rule; nothing of it or later may be in the input."""
    found = _by_rule(chart, person, rule)
    if found is None or found > datetime.date.max.toordinal():
        return LeftOut.NO_DAY
    if person.birth is not None and person.birth.earliest > found:
        return LeftOut.UNBORN
    if person.death is not None and person.death.earliest < found:
        return LeftOut.DEAD
    return found


def _by_rule(chart: Chart, person: Person, rule: Prediction) -> int | None:
    days = sorted(chart.encounters)
    if rule.encounter is not None:
        return days[rule.encounter - 1] if len(days) >= rule.encounter else None
    if rule.last_encounter:
        return days[-1] if days else None
    if rule.date is not None:
        return rule.date.toordinal()
    if rule.age is not None:
        return person.birth.earliest + round(rule.age * _YEAR) if person.birth else None
    assert rule.years_observed is not None
    known = chart.values()[:, 0]
    return int(known.min()) + round(rule.years_observed * _YEAR) if len(known) else None


def label(chart: Chart, person: Person, today: int, rule: ConditionLabel) -> int | LeftOut:
    """1 with the condition, 0 without, or why it cannot be told.

    Who dies within the horizon did not get the condition any more: the record ends well.
    """
    if rule.begins == "ever":
        return int(bool(chart.conditions))
    end = today + rule.within_days if rule.within_days is not None else math.inf
    found = {_when(began, today, end) for began in chart.conditions}
    if rule.begins == "first-after" and "before" in found:
        return LeftOut.BEFORE
    if "perhaps" in found and (rule.begins == "first-after" or "within" not in found):
        return LeftOut.VAGUE
    if "within" in found:
        return 1
    last = today if rule.within_days is None else today + rule.within_days
    followed = chart.end >= last or (person.death is not None and person.death.latest <= last)
    return 0 if followed else LeftOut.LOST


def _when(began: Day | None, today: int, end: float) -> str:
    """Whether it began before today, within today..end or later, as far as that is certain."""
    if began is None:
        return "perhaps"
    if began.latest < today:
        return "before"
    if began.earliest >= end:
        return "later"
    return "within" if today <= began.earliest and began.latest < end else "perhaps"


def age(person: Person, today: int) -> float:
    """In years; NaN where the birth date is not known."""
    return np.nan if person.birth is None else (today - person.birth.earliest) / _YEAR
