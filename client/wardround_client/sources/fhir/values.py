"""Values of Observations: a number in the study's unit, or why there is none.

Nothing is converted but what the study names: pounds must never pass for kilograms.
"""

import math

from wardround_client.sources.fhir.faults import Fault, Unused
from wardround_client.sources.fhir.fields import Element, child, codes, text
from wardround_shared.errors import UnreadableError
from wardround_shared.study import Observed

_UCUM = "http://unitsofmeasure.org"
# No quantity in medicine is larger in any unit, and squares of smaller ones can be summed.
_BEYOND = 1e30


def quantity(part: Element, feature: Observed) -> float | Unused:
    """The valueQuantity of an Observation or a component, in the feature's unit.

    Raises:
        UnreadableError: it is not as FHIR R4 says.
    """
    given = child(part, "valueQuantity")
    if given is None:
        return _lacking(part)
    if text(given, "comparator") is not None:
        return Unused.COMPARATOR
    value = _number(given)
    if isinstance(value, Unused):
        return value
    converted = _converted(value, _unit(given), feature)
    if converted is None:
        return Unused.OTHER_UNIT
    if abs(converted) >= _BEYOND:
        return Unused.NO_NUMBER
    low = -math.inf if feature.low is None else feature.low
    high = math.inf if feature.high is None else feature.high
    return converted if low <= converted <= high else Unused.OUTSIDE


def coded(part: Element, feature: Observed) -> float | Unused:
    """The number that the study gives to the valueCodeableConcept.

    Raises:
        UnreadableError: as `quantity`.
    """
    given = child(part, "valueCodeableConcept")
    if given is None:
        return _lacking(part)
    numbers = {feature.values[code] for code in codes(given) if code in feature.values}
    return numbers.pop() if len(numbers) == 1 else Unused.OTHER_ANSWER


def _lacking(part: Element) -> Unused:
    there = any(key.startswith("value") for key in part)
    return Unused.OTHER_KIND if there else Unused.NO_VALUE


def _number(given: Element) -> float | Unused:
    value = given.get("value")
    if "value" not in given:
        return Unused.NO_VALUE
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UnreadableError(Fault.MALFORMED)
    # Compared before it becomes a float: an integer may be too large for one.
    return float(value) if abs(value) < _BEYOND else Unused.NO_NUMBER


def _unit(given: Element) -> str | None:
    """The UCUM code; the text beside it is for people and says nothing for certain."""
    code = text(given, "code")
    return code if text(given, "system") == _UCUM else None


def _converted(value: float, unit: str | None, feature: Observed) -> float | None:
    if unit == feature.unit:
        return value
    for conversion in feature.convert:
        if unit == conversion.unit:
            return value * conversion.factor + conversion.offset
    return None
