"""A site accepts a request before it touches its data, and says no more than that it failed."""

import dataclasses

import numpy as np
import pytest
from secure_hospitals import KINDS, ME, RUN, SecureHospitals

from wardround_client import site as site_module
from wardround_shared.errors import BudgetError, PrivacyError, ProtocolError, RunError
from wardround_shared.messages import (
    CLASS_COUNTS,
    EVALUATE,
    MASK_REQUEST,
    STATISTICS,
    TRAIN,
)
from wardround_shared.secure_aggregation.faults import (
    ContextError,
    FloorError,
    SecureAggregationError,
    ShareError,
)
from wardround_shared.secure_aggregation.wire import MaskRequest, decode, encode

ONCE = r"each is answered once|each round is trained once"


@pytest.fixture
def federation(study_file, hospitals, tmp_path):
    made = SecureHospitals(study_file, hospitals, tmp_path)
    made.set_up()
    return made


class Untouchable:
    """A cohort that knows its name; whoever looks at more has touched data."""

    def __init__(self, cohort):
        self.site, self.folder = cohort.site, cohort.folder

    def __getattr__(self, name):
        raise AssertionError(f"data were touched: {name}")


def guard(federation):
    site = federation.sites[ME]
    site._cohort = Untouchable(federation.cohorts[ME])
    return site


def spent(federation):
    return {file.name for file in (federation.folders[ME] / "spent").iterdir()}


def nonsense(_request):
    return b"nonsense"


def another_model(request):
    mask = decode(request.secure[MASK_REQUEST], MaskRequest)
    context = dataclasses.replace(mask.context, model_digest=bytes(32))
    return encode(dataclasses.replace(mask, context=context))


def two_sites(request):
    mask = decode(request.secure[MASK_REQUEST], MaskRequest)
    return encode(dataclasses.replace(mask, shares=mask.shares[:1]))


def a_false_share(request):
    mask = decode(request.secure[MASK_REQUEST], MaskRequest)
    (sender, sealed), *rest = mask.shares
    return encode(dataclasses.replace(mask, shares=((sender, sealed[:-1] + b"?"), *rest)))


# --- before any data ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_no_sum_is_answered_in_the_clear_when_the_study_demands_masks(federation, kind):
    """The server cannot talk a site out of secure aggregation by leaving its messages out."""
    bare = dataclasses.replace(federation.requests(kind)[ME], secure={}, digest=b"")
    guard(federation)
    with pytest.raises(PrivacyError, match="in the clear"):
        federation.ask(kind, bare)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (nonsense, SecureAggregationError),
        (another_model, ContextError),
        (two_sites, FloorError),
        (a_false_share, ShareError),
    ],
)
def test_a_refused_request_touches_no_data_and_uses_nothing_up(federation, kind, damage, error):
    right = federation.requests(kind)[ME]
    wrong = dataclasses.replace(right, secure={MASK_REQUEST: damage(right)})
    cohort, before = federation.cohorts[ME], spent(federation)
    site = guard(federation)
    with pytest.raises(error):
        federation.ask(kind, wrong)
    assert spent(federation) == before
    site._cohort = cohort
    federation.answered(federation.ask(kind, right))


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_of_another_run_is_refused(federation, kind):
    header = federation.header(kind, run="run-2")
    request = federation.requests(kind, header=header)[ME]
    guard(federation)
    with pytest.raises(ContextError, match="another run"):
        federation.ask(kind, request)


@pytest.mark.parametrize("kind", KINDS)
def test_a_question_that_failed_with_the_data_is_not_tried_again(federation, kind):
    request = federation.requests(kind)[ME]
    cohort = federation.cohorts[ME]
    site = guard(federation)
    with pytest.raises(RunError):  # the data were touched, which the server is not told
        federation.ask(kind, request)
    site._cohort = cohort
    federation.set_up()
    with pytest.raises(ProtocolError, match=ONCE):
        federation.ask(kind, federation.requests(kind)[ME])


def constants(model, step, **changes):
    changed = {**model.fitted[step], **changes}
    changed = {name: array for name, array in changed.items() if array is not None}
    fitted = (*model.fitted[:step], changed, *model.fitted[step + 1 :])
    return dataclasses.replace(model, fitted=fitted)


STRANGE = {
    "an unknown constant": lambda m: constants(m, 0, more=np.ones(2)),
    "a missing constant": lambda m: constants(m, 0, mean=None),
    "another shape": lambda m: constants(m, 0, mean=np.ones(3)),
    "another type": lambda m: constants(m, 0, mean=np.ones(2, np.float32)),
    "not finite": lambda m: constants(m, 0, mean=np.array([1.0, np.inf])),
    "no number": lambda m: constants(m, 0, mean=np.array([1.0, np.nan])),
    "a step too many": lambda m: dataclasses.replace(m, fitted=(*m.fitted, *m.fitted, {})),
    "no steps": lambda m: dataclasses.replace(m, fitted=()),
    "other classes": lambda m: dataclasses.replace(m, class_counts=np.ones(3)),
    "fewer than no examples": lambda m: dataclasses.replace(m, class_counts=np.array([1.0, -1])),
    "a parameter less": lambda m: dataclasses.replace(m, parameters=m.parameters[1:]),
}


@pytest.mark.parametrize("kind", [TRAIN, EVALUATE])
@pytest.mark.parametrize("strange", STRANGE.values(), ids=STRANGE)
def test_a_model_that_is_not_of_this_study_is_refused_on_its_content(federation, kind, strange):
    model = strange(federation.models[kind])
    request = federation.requests(kind, model=model)[ME]
    before = spent(federation)
    guard(federation)
    with pytest.raises(ProtocolError):
        federation.ask(kind, request, model=model)
    assert spent(federation) == before


def test_statistics_are_asked_for_steps_that_are_not_fitted_yet(federation):
    guard(federation)
    request = federation.requests(STATISTICS)[ME]
    for model in (federation.models[TRAIN], constants(federation.models[STATISTICS], 0, mean=None)):
        with pytest.raises(ProtocolError):
            federation.ask(STATISTICS, request, model=model)


# --- one reason -----------------------------------------------------------------------------------


def huge(model):
    """Finite, and no output of it is."""
    parameters = np.full_like(model.parameters, 3e38)
    return dataclasses.replace(model, parameters=parameters)


def failures(federation):
    """Every way to fail that depends on data: message type, model, and what else goes wrong."""
    models = federation.models
    far = constants(models[STATISTICS], 0, mean=np.full(2, 2.0**60))
    return [
        (EVALUATE, huge(models[EVALUATE]), None),
        (TRAIN, huge(models[TRAIN]), None),
        (STATISTICS, far, None),
        (CLASS_COUNTS, models[CLASS_COUNTS], ValueError("patient 4711")),
    ]


def test_whatever_fails_with_the_data_has_one_reason(federation, monkeypatch, caplog):
    said = set()
    for kind, model, error in failures(federation):
        request = federation.requests(kind, model=model)[ME]
        with monkeypatch.context() as patched, np.errstate(all="ignore"):
            if error is not None:
                patched.setattr(np, "bincount", lambda *_, error=error, **__: _raise(error))
            with pytest.raises(RunError) as raised:
                federation.ask(kind, request, model=model)
        said.add((type(raised.value), str(raised.value)))
        federation.set_up()
    ((_, sentence),) = said
    assert "4711" not in sentence
    assert "4711" in caplog.text, "the site's own log has the reason"


def _raise(error):
    raise error


@pytest.mark.parametrize("kind", KINDS)
def test_a_site_above_the_public_bound_answers_nothing_for_the_same_reason(
    study_file, hospitals, tmp_path, kind
):
    bound = ("aggregation.largest-cohort=5",)
    made = SecureHospitals(study_file, hospitals, tmp_path, *bound)
    made.set_up()
    request = made.requests(kind)[ME]
    if kind == STATISTICS:
        made.answered(made.ask(kind, request))  # not counted in examples
        return
    with pytest.raises(RunError, match="its own log says why"):
        made.ask(kind, request)


def test_a_validation_split_above_the_public_bound_is_refused_and_not_clamped(
    study_file, hospitals, tmp_path
):
    """A clamped count beside whole ones would be an accuracy above one."""
    made = SecureHospitals(
        study_file,
        hospitals,
        tmp_path,
        "data.validation-fraction=0.7",
        "aggregation.largest-cohort=30",
    )
    cohort = made.cohorts[ME]
    assert len(cohort.train) <= 30 < len(cohort.validation)
    for kind in (EVALUATE, TRAIN):
        made.set_up()
        with pytest.raises(RunError, match="its own log says why"):
            made.ask(kind, made.requests(kind)[ME])


# --- each question once ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_sum_is_asked_once_whatever_the_secure_round(federation, kind):
    """Two exact sums of which one lacks a site would give that site's values as a difference."""
    federation.answered(federation.ask(kind, federation.requests(kind)[ME]))
    federation.set_up()
    request = federation.requests(kind)[ME]
    guard(federation)
    with pytest.raises(ProtocolError, match=ONCE):
        federation.ask(kind, request)


@pytest.mark.parametrize("kind", [STATISTICS, EVALUATE])
def test_another_model_is_the_same_question(federation, kind):
    federation.answered(federation.ask(kind, federation.requests(kind)[ME]))
    federation.set_up()
    model = federation.models[kind]
    other = dataclasses.replace(model, parameters=model.parameters + np.float32(1))
    request = federation.requests(kind, model=other)[ME]
    with pytest.raises(ProtocolError, match=ONCE):
        federation.ask(kind, request, model=other)


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        (CLASS_COUNTS, 1),
        (CLASS_COUNTS, -1),
        (STATISTICS, 1),
        (EVALUATE, 0),
        (EVALUATE, 3),
        (EVALUATE, 5),
        (TRAIN, 0),
        (TRAIN, 4),
    ],
)
def test_no_other_round_makes_another_question_of_it(federation, kind, number):
    header = federation.header(kind, number)
    request = federation.requests(kind, header=header)[ME]
    guard(federation)
    with pytest.raises(ProtocolError, match="does so in rounds"):
        federation.ask(kind, request)


def test_different_questions_are_each_answered(federation):
    first = dataclasses.replace(federation.models[STATISTICS], fitted=())
    asked = [
        (CLASS_COUNTS, None, None),
        (STATISTICS, first, None),
        (STATISTICS, None, None),
        (TRAIN, None, 1),
        (TRAIN, None, 2),
        (EVALUATE, None, None),
    ]
    for kind, model, number in asked:
        request = federation.requests(kind, model=model, header=federation.header(kind, number))
        federation.answered(federation.ask(kind, request[ME], model=model))
        federation.set_up()


# --- the ledger -----------------------------------------------------------------------------------


@pytest.fixture
def private(study_file, hospitals, tmp_path):
    made = SecureHospitals(
        study_file, hospitals, tmp_path, "privacy.mechanism=dp-sgd", "privacy.unit=record"
    )
    made.set_up()
    return made


def test_a_request_that_is_refused_costs_no_privacy(private):
    right = private.requests(TRAIN)[ME]
    for damage in (nonsense, two_sites, a_false_share):
        with pytest.raises(SecureAggregationError):
            private.ask(TRAIN, dataclasses.replace(right, secure={MASK_REQUEST: damage(right)}))
    assert not private.ledgers[ME].entries()


def test_a_round_is_paid_for_after_it_is_accepted_and_before_data_are_touched(private, monkeypatch):
    request = private.requests(TRAIN)[ME]
    before, cohort = spent(private), private.cohorts[ME]
    site = guard(private)
    seen = []
    reserve = site._account.reserve

    def listening(*arguments, **settings):
        seen.append(spent(private) - before)
        return reserve(*arguments, **settings)

    monkeypatch.setattr(site._account, "reserve", listening)
    with pytest.raises(RunError):
        private.ask(TRAIN, request)
    assert len(seen[0]) == 1, "the round's one vector"
    assert [entry.state for entry in private.ledgers[ME].entries()] == ["committed"]
    site._cohort = cohort
    with pytest.raises(SecureAggregationError):
        private.ask(TRAIN, request)
    assert len(private.ledgers[ME].entries()) == 1


def test_a_round_that_cannot_be_paid_for_touches_no_data(private, monkeypatch):
    request = private.requests(TRAIN)[ME]
    site = guard(private)
    monkeypatch.setattr(site._account, "reserve", lambda *_, **__: _raise(BudgetError("spent")))
    with pytest.raises(BudgetError):
        private.ask(TRAIN, request)


def test_a_private_round_is_answered_and_committed(private, monkeypatch):
    trained = []
    train = site_module.train
    monkeypatch.setattr(site_module, "train", lambda *a: (trained.append(a[3].round), train(*a))[1])
    private.answered(private.ask(TRAIN, private.requests(TRAIN)[ME]))
    assert trained == [1]
    assert [entry.state for entry in private.ledgers[ME].entries()] == ["committed"]
    assert private.ledgers[ME].entries()[0].purpose.run == RUN
