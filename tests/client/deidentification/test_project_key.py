"""One key: the same answer always; another key or project: nothing in common."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID

from wardround_client.deidentification.project_key import ProjectKey
from wardround_shared.errors import EnrolmentError

KEY = ProjectKey(project="lungs", secret=bytes(range(32)))
uids = st.from_regex(r"[1-9](\.[1-9][0-9]{0,8}){1,6}", fullmatch=True)
patients = st.text(min_size=1, max_size=64).filter(lambda text: text.strip(" \0\t\r\n"))


@given(uids)
def test_a_new_uid_is_valid_and_of_a_uuid(old):
    new = UID(KEY.uid(old))
    assert new.is_valid
    assert len(new) <= 64
    number = int(new.removeprefix("2.25."))
    assert number < 2**128
    assert (number >> 76 & 0xF, number >> 62 & 0x3) == (8, 2)  # version and variant, RFC 9562


@given(uids)
def test_the_same_uid_gives_the_same_one_however_it_is_padded(old):
    same = ProjectKey(project="lungs", secret=bytes(range(32)))
    assert KEY.uid(old) == same.uid(old) == KEY.uid(old + "\0") == KEY.uid(old + " ")


@given(uids, uids)
def test_different_uids_stay_different(one, other):
    assert (KEY.uid(one) == KEY.uid(other)) == (one == other)


@given(patients)
def test_another_key_or_project_has_nothing_in_common(patient):
    others = (
        ProjectKey(project="lungs", secret=bytes(32)),
        ProjectKey(project="hearts", secret=KEY.secret),
    )
    for other in others:
        assert KEY.uid(patient) != other.uid(patient)
        assert KEY.pseudonym(patient) != other.pseudonym(patient)


@given(patients)
def test_a_pseudonym_fits_its_attribute_and_the_days_their_range(patient):
    assert re.fullmatch("[A-Z2-7]{16}", KEY.pseudonym(patient))
    assert 1 <= KEY.days(patient) <= 3650
    assert KEY.days(patient) == KEY.days(f" {patient} ")


def test_known_answers():
    """A change of these would part the files of a project that has begun."""
    assert KEY.uid("1.2.840.113619.2") == "2.25.257357855577982879324611398269416532274"
    assert KEY.pseudonym("4711") == "VXNYIHFS6LNTZEZJ"
    assert KEY.days("4711") == 1667


def test_days_are_spread_over_the_whole_range():
    days = {KEY.days(str(number)) for number in range(20_000)}
    assert (min(days), max(days)) < (5, 3646)
    assert len(days) > 3500


def test_a_key_is_made_once_and_for_the_user_alone(tmp_path):
    file = tmp_path / "keys" / "lungs.key"
    made = ProjectKey.read_or_make(file, "lungs")
    assert ProjectKey.read_or_make(file, "lungs") == made
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert made.secret != ProjectKey.read_or_make(tmp_path / "other.key", "lungs").secret
    assert made.secret.hex() not in repr(made)


@pytest.mark.parametrize("content", [b"", b"ab" * 31, b"ab" * 33, b"xy" * 32, b"\xff" * 64])
def test_what_is_no_key_is_refused(tmp_path, content):
    file = tmp_path / "lungs.key"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(EnrolmentError, match="this is no key of a project"):
        ProjectKey.read(file, "lungs")


def test_a_key_that_others_can_read_is_refused(tmp_path):
    file = tmp_path / "lungs.key"
    file.write_text("ab" * 32)
    file.chmod(0o640)
    with pytest.raises(EnrolmentError, match="others can get at this private key"):
        ProjectKey.read(file, "lungs")
