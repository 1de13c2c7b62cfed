"""Nothing runs unapproved, and what was approved is what runs."""

import json
import re
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from hospitals import STUDY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wardround_client import approvals as module
from wardround_client.approvals import Approvals, Decision
from wardround_shared.errors import NotAllowedError, PolicyError, StudyError
from wardround_shared.study import parse_study

WHEN = datetime(2027, 3, 1, 12, 30, tzinfo=UTC)
ID = parse_study(STUDY, origin="test").study_id


def named(name):
    return STUDY.replace('name = "small"', f'name = "{name}"')


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "studies"


@pytest.fixture
def approvals(folder):
    return Approvals(folder, now=lambda: WHEN)


@pytest.fixture
def offered(approvals):
    approvals.keep(STUDY)
    return approvals


def refusal(approvals, study_id=ID):
    """Why a study may not run, in a sentence that may go to the server."""
    with pytest.raises(NotAllowedError) as caught:
        approvals.require_approved(study_id)
    assert type(caught.value).may_leave_site
    sentence = str(caught.value)
    assert "/" not in sentence
    assert "studies" not in sentence
    return sentence


# --- decisions ---------------------------------------------------------------------------------


def test_a_study_that_nobody_has_heard_of_is_not_approved(approvals):
    said = refusal(approvals)
    assert said.startswith(f"This site has not approved study {ID[:12]}… yet")
    assert "wardround-site study approve" in said


def test_an_offer_alone_approves_nothing(offered):
    assert "not approved" in refusal(offered)
    (offer,) = offered.offered()
    assert (offer.study.study_id, offer.decision) == (ID, None)


def test_an_approved_study_may_use_the_data_set_that_was_named(offered):
    offer = offered.approve(ID[:8], data_set="ecg")
    assert offer.decision == Decision(verdict="approved", data_set="ecg", time=WHEN)
    study, data_set = offered.require_approved(ID)
    assert (study.study_id, data_set) == (ID, "ecg")
    assert study == parse_study(STUDY, origin="test")


def test_a_refused_study_may_not_run(offered):
    offered.refuse(ID)
    assert "have refused study" in refusal(offered)


def test_the_last_decision_holds(offered):
    offered.approve(ID, data_set="ecg")
    offered.refuse(ID)
    assert "refused" in refusal(offered)
    offered.approve(ID, data_set="echo")
    assert offered.require_approved(ID)[1] == "echo"


def test_the_same_offer_again_changes_no_decision(offered):
    offered.approve(ID, data_set="ecg")
    offered.keep(STUDY + "\n# another comment\n")
    assert offered.require_approved(ID)[1] == "ecg"
    assert len(offered.offered()) == 1


def test_a_study_that_was_changed_is_another_one(offered):
    offered.approve(ID, data_set="ecg")
    changed = offered.keep(STUDY.replace("rounds = 3", "rounds = 4"))
    assert changed.study_id != ID
    assert "not approved" in refusal(offered, changed.study_id)


def test_a_decision_is_on_disk_as_it_is_documented(offered, folder):
    offered.approve(ID, data_set="ecg")
    assert json.loads((folder / ID / "decision.json").read_text()) == {
        "decision": "approved",
        "data-set": "ecg",
        "time": "2027-03-01T12:30:00+00:00",
        "study-id": ID,
    }
    assert stat.S_IMODE((folder / ID).stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in (folder / ID).iterdir()} == {0o600}
    assert {file.name for file in (folder / ID).iterdir()} == {"study.toml", "decision.json"}


def test_what_waits_for_a_decision_comes_first(offered):
    offered.keep(named("alpha"))
    offered.keep(named("zeta"))
    offered.approve(offered.keep(named("beta")).study_id, data_set="ecg")
    assert [offer.study.study.name for offer in offered.offered()] == [
        "alpha",
        "small",
        "zeta",
        "beta",
    ]


# --- ids ---------------------------------------------------------------------------------------


def test_the_first_letters_of_an_id_will_do_if_they_are_of_one_study(offered, monkeypatch):
    assert offered.find(ID[:4]).study.study_id == ID
    assert offered.find(ID).study.study_id == ID
    with pytest.raises(NotAllowedError, match="No studies"):
        offered.find("0" * 8 if not ID.startswith("0" * 8) else "1" * 8)
    monkeypatch.setattr(module, "_PREFIX", re.compile("[0-9a-f]*"))
    offered.keep(named("other"))
    with pytest.raises(NotAllowedError, match="2 studies"):
        offered.find("")


@pytest.mark.parametrize("start", ["", "abc", "../x", "*", "????", "ABCD", "zzzz", "a" * 65])
def test_what_is_no_id_finds_nothing(offered, start):
    with pytest.raises(NotAllowedError, match="no id"):
        offered.find(start)


@pytest.mark.parametrize("study_id", ["", ID[:12], ID.upper(), f"../studies/{ID}", ID + "0"])
def test_a_server_has_to_name_the_whole_id(offered, study_id):
    offered.approve(ID, data_set="ecg")
    assert "no id" in refusal(offered, study_id)


@pytest.mark.parametrize("data_set", ["", "a/b", "ECG", "../x", "x" * 65])
def test_what_is_no_name_of_a_data_set_is_approved_for_nothing(offered, data_set):
    with pytest.raises(NotAllowedError, match="no name"):
        offered.approve(ID, data_set=data_set)
    assert "not approved" in refusal(offered)


# --- attacks on the files ----------------------------------------------------------------------


def test_a_study_file_that_was_edited_after_approval_does_not_run(offered, folder):
    offered.approve(ID, data_set="ecg")
    file = folder / ID / "study.toml"
    file.write_text(file.read_text().replace("rounds = 3", "rounds = 300"))
    assert "not what was offered" in refusal(offered)
    for look in (offered.offered, lambda: offered.find(ID), lambda: offered.keep(STUDY)):
        with pytest.raises(NotAllowedError, match="not what was offered"):
            look()


def test_an_approval_that_is_laid_beside_another_study_does_not_hold(offered, folder):
    offered.approve(ID, data_set="ecg")
    other = offered.keep(named("other")).study_id
    shutil.copy(folder / ID / "decision.json", folder / other / "decision.json")
    assert "not what was offered or decided" in refusal(offered, other)


def test_a_folder_of_another_id_does_not_make_a_study_of_that_id(offered, folder):
    offered.approve(ID, data_set="ecg")
    other = "ab" * 32
    shutil.copytree(folder / ID, folder / other)
    assert "not what was offered" in refusal(offered, other)


@pytest.mark.parametrize(
    "change",
    [
        {"decision": "Approved"},
        {"decision": True},
        {"decision": "refused"},
        {"data-set": None},
        {"data-set": "../x"},
        {"data-set": 3},
        {"time": "2027-03-01T12:30:00"},
        {"time": None},
        {"study-id": "ab" * 32},
        {"note": "x"},
    ],
)
def test_a_decision_that_we_do_not_write_approves_nothing(offered, folder, change):
    offered.approve(ID, data_set="ecg")
    file = folder / ID / "decision.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    refusal(offered)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.binary(max_size=80) | st.sampled_from([b"null", b"[]", b"{}", b"[" * 9000]))
def test_no_damage_to_a_decision_approves(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("any")
    approvals = Approvals(folder)
    approvals.keep(STUDY)
    (folder / ID / "decision.json").write_bytes(content)
    refusal(approvals)


def test_a_crash_while_a_decision_is_written_leaves_the_one_before(offered, monkeypatch):
    offered.approve(ID, data_set="ecg")

    def crash(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wardround_client.durable.os.fsync", crash)
    with pytest.raises(PolicyError, match="cannot be written") as caught:
        offered.refuse(ID)
    assert not type(caught.value).may_leave_site
    assert offered.require_approved(ID)[1] == "ecg"


# --- one run ----------------------------------------------------------------------------------


@pytest.fixture
def approved(offered):
    offered.approve(ID, data_set="clinic")
    return offered


def test_an_approval_is_used_once_and_stays_with_its_run(approved, folder):
    assert approved.used_for(ID) is None
    approved.require_run(ID, "run-1")
    approved.require_run(ID, "run-2")
    approved.use_for(ID, "run-1")
    for seen in (approved, Approvals(folder)):
        seen.use_for(ID, "run-1")
        assert seen.used_for(ID) == "run-1"
        for refused in (seen.use_for, seen.require_run):
            with pytest.raises(NotAllowedError, match="was for one run, and another has used it"):
                refused(ID, "run-2")


@pytest.mark.parametrize("again", [False, True])
def test_a_new_decision_is_about_a_further_run(approved, again):
    approved.use_for(ID, "run-1")
    approved.refuse(ID)
    if again:
        approved.approve(ID, data_set="clinic")
    assert approved.used_for(ID) is None
    approved.use_for(ID, "run-2")
    with pytest.raises(NotAllowedError):
        approved.use_for(ID, "run-1")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", "{}", '"run-2"', '{"run": null}', '{"run": 7}']
)
def test_what_it_was_used_for_cannot_be_lost_by_damage(approved, folder, text):
    approved.use_for(ID, "run-1")
    (folder / ID / "run.json").write_text(text)
    for refused in (approved.use_for, approved.require_run):
        with pytest.raises(NotAllowedError, match=r"is not what was offered|was changed"):
            refused(ID, "run-2")


def test_of_two_runs_at_once_one_has_the_approval(approved, folder):
    with ThreadPoolExecutor(8) as pool:
        runs = [f"run-{number}" for number in range(8)]
        kept = list(pool.map(lambda run: used(Approvals(folder), run), runs))
    assert kept.count(True) == 1
    assert approved.used_for(ID) == runs[kept.index(True)]


def used(approvals, run):
    try:
        approvals.use_for(ID, run)
    except NotAllowedError:
        return False
    return True


# --- offers ------------------------------------------------------------------------------------


def test_an_offer_that_a_crash_has_cut_off_is_none_and_is_taken_again(approvals, folder):
    (folder / ID).mkdir(parents=True)
    assert approvals.offered() == ()
    with pytest.raises(NotAllowedError, match="No studies"):
        approvals.find(ID)
    approvals.keep(STUDY)
    assert [offer.study.study_id for offer in approvals.offered()] == [ID]


def test_what_is_no_study_is_not_kept(approvals, folder):
    with pytest.raises(StudyError):
        approvals.keep("[study")
    with pytest.raises(StudyError, match="nested too deep"):
        approvals.keep("a = " + "[" * 90_000)
    with pytest.raises(NotAllowedError, match="letters"):
        approvals.keep(STUDY + "#" * module.LARGEST_STUDY)
    assert not folder.exists()


def test_a_server_cannot_fill_the_disk_with_offers(approvals, folder, monkeypatch):
    monkeypatch.setattr(module, "MOST_UNDECIDED", 3)
    first = [approvals.keep(named(f"study-{number}")) for number in range(3)]
    with pytest.raises(NotAllowedError, match="3 studies wait"):
        approvals.keep(named("one-more"))
    assert approvals.keep(named("study-0")) == first[0]
    approvals.refuse(first[0].study_id)
    approvals.keep(named("one-more"))
    assert len(list(folder.iterdir())) == 4
