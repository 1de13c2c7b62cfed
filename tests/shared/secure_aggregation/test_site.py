"""A site's state machine: what it keeps, what it forgets, and that it answers once."""

import dataclasses

import numpy as np
import pytest
from secure_cohort import Cohort, wired

from wardround_shared.secure_aggregation import wire
from wardround_shared.secure_aggregation.faults import (
    ContextError,
    FloorError,
    MessageError,
    RosterError,
    SpentError,
    StageError,
)
from wardround_shared.secure_aggregation.keys import Identity
from wardround_shared.secure_aggregation.one_shots import OneShotsInMemory
from wardround_shared.secure_aggregation.site import SecureSite
from wardround_shared.secure_aggregation.site_state import SiteState
from wardround_shared.secure_aggregation.wire import encode

ME = "hospital-01"


def stages(cohort):
    return SiteState.from_bytes(cohort.disk[ME]).stages


def walk(cohort):
    """A round seen from one site: (method, request) one after another; the others answer too."""
    server = cohort.server
    others = [name for name in cohort.names if name != ME]

    request = server.open_setup()
    answer = yield "advertise", request
    server.take_keys(ME, answer)
    for name in others:
        server.take_keys(name, cohort.ask(name, "advertise", request))

    message = server.close_keys()
    answer = yield "share", message
    server.take_shares(ME, answer)
    for name in others:
        server.take_shares(name, cohort.ask(name, "share", message))

    requests = cohort.open_round()
    answer = yield "mask", requests[ME]
    server.take_vector(ME, answer)
    for name in others:
        server.take_vector(name, cohort.ask_mask(name, requests[name]))

    survivors = server.close_vectors()
    answer = yield "sign", survivors
    server.take_confirmation(ME, answer)
    for name in others:
        server.take_confirmation(name, cohort.ask(name, "sign", survivors))

    yield "unmask", server.close_confirmations()


def send(cohort, method, request, site=None):
    """One message to this site (or to a copy of it), without storing the state."""
    site = site or cohort.restored(ME)
    if method == "mask":
        answer = cohort.accept(site, wired(request)).apply(cohort.vectors()[ME].copy())
    else:
        answer = getattr(site, method)(wired(request))
    return site, wired(answer)


def drive(cohort, visit):
    """Walk through a round; `visit(method, request)` before each answer."""
    steps = walk(cohort)
    method, request = next(steps)
    while True:
        visit(method, request)
        site, answer = send(cohort, method, request)
        cohort.disk[ME] = site.to_bytes()
        try:
            method, request = steps.send(answer)
        except StopIteration:
            return


def test_a_state_survives_the_disk_at_every_stage():
    cohort = Cohort(4)
    seen = []

    def visit(method, request):
        assert cohort.restored(ME).to_bytes() == cohort.disk[ME]
        seen.append([type(stage).__name__ for stage in stages(cohort).values()])

    drive(cohort, visit)
    assert seen == [[], ["Advertised"], ["Shared"], ["Masked"], ["Confirmed"]]
    assert cohort.restored(ME).latest == 1


def test_an_older_state_never_answers_again():
    """Whatever was on disk at any time is restored after each answer and asked the same again."""
    cohort = Cohort(4)
    backups, asked = [], []

    def visit(method, request):
        for state in backups:
            for earlier in asked:
                with pytest.raises((SpentError, StageError)):
                    send(cohort, *earlier, site=cohort.restored(ME, state))
        backups.append(cohort.disk[ME])
        asked.append((method, request))

    drive(cohort, visit)
    # In another form; what happens to the same, see below.
    asked[-1] = (
        "unmask",
        dataclasses.replace(asked[-1][1], signatures=asked[-1][1].signatures[1:]),
    )
    for state, earlier in zip(backups, asked, strict=True):
        with pytest.raises(SpentError):  # the very state that could answer it
            send(cohort, *earlier, site=cohort.restored(ME, state))


def test_the_same_request_to_unmask_gets_the_same_answer_from_any_state_that_can_give_it():
    """A site may be killed after the register has it and before the state is stored, or sent."""
    cohort = Cohort(4)
    backups, last = [], []

    def visit(method, request):
        backups.append(cohort.disk[ME])
        last[:] = [request]

    drive(cohort, visit)
    answers = {
        encode(send(cohort, "unmask", last[0], site=cohort.restored(ME, state))[1])
        for state in (backups[-1], cohort.disk[ME], cohort.disk[ME])
    }
    assert len(answers) == 1
    for state in backups[:-1]:
        with pytest.raises(StageError):
            send(cohort, "unmask", last[0], site=cohort.restored(ME, state))


def test_of_two_processes_with_the_same_state_one_answers():
    cohort = Cohort(4)

    def visit(method, request):
        second_request = request
        if method == "unmask":
            second_request = dataclasses.replace(request, signatures=request.signatures[1:])
        register = cohort.one_shots[ME]
        cohort.one_shots[ME] = OneShotsInMemory()
        cohort.one_shots[ME]._spent |= register._spent
        try:
            first = cohort.restored(ME)
            second = cohort.restored(ME)
            send(cohort, method, request, site=first)
            with pytest.raises(SpentError):
                send(cohort, method, second_request, site=second)
        finally:
            cohort.one_shots[ME] = register

    drive(cohort, visit)


def test_a_register_that_cannot_be_written_stops_the_answer():
    cohort = Cohort(4)

    class Full:
        def spend(self, token, value=None):
            raise OSError("no space left")

        bind = spend

        def spent(self, token):
            return False

    def visit(method, request):
        settings = cohort.settings(ME) | {"one_shots": Full()}
        site = SecureSite.from_bytes(cohort.disk[ME], **settings)
        with pytest.raises(OSError, match="no space"):
            send(cohort, method, request, site=site)
        assert site.to_bytes() == cohort.disk[ME]

    drive(cohort, visit)


def test_own_secrets_are_gone_once_the_vector_is_masked():
    cohort = Cohort(4)
    secrets = []

    def visit(method, request):
        for stage in stages(cohort).values():
            if hasattr(stage, "secrets"):
                kept = stage.secrets
                secrets.extend([kept.sealing, kept.masking, kept.self_seed])
        if method in {"sign", "unmask"}:
            assert secrets
            assert not any(secret in cohort.disk[ME] for secret in secrets)

    drive(cohort, visit)


def test_after_unmasking_only_the_shares_that_were_given_out_are_kept():
    cohort = Cohort(7)
    gone = {"hospital-02", "hospital-05"}
    cohort.bootstrap()
    cohort.mask(cohort.vectors(), gone)
    cohort.sign()
    (stage,) = stages(cohort).values()
    cohort.unmask()
    survived = [share for site, share in stage.shares.items() if site not in {2, 5}]
    dropped = [stage.shares[site] for site in (2, 5)]
    given = [share.self_seed for share in survived] + [share.masking for share in dropped]
    kept_back = [share.masking for share in survived] + [share.self_seed for share in dropped]
    assert all(share in cohort.disk[ME] for share in given)
    assert not any(share in cohort.disk[ME] for share in kept_back)
    # And those too are gone once the next vector is masked.
    cohort.bootstrap()
    cohort.mask(cohort.vectors())
    assert not any(share in cohort.disk[ME] for share in given)


def test_a_refused_message_leaves_the_state_as_it_was():
    cohort = Cohort(4)

    def visit(method, request):
        wrong = dataclasses.replace(
            request, context=dataclasses.replace(request.context, run="another")
        )
        site = cohort.restored(ME)
        with pytest.raises(ContextError, match="run"):
            send(cohort, method, wrong, site=site)
        assert site.to_bytes() == cohort.disk[ME]

    drive(cohort, visit)


def test_messages_before_their_time_are_refused():
    cohort = Cohort(4)
    messages = []
    drive(cohort, lambda method, request: messages.append((method, request)))
    fresh = Cohort(4)  # the same keys and secrets, nothing asked yet
    for place, (method, request) in enumerate(messages):
        for later in messages[place + 1 :]:
            with pytest.raises(StageError):
                send(fresh, *later)
        site, _ = send(fresh, method, request)
        fresh.disk[ME] = site.to_bytes()
        if method == "advertise":
            break  # from here on the others' answers differ


def test_the_setup_of_the_next_round_does_not_depend_on_this_one():
    cohort = Cohort(4)
    cohort.bootstrap()
    requests = cohort.open_round()
    cohort.advertise()  # before the vectors: the order of the two halves does not matter
    for name, request in requests.items():
        cohort.server.take_vector(name, cohort.ask_mask(name, request))
    cohort.share()
    cohort.sign()
    cohort.unmask()
    assert cohort.server.close_round().sites == 4
    assert cohort.round(cohort.vectors()).sites == 4


def test_only_two_rounds_are_set_up_at_a_time():
    cohort = Cohort(4)
    for _ in range(4):
        cohort.bootstrap()
    assert sorted(stages(cohort)) == [3, 4]
    cohort.mask(cohort.vectors())
    assert sorted(stages(cohort)) == [4]


@pytest.mark.parametrize("stage", ["Masked", "Confirmed", "Done"])
def test_a_round_under_way_stays_until_a_later_one_is_masked(stage):
    """However often keys are set up meanwhile, by a server that is killed again and again."""
    cohort = Cohort(4)
    cohort.bootstrap()
    cohort.mask(cohort.vectors())
    survivors = cohort.server.close_vectors()
    context = survivors.context
    signatures = []
    if stage != "Masked":
        for place, name in enumerate(cohort.names):
            signatures.append((place, cohort.ask(name, "sign", survivors).signature))
    request = wire.UnmaskRequest(context=context, signatures=tuple(signatures))
    if stage == "Done":
        cohort.ask(ME, "unmask", request)
    for _ in range(5):
        cohort.bootstrap()
        kinds = {n: type(kept).__name__ for n, kept in stages(cohort).items()}
        assert kinds.pop(1) == stage
        assert set(kinds.values()) <= {"Advertised", "Shared"}
        assert len(kinds) <= 2
    if stage == "Masked":
        assert cohort.ask(ME, "sign", survivors).signature
    else:
        assert cohort.ask(ME, "unmask", request).self_seeds
    cohort.mask(cohort.vectors())
    assert sorted(stages(cohort)) == [6]


def test_rounds_rise_strictly():
    cohort = Cohort(4)
    first = cohort.server.open_setup()
    second = cohort.server.open_setup()
    cohort.ask(ME, "advertise", second)
    with pytest.raises(StageError, match="rise"):
        cohort.ask(ME, "advertise", first)
    with pytest.raises(SpentError):
        cohort.ask(ME, "advertise", second)


def test_a_vector_that_does_not_fit_is_left_alone():
    cohort = Cohort(4)
    cohort.bootstrap()
    one_mask = cohort.accept(cohort.restored(ME), cohort.open_round()[ME])
    for vector in (np.zeros(4, np.uint32), np.zeros((1, 5), np.uint32), np.zeros(5)):
        with pytest.raises(MessageError):
            one_mask.apply(vector)
        assert not vector.any()
    one_mask.apply(np.zeros(5, np.uint32))


def test_masks_cover_one_vector():
    cohort = Cohort(4)
    cohort.bootstrap()
    one_mask = cohort.accept(cohort.restored(ME), cohort.open_round()[ME])
    one_mask.apply(np.zeros(5, np.uint32))
    second = np.zeros(5, np.uint32)
    with pytest.raises(SpentError):
        one_mask.apply(second)
    assert not second.any()


def test_the_right_to_an_answer_is_spent_before_there_is_a_vector():
    """Whatever fails while the vector is worked out, the same request is not answered again."""
    cohort = Cohort(4)
    cohort.bootstrap()
    request = cohort.open_round()[ME]
    cohort.accept(cohort.restored(ME), request)  # and nothing comes of it, nor is it stored
    with pytest.raises(SpentError):
        cohort.accept(cohort.restored(ME), request, question=b"another".ljust(32))


def test_a_question_can_be_masked_again_until_it_is_unmasked():
    cohort = Cohort(4)
    question = b"class counts".ljust(32)
    vectors = cohort.vectors()
    for _ in range(3):  # twice for nothing
        cohort.bootstrap()
        cohort.mask(vectors, question=question)
    before = dict(cohort.disk)
    cohort.sign()
    cohort.unmask()
    cohort.server.close_round()
    cohort.bootstrap()
    request = cohort.open_round()[ME]
    for state in (cohort.disk[ME], before[ME]):
        with pytest.raises((SpentError, StageError)):
            cohort.accept(cohort.restored(ME, state), request, question)
    with pytest.raises(SpentError, match="question"):
        cohort.ask_mask(ME, request, question=question)
    # What was refused has used nothing up.
    cohort.ask_mask(ME, request, question=b"statistics".ljust(32))


def test_another_run_has_its_own_answers():
    """The register may outlive a run and be kept for several."""
    one, other = Cohort(4), Cohort(4, run="run-2")
    other.one_shots = one.one_shots
    for cohort in (one, other):
        cohort.bootstrap()
        cohort.mask(cohort.vectors())
        cohort.sign()
        cohort.unmask()
        assert cohort.server.close_round().sites == 4


def test_the_masked_vector_is_the_callers_buffer():
    cohort = Cohort(4)
    cohort.bootstrap()
    request = cohort.open_round()[ME]
    vector = np.zeros(5, np.uint32)
    answer = cohort.accept(cohort.restored(ME), request).apply(vector)
    assert answer.vector is vector
    assert vector.any()


@pytest.mark.parametrize("other", [{"run": "run-2"}, {"study": "other"}, {"seed": 1}])
def test_a_state_of_another_run_study_or_roster_is_not_taken_up(other):
    state = Cohort(4).disk[ME]
    with pytest.raises(ContextError):
        Cohort(4, **other).restored(ME, state)


def test_a_state_of_another_site_is_not_taken_up():
    cohort = Cohort(4)
    with pytest.raises(ContextError):
        cohort.restored("hospital-02", cohort.disk[ME])


@pytest.mark.parametrize(
    "state", [b"", b"WRSS", b"WRSS\x01" + bytes(60), b"WRSS\x02" + bytes(60), b"x" * 100]
)
def test_a_state_that_is_none_is_refused(state):
    with pytest.raises(MessageError):
        Cohort(4).restored(ME, state)


def test_a_site_with_another_key_than_the_rosters_does_not_start():
    cohort = Cohort(4)
    settings = cohort.settings(ME) | {"identity": Identity(bytes(32))}
    with pytest.raises(RosterError, match="identity"):
        SecureSite(**settings)


def test_a_sites_own_policy_may_demand_more_than_the_roster():
    cohort = Cohort(4)
    SecureSite(**cohort.settings(ME), smallest_cohort=3)
    with pytest.raises(FloorError, match="demands 4"):
        SecureSite(**cohort.settings(ME), smallest_cohort=4)
    with pytest.raises(FloorError):
        cohort.terms = dataclasses.replace(
            cohort.terms, roster=dataclasses.replace(cohort.roster, threshold=2)
        )
