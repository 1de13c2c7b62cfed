"""Who is known to have which roster, and who would be cut off by a new authority."""

import pytest
from consortia import Consortium, everything

from wardround_client.enrolment.rotation import rotate
from wardround_server.enrolment.heard import heard, note_heard
from wardround_server.enrolment.renewal import finish_rotation, rotate_ca, without_authorities
from wardround_shared.errors import EnrolmentError


@pytest.fixture
def centre(tmp_path):
    centre = Consortium(tmp_path)
    for name in ("north", "south"):
        centre.join(centre.site(name))
    return centre


def test_what_was_heard_is_kept_by_site(centre):
    assert heard(centre.home) == {}
    note_heard(centre.home, {"north": 3})
    note_heard(centre.home, {"south": 2})
    note_heard(centre.home, {"south": 3})
    note_heard(centre.home, {"north": 1, "south": 2})  # said late
    assert heard(centre.home) == {"north": 3, "south": 3}
    before = centre.home.heard.stat().st_mtime_ns
    note_heard(centre.home, {"north": 3})
    assert centre.home.heard.stat().st_mtime_ns == before


@pytest.mark.parametrize("text", ["", "[]", "{", '{"north": "x"}', '{"north": null}', "\0"])
def test_a_damaged_note_is_none(centre, text):
    centre.home.heard.write_text(text)
    assert heard(centre.home) == {}
    note_heard(centre.home, {"north": 3})
    assert heard(centre.home) == {"north": 3}


def test_nobody_is_cut_off_by_a_new_authority_unless_it_is_asked_for(centre):
    home = centre.home
    note_heard(home, {"north": 3, "south": 3})
    assert without_authorities(home) == ()
    version = rotate_ca(home, now=centre.later()).version
    assert without_authorities(home) == ("north", "south")
    note_heard(home, {"north": version})
    before = everything(home.folder)
    with pytest.raises(EnrolmentError, match="south: not known to have the roster"):
        finish_rotation(home, now=centre.later())
    assert everything(home.folder) == before

    # A new site has them from its answer. Later versions bring them too, whatever else they bring.
    centre.join(centre.site("west"))
    assert without_authorities(home) == ("south",)
    note_heard(home, {"south": version + 1})
    assert without_authorities(home) == ()
    finish_rotation(home, now=centre.later())
    assert without_authorities(home) == ("north", "south", "west")


def test_new_keys_of_an_old_site_bring_it_nothing(centre):
    site = centre.site("west")
    centre.join(site)
    rotate_ca(centre.home, now=centre.later())
    request = centre.folder / "again.wardround-request"
    rotate(site, request, now=centre.later())
    centre.admit(request)
    assert "west" in without_authorities(centre.home)


def test_after_a_theft_it_is_not_waited_for(centre):
    rotate_ca(centre.home, now=centre.later())
    finish_rotation(centre.home, now=centre.later(), at_once=True)
