"""The files of secure aggregation: what was answered stays answered, whatever becomes of them."""

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from secure_cohort import MODEL, Cohort, question_of

from wardround_client.secure import (
    SecureMember,
    SpentFiles,
    _overwrite,
    _read_state,
    _replace,
    write_identity,
)
from wardround_shared.errors import PrivacyError
from wardround_shared.messages import (
    ADVERTISEMENT,
    ADVERTISEMENTS,
    CONFIRMATION,
    KEYS_REQUEST,
    MASK_REQUEST,
    MASKED_VECTOR,
    SEALED_SHARES,
    SURVIVORS,
    UNMASK_ANSWER,
    UNMASK_REQUEST,
)
from wardround_shared.secure_aggregation.faults import FloorError, RosterError, SpentError
from wardround_shared.secure_aggregation.wire import (
    Advertisement,
    Confirmation,
    MaskedVector,
    SealedShares,
    UnmaskAnswer,
    decode,
    encode,
)

ME = "hospital-00"
TOKEN = bytes(range(32))


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


# --- a round of one site on a real folder ---------------------------------------------------------


class OnDisk:
    """One site of a cohort has its files in a folder; the others live in memory."""

    def __init__(self, folder: Path, *, durable: bool = False):
        self.folder, self.durable = folder, durable
        self.cohort = Cohort(4)
        write_identity(folder, self.cohort.identities[ME]._key.private_bytes_raw())

    def member(self, folder: Path | None = None, **settings) -> SecureMember:
        settings = {"smallest_cohort": 3, "durable": self.durable, **settings}
        return SecureMember(folder or self.folder, terms=self.cohort.terms, site=ME, **settings)

    def state(self) -> bytes | None:
        return _read_state(self.folder / "state")

    def steps(self):
        """Every step of a round, as functions of a member; the others do their part between."""
        server, others = self.cohort.server, self.cohort.names[1:]
        asked = server.open_setup()
        answer = yield lambda m: m.set_up({KEYS_REQUEST: encode(asked)})
        server.take_keys(ME, decode(answer[ADVERTISEMENT], Advertisement))
        for name in others:
            server.take_keys(name, self.cohort.ask(name, "advertise", asked))
        advertised = server.close_keys()
        answer = yield lambda m: m.set_up({ADVERTISEMENTS: encode(advertised)})
        server.take_shares(ME, decode(answer[SEALED_SHARES], SealedShares))
        for name in others:
            server.take_shares(name, self.cohort.ask(name, "share", advertised))
        requests = self.cohort.open_round()
        answer = yield lambda m: self.masked(m, requests[ME])
        server.take_vector(ME, decode(answer[MASKED_VECTOR], MaskedVector))
        for name in others:
            server.take_vector(name, self.cohort.ask_mask(name, requests[name]))
        survivors = server.close_vectors()
        answer = yield lambda m: m.confirm({SURVIVORS: encode(survivors)})
        server.take_confirmation(ME, decode(answer[CONFIRMATION], Confirmation))
        for name in others:
            server.take_confirmation(name, self.cohort.ask(name, "sign", survivors))
        self.unmasked = server.close_confirmations()
        yield lambda m: m.unmask({UNMASK_REQUEST: encode(self.unmasked)})

    def masked(self, member, request):
        accepted = member.accept(
            {MASK_REQUEST: encode(request)},
            layout=self.cohort.layout,
            model_digest=MODEL,
            question=question_of(request.context.round),
        )
        return accepted.answer(np.zeros(self.cohort.layout.words, np.uint32))

    def walk(self, visit):
        """A whole round; `visit(step)` gives the answer of each."""
        steps = self.steps()
        step = next(steps)
        while True:
            try:
                step = steps.send(visit(step))
            except StopIteration:
                return


def test_the_state_of_every_answer_is_on_disk_when_it_is_returned(tmp_path):
    site = OnDisk(tmp_path / "site")
    states = [site.state()]

    def visit(step):
        member = site.member()
        answer = step(member)
        assert site.state() == member._site.to_bytes()
        assert site.state() not in states, "every answer moves the state"
        states.append(site.state())
        return answer

    site.walk(visit)
    assert len(states) == 6


def test_an_older_state_beside_the_register_gives_no_second_answer(tmp_path):
    site = OnDisk(tmp_path / "site")
    seen = []

    def visit(step):
        member, before = site.member(), tmp_path / "before"
        shutil.copytree(site.folder, before)
        answer = step(member)
        shutil.rmtree(before / "spent")
        shutil.copytree(site.folder / "spent", before / "spent")
        if UNMASK_ANSWER in answer:
            assert step(site.member(before)) == answer, "the same request, and no share more"
            seen.append(site.unmasked)
            with pytest.raises(SpentError):
                site.member(before).unmask({UNMASK_REQUEST: encode(in_another_form(site.unmasked))})
        else:
            with pytest.raises(SpentError):
                step(site.member(before))
        shutil.rmtree(before)
        return answer

    site.walk(visit)
    assert len(seen) == 1


def in_another_form(request):
    return dataclasses.replace(request, signatures=request.signatures[1:])


@pytest.mark.parametrize("durable", [False, True])
def test_a_site_restarted_between_any_two_messages_goes_on(tmp_path, durable):
    """Each member is read from disk, answers once, and is gone; see `walk`."""
    site = OnDisk(tmp_path / "site", durable=durable)
    answers = []
    site.walk(lambda step: answers.append(step(site.member())) or answers[-1])
    assert UNMASK_ANSWER in answers[-1]


@pytest.mark.parametrize("what", ["bind", "_store"])
def test_a_site_killed_while_it_unmasks_gives_the_answer_when_it_is_back(
    tmp_path, monkeypatch, what
):
    """Right after the register has the question, and right before the state is stored."""
    site = OnDisk(tmp_path / "site")

    class Killed(BaseException):
        pass

    def visit(step):
        member = site.member()
        if not hasattr(site, "unmasked"):
            return step(member)
        with monkeypatch.context() as patched:
            kind = {"bind": SpentFiles, "_store": SecureMember}[what]
            honest = getattr(kind, what)

            def killed(self, *arguments):
                if what == "bind":
                    honest(self, *arguments)
                raise Killed

            patched.setattr(kind, what, killed)
            with pytest.raises(Killed):
                step(member)
        with pytest.raises(SpentError):
            site.member().unmask({UNMASK_REQUEST: encode(in_another_form(site.unmasked))})
        return step(site.member())

    site.walk(visit)
    answer = site.member().unmask({UNMASK_REQUEST: encode(site.unmasked)})
    decoded = decode(answer[UNMASK_ANSWER], UnmaskAnswer)
    assert len(decoded.self_seeds) == 4


def test_the_identity_may_be_kept_elsewhere(tmp_path):
    site = OnDisk(tmp_path / "site")
    elsewhere = tmp_path / "keys" / "identity.key"
    elsewhere.parent.mkdir()
    (site.folder / "identity.key").rename(elsewhere)
    with pytest.raises(PrivacyError, match="cannot be read"):
        site.member()
    asked = {KEYS_REQUEST: encode(site.cohort.server.open_setup())}
    assert site.member(identity_file=elsewhere).set_up(asked)
    elsewhere.write_bytes(bytes(32))
    with pytest.raises(RosterError, match="another identity"):
        site.member(identity_file=elsewhere)


def test_a_lost_state_beside_the_register_gives_no_second_answer(tmp_path):
    site = OnDisk(tmp_path / "site")
    asked = {KEYS_REQUEST: encode(site.cohort.server.open_setup())}
    site.member().set_up(asked)
    (site.folder / "state").unlink()
    with pytest.raises(SpentError):
        site.member().set_up(asked)


def test_a_site_demands_more_than_the_roster_if_its_study_or_policy_does(tmp_path):
    site = OnDisk(tmp_path / "site")  # four sites, and three of them make a sum
    site.member(smallest_cohort=3)
    with pytest.raises(FloorError, match="demands 4"):
        site.member(smallest_cohort=4)
    site.member().set_up({KEYS_REQUEST: encode(site.cohort.server.open_setup())})
    with pytest.raises(FloorError, match="demands 4"):  # nor from a stored state
        site.member(smallest_cohort=4)


# --- the register ---------------------------------------------------------------------------------


def test_a_token_is_spent_once_also_by_another_process_later(tmp_path):
    SpentFiles(folder=tmp_path, durable=False).spend(TOKEN)
    with pytest.raises(SpentError):
        SpentFiles(folder=tmp_path, durable=False).spend(TOKEN)
    SpentFiles(folder=tmp_path, durable=False).spend(TOKEN[::-1])


@pytest.mark.parametrize("durable", [False, True])
def test_a_token_is_bound_to_one_value_for_good(tmp_path, durable):
    register = SpentFiles(folder=tmp_path, durable=durable)
    assert not register.spent(TOKEN)
    for _ in range(2):
        register.bind(TOKEN, b"1" * 32)
        assert register.spent(TOKEN)
        with pytest.raises(SpentError):
            SpentFiles(folder=tmp_path, durable=durable).bind(TOKEN, b"2" * 32)
    assert [file.name for file in tmp_path.iterdir()] == [TOKEN.hex()]
    assert (tmp_path / TOKEN.hex()).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"1" * 31, b"1" * 33])
def test_a_token_that_is_there_with_anything_else_is_spent(tmp_path, content):
    (tmp_path / TOKEN.hex()).write_bytes(content)
    register = SpentFiles(folder=tmp_path, durable=False)
    with pytest.raises(SpentError):
        register.bind(TOKEN, b"1" * 32)
    assert (tmp_path / TOKEN.hex()).read_bytes() == content


def test_what_a_crash_left_behind_binds_nothing(tmp_path, monkeypatch):
    """Killed before the token has its name: the next one is free to choose."""
    register = SpentFiles(folder=tmp_path, durable=True)

    def full(*names):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "link", full)
        with pytest.raises(PrivacyError, match="register of given answers cannot be written"):
            register.bind(TOKEN, b"1" * 32)
    assert not register.spent(TOKEN)
    register.bind(TOKEN, b"2" * 32)


def test_a_register_that_cannot_be_read_is_not_taken_for_empty(tmp_path):
    (tmp_path / "spent").write_bytes(b"")
    with pytest.raises(PrivacyError, match="cannot be read") as raised:
        SpentFiles(folder=tmp_path / "spent", durable=False).spent(TOKEN)
    assert str(tmp_path) not in str(raised.value)


_RACE = """
import os
import sys
from pathlib import Path
from wardround_client.secure import SpentFiles
from wardround_shared.secure_aggregation.faults import SpentError
register = SpentFiles(folder=Path(sys.argv[1]), durable=False)
print("ready", flush=True)
sys.stdin.readline()
won = 0
for number in range(500):
    token = number.to_bytes(32, "big")
    try:
        if sys.argv[2] == "spend":
            register.spend(token)
        else:
            register.bind(token, os.getpid().to_bytes(32, "big"))
        won += 1
    except SpentError:
        pass
print(won)
"""


@pytest.mark.parametrize("how", ["spend", "bind"])
def test_of_two_processes_that_race_for_a_token_one_has_it(tmp_path, how):
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", _RACE, str(tmp_path), how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won = [int(racer.communicate(timeout=60)[0]) for racer in racers]
    assert sum(won) == 500
    assert len(list(tmp_path.iterdir())) == 500


# --- order on the way to the disk -----------------------------------------------------------------


@pytest.fixture
def events(monkeypatch):
    """What is made durable, and when a state takes its place."""
    seen = []
    fsync, replace = os.fsync, Path.replace

    def synced(file):
        name = Path(f"/proc/self/fd/{file}").readlink().name
        seen.append(("fsync", name))
        fsync(file)

    def replaced(self, target):
        seen.append(("replace", self.name, Path(target).name))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    return seen


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="names of open files need /proc")
def test_a_state_is_whole_on_disk_before_it_takes_its_place(tmp_path, events):
    folder = tmp_path / "site"
    folder.mkdir()
    _replace(folder / "state", b"content")
    assert events == [
        ("fsync", "state.unfinished"),
        ("replace", "state.unfinished", "state"),
        ("fsync", "site"),
    ]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="names of open files need /proc")
def test_token_then_state_are_on_disk_before_an_answer_is_returned(tmp_path, events):
    site = OnDisk(tmp_path / "site", durable=True)

    def visit(step):
        member = site.member()
        events.clear()
        answer = step(member)
        # That of a question is bound under another name first.
        tokens = [n for k, n, *_ in events if k == "fsync" and (len(n) == 64 or n[0] == ".")]
        assert tokens
        written = events.index(("fsync", "state.unfinished"))
        for token in tokens:
            place = events.index(("fsync", token))
            assert events[place + 1] == ("fsync", "spent"), "its name in the folder as well"
            assert place < written
        assert events[-2:] == [("replace", "state.unfinished", "state"), ("fsync", "site")]
        return answer

    site.walk(visit)


@pytest.mark.parametrize("fails_at", [1, 2, 3, 4])
def test_a_disk_that_cannot_make_sure_stops_the_answer(tmp_path, monkeypatch, fails_at):
    """Token, folder of tokens, state, folder of the state: each fsync of an answer."""
    site = OnDisk(tmp_path / "site", durable=True)
    member, asked = site.member(), {KEYS_REQUEST: encode(site.cohort.server.open_setup())}
    fsync, calls = os.fsync, []

    def failing(file):
        calls.append(file)
        if len(calls) == fails_at:
            raise OSError(5, "Input/output error")
        fsync(file)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(PrivacyError, match="cannot be written"):
        member.set_up(asked)
    assert len(calls) == fails_at
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(SpentError):  # what may have been spent is spent
        site.member().set_up(asked)


def test_a_register_that_cannot_be_written_stops_the_answer(tmp_path, monkeypatch):
    site = OnDisk(tmp_path / "site")
    member = site.member()
    shutil.rmtree(site.folder / "spent")
    with pytest.raises(PrivacyError, match="register of given answers cannot be written"):
        member.set_up({KEYS_REQUEST: encode(site.cohort.server.open_setup())})
    assert site.state() is None


# --- the identity ---------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [b"", b"short", bytes(31), bytes(33)])
def test_a_damaged_identity_key_is_one_sentence(tmp_path, key):
    site = OnDisk(tmp_path / "site")
    (site.folder / "identity.key").write_bytes(key)
    with pytest.raises(PrivacyError, match="identity key of this site is damaged"):
        site.member()


def test_a_missing_identity_key_is_one_sentence_without_its_path(tmp_path):
    site = OnDisk(tmp_path / "site")
    (site.folder / "identity.key").unlink()
    with pytest.raises(PrivacyError, match="cannot be read") as raised:
        site.member()
    assert str(tmp_path) not in str(raised.value)


def test_an_identity_is_never_overwritten(tmp_path):
    write_identity(tmp_path / "site", bytes(32))
    with pytest.raises(PrivacyError, match="File exists"):
        write_identity(tmp_path / "site", bytes(32))
    assert (tmp_path / "site" / "identity.key").stat().st_mode & 0o777 == 0o600


def test_a_state_that_cannot_be_read_is_not_taken_for_none(tmp_path):
    site = OnDisk(tmp_path / "site")
    (site.folder / "state").mkdir()
    with pytest.raises(PrivacyError, match="cannot be read"):
        site.member()
