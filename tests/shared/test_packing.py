"""A message in one piece: what is packed comes back, and bytes from anywhere do no harm."""

import json

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from wardround_shared.errors import ProtocolError
from wardround_shared.packing import data_size, pack, unpack

INTEGERS = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PLAIN = [st.booleans(), INTEGERS, FLOATS, TEXT, st.binary(max_size=40)]
VALUES = st.one_of(*PLAIN, *(st.lists(kind, max_size=4) for kind in PLAIN))
ARRAYS = st.builds(
    lambda numbers, kind: Array(np.asarray(numbers, dtype=kind)),
    st.lists(st.integers(0, 255), max_size=30),
    st.sampled_from([np.uint8, np.uint32, np.float32, np.float64, np.bool_]),
)
RECORDS = st.one_of(
    st.dictionaries(TEXT, VALUES, max_size=4).map(ConfigRecord),
    st.dictionaries(TEXT, ARRAYS, max_size=3).map(ArrayRecord),
)
MESSAGES = st.dictionaries(TEXT, RECORDS, max_size=4).map(RecordDict)


def packed(content):
    return b"".join(pack(content))


def same(one, other):
    """Records, their order, their values and the kinds of these; arrays byte for byte."""
    return _spelled(one) == _spelled(other)


def _spelled(content):
    spelled = []
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            arrays = [(k, a.dtype, tuple(a.shape), a.stype, a.data) for k, a in record.items()]
            spelled.append((name, "arrays", arrays))
        else:
            spelled.append((name, "values", [(k, repr(v)) for k, v in record.items()]))
    return spelled


def malformed(data):
    with pytest.raises(ProtocolError, match="malformed"):
        unpack(data)


@given(MESSAGES)
def test_what_is_packed_comes_back(content):
    assert same(unpack(packed(content)), content)


def test_a_value_keeps_its_kind():
    values = {
        "true": True,
        "one": 1,
        "one point": 1.0,
        "nothing": b"",
        "bytes": bytes(range(256)),
        "parts": [b"a", b"\xff"],
        "none": [],
        "names": ["north", "söuth"],
    }
    content = unpack(packed(RecordDict({"r": ConfigRecord(values)})))
    assert {key: (type(v), v) for key, v in content["r"].items()} == {
        key: (type(v), v) for key, v in values.items()
    }


def test_the_size_of_a_message_is_that_of_its_arrays_and_strings():
    content = RecordDict(
        {
            "model": ArrayRecord({"p": Array(np.zeros(1000, np.float32))}),
            "said": ConfigRecord({"key": b"12345", "name": "abc", "number": 7}),
        }
    )
    stored = len(content["model"]["p"].data)
    assert stored >= 4000
    assert data_size(content) == stored + 5 + 3
    assert len(packed(content)) > data_size(content)
    assert data_size(RecordDict()) == 0


def test_arrays_are_not_copied_when_they_are_packed():
    content = RecordDict({"model": ArrayRecord({"p": Array(np.zeros(1000, np.float32))})})
    assert pack(content)[-1] is content["model"]["p"].data


def test_a_record_that_no_message_has_is_not_packed():
    with pytest.raises(TypeError, match="MetricRecord"):
        pack(RecordDict({"m": MetricRecord({"a": 1.0})}))


def whole():
    content = RecordDict(
        {
            "header": ConfigRecord({"run": "r", "key": b"\x00\x01", "sites": ["a", "b"]}),
            "model": ArrayRecord({"p": Array(np.arange(3, dtype=np.float32))}),
        }
    )
    return packed(content)


def test_a_message_that_was_cut_off_anywhere_is_refused():
    data = whole()
    for length in range(len(data)):
        malformed(data[:length])
    malformed(data + b"\0")


def test_a_byte_that_was_changed_anywhere_does_no_more_than_refuse():
    data = whole()
    refused = 0
    for place in range(len(data)):
        for flipped in (0x01, 0x20, 0x80, 0xFF):
            changed = bytearray(data)
            changed[place] ^= flipped
            try:
                assert isinstance(unpack(bytes(changed)), RecordDict)
            except ProtocolError:
                refused += 1
    assert refused > len(data)


@given(st.binary(max_size=200))
def test_any_bytes_do_no_more_than_refuse(data):
    with pytest.raises(ProtocolError):
        unpack(data)


@pytest.mark.parametrize(
    "header",
    [
        "[]",
        "7",
        '"values"',
        '{"r": "values"}',
        '{"r": ["values"]}',
        '{"r": {}}',
        '{"r": {"values": []}}',
        '{"r": {"values": {"k": null}}}',
        '{"r": {"values": {"k": {"bytes": "!!!"}}}}',
        '{"r": {"values": {"k": {"bytes": 7}}}}',
        '{"r": {"values": {"k": {"other": ""}}}}',
        '{"r": {"values": {"k": [1, "two"]}}}',
        '{"r": {"arrays": [["k"]]}}',
        '{"r": {"arrays": [["k", 7, [1], "numpy", 0]]}}',
        '{"r": {"arrays": [["k", "f", 1, "numpy", 0]]}}',
        '{"r": {"arrays": [["k", "f", [1], "numpy", -1]]}}',
        '{"r": {"arrays": [["k", "f", [1], "numpy", 1]]}}',
        '{"r": {"arrays": [["k", "f", [1], "numpy", 0.0]]}}',
        '{"r": {"arrays": [[["k"], "f", [1], "numpy", 0]]}}',
        "[" * 200_000,
        '{"r":' * 200_000,
        '{"r": {"values": {"k": ' + "9" * 5000 + "}}}",
        "\ud800".encode("utf-8", "surrogatepass"),
        "{",
    ],
    ids=lambda header: str(header)[:40],
)
def test_a_header_that_nobody_wrote_is_refused(header):
    encoded = header if isinstance(header, bytes) else header.encode()
    malformed(len(encoded).to_bytes(4, "big") + encoded)


def test_a_length_that_is_a_lie_takes_no_memory():
    malformed((2**32 - 1).to_bytes(4, "big") + b"{}")
    lie = json.dumps({"r": {"arrays": [["k", "f", [2**40], "numpy", 2**40]]}}).encode()
    malformed(len(lie).to_bytes(4, "big") + lie)
