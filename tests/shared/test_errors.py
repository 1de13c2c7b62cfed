"""The drawn tree of errors is the real one, and few of them may speak to the server."""

import re

import pytest

from wardround_shared import errors
from wardround_shared.secure_aggregation import faults


def drawn() -> dict[str, str]:
    """Class -> parent, as the docstring draws them."""
    parents: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^ {4}([|` -]*)(\w+Error(?:, \w+Error)*)", line)
        if found is None:
            continue
        depth = len(found[1])
        above = [(d, name) for d, name in above if d < depth]
        for name in found[2].split(", "):
            parents[name] = above[-1][1] if above else "Exception"
        above.append((depth, found[2].split(", ")[-1]))
    return parents


def real() -> dict[str, str]:
    """Class -> first parent, as Python has them."""
    classes = [*vars(errors).values(), *vars(faults).values()]
    return {
        found.__name__: found.__bases__[0].__name__
        for found in classes
        if isinstance(found, type) and issubclass(found, errors.WardroundError)
    }


def test_the_drawn_tree_is_the_real_one():
    assert drawn() == real()


@pytest.mark.parametrize(
    ("error", "may"),
    [
        (errors.WardroundError, False),
        (errors.StudyError, False),
        (errors.DataError, False),
        (errors.CohortError, False),
        (errors.UnreadableError, False),
        (errors.RunError, True),
        (errors.RunFolderError, False),
        (errors.BackendError, False),
        (errors.ProtocolError, True),
        (errors.PolicyError, False),
        (errors.NotAllowedError, True),
        (errors.AuditError, False),
        (errors.PrivacyError, True),
        (errors.BudgetError, True),
        (faults.SpentError, True),
        (faults.ThresholdError, True),
    ],
)
def test_which_sentences_may_leave_a_site(error, may):
    """As docs/threat-model.md says it."""
    assert error.may_leave_site is may
