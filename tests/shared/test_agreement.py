"""What is agreed on before a run, as records that come from the other side."""

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from wardround_shared import __version__
from wardround_shared.agreement import (
    Offer,
    agreed_record,
    read_agreed,
    read_offer,
    read_terms,
    require_plain,
    require_same_release,
    with_offer,
    with_terms,
)
from wardround_shared.errors import ProtocolError
from wardround_shared.messages import Header, header_record, read_header

HEADER = Header(study_id="ab" * 32, run="run-1", round=0)
OFFER = Offer(study="[study]\nname = 'ä'\n", roster='{"version": 3}')
ARRAYS = ArrayRecord({"a": Array("uint8", (1,), "numpy", b"x")})


def of(name, record):
    return RecordDict({name: record})


def test_what_is_offered_comes_beside_the_header_and_leaves_the_message_as_it_was():
    plain = header_record(HEADER)
    offered = with_offer(plain, OFFER)
    assert read_offer(offered) == OFFER
    assert OFFER.software == __version__
    assert read_header(offered) == HEADER
    assert set(plain) == {"header"}


def test_the_sites_of_a_run_come_beside_the_header():
    content = with_terms(header_record(HEADER), ("north", "süd"))
    assert read_terms(content) == ("north", "süd")
    assert read_header(content) == HEADER


def test_what_was_agreed_to_comes_back():
    assert read_agreed(agreed_record(b"\0" * 32)) == b"\0" * 32


@pytest.mark.parametrize(
    ("read", "content"),
    [
        (read_offer, RecordDict()),
        (read_offer, header_record(HEADER)),
        (read_offer, of("offer", ConfigRecord({"study": "s"}))),
        (read_offer, of("offer", ConfigRecord({"study": "s", "roster": "r"}))),
        (read_offer, of("offer", ConfigRecord({"study": b"s", "roster": "r", "software": "1"}))),
        (read_offer, of("offer", ConfigRecord({"study": "s", "roster": "r", "software": 1}))),
        (read_offer, of("offer", ARRAYS)),
        (read_terms, RecordDict()),
        (read_terms, of("terms", ConfigRecord({"sites": "north"}))),
        (read_terms, of("terms", ConfigRecord({"sites": [1, 2]}))),
        (read_terms, of("terms", ARRAYS)),
        (read_agreed, RecordDict()),
        (read_agreed, of("agreed", ConfigRecord({"roster": "00"}))),
        (read_agreed, of("agreed", ConfigRecord({}))),
    ],
)
def test_a_malformed_record_is_refused(read, content):
    with pytest.raises(ProtocolError, match="malformed"):
        read(content)


@pytest.mark.parametrize("name", ["study", "roster"])
def test_a_text_without_end_is_refused(name):
    offer = Offer(**{"study": "s", "roster": "r", name: "x" * 1_000_001})
    with pytest.raises(ProtocolError, match="too long"):
        read_offer(with_offer(RecordDict(), offer))


@pytest.mark.parametrize("run", ["a", "run-1", "0", "a" * 80, "small-20260301-123015-2"])
@pytest.mark.parametrize("number", [0, 1, 2**31 - 1])
def test_a_header_of_plain_words_is_taken(run, number):
    require_plain(Header(study_id="ab" * 32, run=run, round=number))


@pytest.mark.parametrize(
    ("run", "number"),
    [(run, 0) for run in ("", "-a", "A", "a b", "a\n", "a/b", "..", "ä", "a" * 81, "٣", "a\0")]
    + [("run-1", number) for number in (-1, 2**31, 2**62)],
)
def test_any_other_header_is_refused_without_its_words(run, number):
    with pytest.raises(
        ProtocolError, match="malformed: its run has a name, or its round"
    ) as raised:
        require_plain(Header(study_id="ab" * 32, run=run, round=number))
    assert "/" not in str(raised.value)
    assert len(str(raised.value)) < 120


def test_patches_of_one_release_work_together_and_other_releases_do_not():
    one, two, *_ = __version__.split(".")
    for theirs in (__version__, f"{one}.{two}.99", f"{one}.{two}"):
        require_same_release(theirs, who="The server")
    for theirs in (f"{one}.{int(two) + 1}.0", f"{int(one) + 1}.{two}.0", "", one, "x" * 1000):
        with pytest.raises(ProtocolError, match="install the same release") as raised:
            require_same_release(theirs, who="The server")
        assert str(raised.value).startswith(f"The server runs wardround {theirs[:20]}, ")
        assert len(str(raised.value)) < 200
