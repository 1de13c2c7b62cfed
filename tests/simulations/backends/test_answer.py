"""What a site's error says to the server, and what to the site's own log only."""

import logging

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict

from wardround_client import outbound
from wardround_shared import errors
from wardround_shared.secure_aggregation.faults import SpentError, ThresholdError
from wardround_simulations.backends import flower
from wardround_simulations.backends.answer import answer

PATH = "/wards/north/patient-4711"


def reason(failing) -> str:
    """Why the message could not be answered, as the server reads it."""
    message = flower.new_message(
        RecordDict(), run_id=3, message_type="train", dst_node_id=5, group_id="1", ttl=None
    )
    context = Context(
        run_id=3, node_id=5, node_config={"site": "north"}, state=RecordDict(), run_config={}
    )

    def app(message: Message, context: Context) -> Message:
        failing()
        raise AssertionError

    return answer(app, message, context).error.reason


def raising(error: Exception):
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    "kind",
    [
        errors.WardroundError,
        errors.StudyError,
        errors.UnsupportedError,
        errors.DataError,
        errors.UnreadableError,
        errors.CohortError,
        errors.RunFolderError,
        errors.BackendError,
    ],
)
def test_a_path_does_not_leave_the_site(kind, caplog) -> None:
    with caplog.at_level(logging.DEBUG):
        assert reason(raising(kind(f"{PATH}: cannot be written."))) == kind.__name__
    assert f"site north: {PATH}: cannot be written." in caplog.text
    assert "Traceback" in caplog.text


def test_without_debugging_the_log_still_has_the_sentence(caplog) -> None:
    with caplog.at_level(logging.WARNING):
        reason(raising(errors.DataError(f"{PATH}: cannot be written.")))
    assert [record.getMessage() for record in caplog.records] == [
        f"site north: {PATH}: cannot be written."
    ]


def test_a_divergence_is_told_to_the_server() -> None:
    def diverge() -> None:
        outbound.update(delta=np.array([np.inf], np.float32), weight=1, counts=np.zeros(1))

    assert "The training diverged at this site" in reason(diverge)


@pytest.mark.parametrize(
    "kind",
    [
        errors.ProtocolError,
        errors.PrivacyError,
        errors.BudgetError,
        SpentError,
        ThresholdError,
    ],
)
def test_a_refusal_is_told_to_the_server(kind) -> None:
    assert reason(raising(kind("This site refuses."))) == "This site refuses."


def test_a_new_kind_of_error_stays_at_the_site() -> None:
    class NewError(errors.WardroundError):
        """Nobody has thought yet about what it may say."""

    assert reason(raising(NewError(PATH))) == "NewError"
