"""Arrays travel as Flower's own bytes, and nothing else than plain arrays comes back."""

import contextlib
import io

import numpy as np
import pytest
from flwr.app import Array
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wardround_shared.arrays import from_message, to_message
from wardround_shared.errors import ProtocolError

ARRAYS = hnp.arrays(
    dtype=st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.bool_]),
    shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
)


@given(ARRAYS)
def test_the_bytes_are_those_of_flower(array):
    sent, flower = to_message(array), Array(array)
    assert (sent.data, sent.dtype, sent.stype) == (flower.data, flower.dtype, flower.stype)
    assert tuple(sent.shape) == tuple(flower.shape)


@given(ARRAYS)
def test_an_array_comes_back_as_it_was(array):
    back = from_message(to_message(array))
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(back, array)


def test_a_transposed_array_is_sent_in_c_order():
    array = np.arange(6.0).reshape(2, 3).T
    np.testing.assert_array_equal(from_message(to_message(array)), array)


def test_what_is_read_is_a_view_and_cannot_be_written():
    back = from_message(to_message(np.zeros(3)))
    assert not back.flags.writeable


def _npy(array: np.ndarray, *, version: tuple[int, int] = (1, 0)) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=version)
    return buffer.getvalue()


def _sent(data: bytes, kind: str = "numpy.ndarray") -> Array:
    return Array("float64", (2,), kind, data)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(_sent(b""), id="empty"),
        pytest.param(_sent(b"\x93NUMPY\x01\x00"), id="no header"),
        pytest.param(_sent(b"\x93NUMPY\x01\x00\xff\xff{"), id="header cut off"),
        pytest.param(_sent(b"PK\x03\x04" + _npy(np.ones(2))[4:]), id="another format"),
        pytest.param(_sent(_npy(np.ones(2))[:-1]), id="one byte short"),
        pytest.param(_sent(_npy(np.ones(2)) + b"\0" * 8), id="one number too many"),
        pytest.param(_sent(_npy(np.ones(2)), "torch.tensor"), id="another kind"),
        pytest.param(_sent(_npy(np.ones(2), version=(2, 0))), id="another version"),
        pytest.param(_sent(_npy(np.asfortranarray(np.ones((2, 3))))), id="fortran order"),
        pytest.param(_sent(_npy(np.array([{}, 1], dtype=object))), id="python objects"),
        pytest.param(
            _sent(_npy(np.ones(2)).replace(b"'fortran_order': False", b"'fortran_order': print")),
            id="code in the header",
        ),
        pytest.param(_sent(_npy(np.ones(2)).replace(b"(2,)", b"(-1,")), id="half a shape"),
        pytest.param(_sent(_npy(np.ones(2)).replace(b"(2,)", b"(02)")), id="octal shape"),
        pytest.param(_sent(_npy(np.ones(2)).replace(b"(2,)", b"(2 )")), id="no tuple"),
        pytest.param(_sent(_npy(np.ones(2)).replace(b"<f8", b"|f9")), id="no such type"),
        pytest.param(_sent(_npy(np.array([1 + 1j]))), id="complex"),
        pytest.param(_sent(_npy(np.array(["a"]))), id="text"),
    ],
)
def test_what_is_malformed_is_refused(sent):
    with pytest.raises(ProtocolError, match="malformed"):
        from_message(sent)


@given(st.binary(max_size=200), st.integers(0, 130), st.binary(max_size=8))
def test_no_bytes_end_in_anything_but_an_array_or_a_refusal(data, place, spliced):
    whole = _npy(np.ones(2))
    for candidate in (data, whole[:place] + spliced + whole[place + len(spliced) :]):
        with contextlib.suppress(ProtocolError):
            assert from_message(_sent(candidate)).dtype.kind in "biuf"
