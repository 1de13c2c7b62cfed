"""The stored state of secure aggregation: the last one written, whole, or refused."""

import pytest

from wardround_client.secure import _overwrite, _read_state, _replace


@pytest.mark.parametrize("write", [_replace, _overwrite])
def test_what_was_stored_last_is_read_whatever_its_length(tmp_path, write):
    state = tmp_path / "state"
    assert _read_state(state) is None
    for content in (b"long" * 100, b"short", b"", b"longer" * 100):
        write(state, content)
        assert _read_state(state) == content
        assert len(state.read_bytes()) == 8 + len(content), "nothing of an older state is left"
    assert state.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_cut_state_is_shorter_than_what_was_stored(tmp_path):
    state = tmp_path / "state"
    _overwrite(state, b"0123456789")
    state.write_bytes(state.read_bytes()[:-3])
    assert _read_state(state) == b"0123456", "which no parser of a whole state takes"


def test_a_full_disk_is_no_state_that_was_stored(tmp_path, monkeypatch):
    monkeypatch.setattr("os.write", lambda file, data: 3)
    with pytest.raises(OSError, match="No space"):
        _overwrite(tmp_path / "state", b"0123456789")
