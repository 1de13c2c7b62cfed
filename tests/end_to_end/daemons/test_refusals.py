"""What a site does not do, whatever the server asks: each refusal with its reason and its line.

The server is in the hands of the test: it has the real keys and the real SuperLink, and sends what
it likes.
"""

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from daemons import Consortium
from flwr.app import ConfigRecord, RecordDict
from rogue_server import bundle, rogue

from wardround_client.policy import load_policy
from wardround_shared.agreement import Offer, with_offer, with_terms
from wardround_shared.delivery import carried, new_ticket
from wardround_shared.messages import (
    HELLO,
    PROTOCOL_VERSION,
    STATISTICS,
    TRAIN,
    GlobalModel,
    Header,
    header_record,
    model_record,
    read_greeting,
    read_sums,
    read_update,
)
from wardround_shared.models import build_model, flatten
from wardround_shared.packing import pack
from wardround_shared.preprocessing import Recipe
from wardround_shared.study import load_study, study_text

RUN = "rogue"
OF_A_RUN = ("aggregation.minimum-sites=3", "training.rounds=5", "privacy.epsilon=1.0")

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def consortium(folder):
    made = Consortium.found(folder, ("north", "south", "west"), require_secure_aggregation="false")
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def site(consortium):
    """The one site that is up."""
    north = consortium.sites["north"]
    north.start()
    return north


@pytest.fixture(scope="module")
def server(consortium, site):
    with rogue(consortium.server) as made:
        made.begin()
        yield made


@pytest.fixture(scope="module")
def text(study):
    return study_text(load_study(study, overrides=list(OF_A_RUN)))


@pytest.fixture(scope="module")
def approved(site, text):
    return site.approve(text)


@pytest.fixture(scope="module")
def roster(consortium):
    return consortium.server.files.roster.read_bytes().decode()


def hello(study_id, text, roster, *, run=RUN):
    header = Header(study_id=study_id, run=run, round=0)
    return with_offer(header_record(header), Offer(study=text, roster=roster))


def check_refused(site, answer, *words):
    """No content, a reason with these words, and the same in a line of the audit log."""
    assert answer.content is None
    last = site.audit[-1]
    assert last["event"] == "refused"
    for word in words:
        assert word in answer.failure
        assert word in last["reason"]
    assert site("audit", "verify")


def size_of(content):
    """SHA-256 of an answer as it travels, and its bytes."""
    whole = b"".join(pack(content))
    return sha256(whole).hexdigest(), len(whole)


# --- code ----------------------------------------------------------------------------------------


def test_nothing_of_a_bundle_that_carries_code_runs(  # noqa: PLR0917 - fixtures
    server, site, approved, text, roster, tmp_path
):
    ran = tmp_path / "ran"
    code = f"import pathlib\npathlib.Path({str(ran)!r}).touch()\napp = None\n"
    # A file of the bundle would shadow the installed package in Flower's own worker.
    app = bundle({"wardround_client/__init__.py": code, "wardround_client/app.py": code})
    exec(compile(code, "bundle", "exec"))  # it would leave its mark
    assert ran.exists()
    ran.unlink()
    try:
        server.begin(app)
        answer = server.ask(site, HELLO, hello(approved, text, roster))
        assert answer.content is not None, answer.failure
        assert read_greeting(answer.content).site == "north"
        assert not ran.exists()
        assert not list(site.home.rglob("*.py"))
    finally:
        server.begin()


@pytest.mark.parametrize("kind", ["query.shell", "query", "system.run", "train.other"])
def test_only_the_messages_of_the_protocol_are_answered(server, site, approved, kind):
    header = Header(study_id=approved, run=RUN, round=1)
    answer = server.ask(site, kind, header_record(header))
    assert answer.content is None
    assert answer.failure


def test_a_message_without_ticket_or_header_is_refused_in_words(server, site, approved):
    reply = server.send(site, TRAIN, RecordDict({"command": ConfigRecord({"run": "id"})}))
    assert reply.content is None
    assert "malformed" in reply.failure
    answer = server.ask(site, TRAIN, RecordDict({"command": ConfigRecord({"run": "id"})}))
    check_refused(site, answer, "malformed", "header")


def test_another_version_of_the_protocol_is_refused_in_words(server, site, approved):
    record = header_record(Header(study_id=approved, run=RUN, round=0))
    other = RecordDict({"header": ConfigRecord({**record["header"], "protocol": 99})})
    answer = server.ask(site, HELLO, other)
    check_refused(site, answer, "version 99", f"version {PROTOCOL_VERSION}", "same release")


# --- what was agreed on --------------------------------------------------------------------------


def test_a_study_that_nobody_has_approved_is_not_run(server, site, study, roster):
    other = load_study(study, overrides=[*OF_A_RUN, "training.rounds=7"])
    answer = server.ask(site, HELLO, hello(other.study_id, study_text(other), roster))
    check_refused(site, answer, "has not approved")
    header = Header(study_id=other.study_id, run=RUN, round=1)
    empty = GlobalModel(parameters=np.zeros(3, np.float32), fitted=(), class_counts=np.zeros(2))
    answer = server.ask(site, TRAIN, model_record(header, empty))
    check_refused(site, answer, "has not approved")
    assert not site.payments(RUN)


def test_another_study_under_the_id_of_an_approved_one_is_refused(
    server, site, study, approved, roster
):
    other = load_study(study, overrides=[*OF_A_RUN, "training.rounds=50"])
    answer = server.ask(site, HELLO, hello(approved, study_text(other), roster))
    check_refused(site, answer, "another study")


def test_a_study_that_was_changed_after_it_was_approved_is_not_run(
    server, site, approved, text, roster
):
    file = site.home / "studies" / approved / "study.toml"
    kept = file.read_text()
    changed = kept.replace("rounds = 5", "rounds = 50")
    assert changed != kept
    file.write_text(changed)
    try:
        answer = server.ask(site, HELLO, hello(approved, text, roster))
        check_refused(site, answer, "is not what was offered or decided")
    finally:
        file.write_text(kept)
    assert server.ask(site, HELLO, hello(approved, text, roster)).content is not None


def test_what_the_policy_forbids_since_is_refused_though_approved(
    server, site, approved, text, roster
):
    site.allow(require_secure_aggregation="true")
    try:
        assert load_policy(site.files.policy).rules.require_secure_aggregation
        answer = server.ask(site, HELLO, hello(approved, text, roster))
        check_refused(site, answer, "secure")
    finally:
        site.allow(require_secure_aggregation="false")


# --- who takes part ------------------------------------------------------------------------------


def test_an_older_roster_is_refused(server, site, consortium, approved, text):
    # The site holds the one that came with its answer; sites were admitted since.
    newest = consortium.server.files.roster.read_bytes().decode()
    assert server.ask(site, HELLO, hello(approved, text, newest)).content is not None
    older = consortium.server.files.roster_version(2).read_bytes().decode()
    answer = server.ask(site, HELLO, hello(approved, text, older))
    assert answer.content is None
    assert site.audit[-1]["event"] == "refused"
    assert "old" in f"{answer.failure} {site.audit[-1]['reason']}".lower() or (
        "TrustError" in site.audit[-1]["reason"]
    )
    assert site.files.roster.read_bytes().decode() == newest


def test_a_roster_that_was_changed_is_refused(server, site, approved, text, roster):
    forged = roster.replace('"west"', '"evil"')
    assert forged != roster
    answer = server.ask(site, HELLO, hello(approved, text, forged))
    assert answer.content is None
    assert site.audit[-1]["event"] == "refused"
    assert site.files.roster.read_bytes().decode() == roster


@pytest.mark.parametrize(
    "sites",
    [("north", "south", "stranger"), ("east", "south", "west"), ("north", "north", "south")],
    ids=["a stranger", "without itself", "twice"],
)
def test_terms_with_other_sites_than_the_consortiums_are_refused(  # noqa: PLR0917 - fixtures
    server, site, approved, text, roster, sites
):
    server.ask(site, HELLO, hello(approved, text, roster))
    header = header_record(Header(study_id=approved, run=RUN, round=0))
    answer = server.ask(site, "query.terms", with_terms(header, sites))
    assert answer.content is None
    assert site.audit[-1]["event"] == "refused"


def test_terms_with_too_few_sites_are_refused(server, site, approved, text, roster):
    server.ask(site, HELLO, hello(approved, text, roster))
    header = header_record(Header(study_id=approved, run=RUN, round=0))
    answer = server.ask(site, "query.terms", with_terms(header, ("north", "south")))
    assert answer.content is None
    assert site.audit[-1]["event"] == "refused"


# --- again ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trainable(server, site, study, approved, text, roster):  # noqa: PLR0917 - fixtures
    """Makes the request to train a round, as an honest server would up to here."""
    loaded = load_study(study, overrides=list(OF_A_RUN))
    recipe, classes = Recipe(loaded), loaded.study.classes
    greeted = server.ask(site, HELLO, hello(approved, text, roster))
    assert greeted.content is not None, greeted.failure
    shapes = read_greeting(greeted.content).shapes
    module = build_model(loaded.model, recipe.output_shapes(shapes), len(classes))
    start = flatten(module).numpy().astype(np.float32)

    def request(number, fitted, *, shift=0.0):
        model = GlobalModel(
            parameters=start + np.float32(shift),
            fitted=fitted,
            class_counts=np.zeros(len(classes)),
        )
        return model_record(Header(study_id=approved, run=RUN, round=number), model)

    fitted = ()
    for _ in recipe.needs_fit:
        answer = server.ask(site, STATISTICS, request(0, fitted))
        assert answer.content is not None, answer.failure
        fitted = (*fitted, recipe.fit(read_sums(answer.content), fitted))
    return lambda number, **changes: request(number, fitted, **changes)


def test_a_message_that_is_delivered_again_gets_the_very_same_bytes(
    server, site, trainable, consortium
):
    request, ticket = trainable(1), new_ticket()
    first = server.ask(site, TRAIN, request)
    assert first.content is not None, first.failure
    assert np.any(read_update(first.content).delta)
    noisy = site.events(RUN).count(("trained", 1))
    again = server.ask(site, TRAIN, request)
    assert again.content is not None, again.failure
    assert size_of(again.content) == size_of(first.content)

    # The same message, ticket and all, as somebody on the way might deliver it.
    one = server.send(site, TRAIN, carried(request, ticket))
    two = server.send(site, TRAIN, carried(request, ticket))
    assert size_of(one.content) == size_of(two.content)

    # Also by a daemon that was killed in between.
    site.power_cut()
    site.start()
    three = server.ask(site, TRAIN, request)
    assert three.content is not None, three.failure
    assert size_of(three.content) == size_of(first.content)
    assert site.payments(RUN) == [(1, "committed")]
    assert noisy == 1


def test_the_same_round_with_another_model_is_refused(server, site, trainable):
    server.ask(site, TRAIN, trainable(1))
    answer = server.ask(site, TRAIN, trainable(1, shift=0.5))
    assert answer.content is None
    assert site.audit[-1]["event"] == "refused"
    assert site.payments(RUN) == [(1, "committed")]


def test_a_request_of_an_old_round_is_refused(server, site, trainable):
    assert server.ask(site, TRAIN, trainable(1)).content is not None
    assert server.ask(site, TRAIN, trainable(3)).content is not None
    for number, shift in ((2, 0.0), (1, 0.25)):
        answer = server.ask(site, TRAIN, trainable(number, shift=shift))
        assert answer.content is None
        assert site.audit[-1]["event"] == "refused"
    assert [number for number, _ in site.payments(RUN)] == [1, 3]


def test_no_refusal_has_named_a_file(site):
    for reason in site.refusals():
        assert str(Path(site.home)) not in reason
        assert "/" not in reason
