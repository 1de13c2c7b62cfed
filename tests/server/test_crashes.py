"""A server that is killed anywhere goes on and ends as if nothing had happened."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from killed_server import Killed, Moments, PlainSites, SecureSites, Server, study_of

from wardround_server import secure_attempt
from wardround_server.run_folder import CHECKPOINT, CHECKPOINTS, RunFolder, read_model
from wardround_shared.errors import RunFolderError

ROUNDS = 4


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr(secure_attempt, "PAUSE_SECONDS", 0.0)


def server_of(folder, *, secure=False):
    study = study_of(secure=secure)
    return Server(folder, study, SecureSites(study) if secure else PlainSites())


class Uninterrupted:
    """What a run leaves that nothing happens to, and how often it could have been killed."""

    def __init__(self, folder, *, secure):
        server, moments = server_of(folder, secure=secure), Moments()
        server.sites.tick = moments.at
        with moments.killing(None):
            self.outcome = server.run()
        self.files, self.moments, self.seen = server.files(), moments.passed, moments.seen


@pytest.fixture(scope="module", params=["plain", "secure"])
def whole(request, tmp_path_factory):
    secure = request.param == "secure"
    return secure, Uninterrupted(tmp_path_factory.mktemp("whole") / "run", secure=secure)


def killed_at(server, *moments):
    """Run the server in as many processes as it takes."""
    for moment in moments:
        watch = Moments()
        server.sites.tick = watch.at
        try:
            with watch.killing(moment):
                return server.run()
        except Killed:
            pass
    server.sites.tick = lambda what: None
    return server.run()


def check_same(server, outcome, whole, what):
    assert server.files() == whole.files, what
    np.testing.assert_array_equal(outcome.parameters, whole.outcome.parameters, err_msg=str(what))
    np.testing.assert_array_equal(outcome.counts, whole.outcome.counts)
    assert (outcome.sites, outcome.dropped) == (whole.outcome.sites, whole.outcome.dropped)
    assert outcome.metrics == whole.outcome.metrics
    left = {file.name for file in (server.path / CHECKPOINTS).iterdir()}
    assert left <= {"latest.safetensors", "next-secure-round"}, what


def test_the_run_does_what_it_is_to_be_killed_in(whole):
    _, run = whole
    assert run.moments > 100
    steps = {seen.split()[1] for seen in run.seen}
    assert {"write", "fsync", "replace", "unlink", "save_file"} <= steps
    roster = [json.loads(line) for line in run.files["roster.jsonl"].splitlines()]
    assert [line["round"] for line in roster] == [1, 2, 3, 4]
    rounds = [json.loads(line)["round"] for line in run.files["rounds.jsonl"].splitlines()]
    assert rounds == [1, 2, 3, 4, 5]


def test_content_is_on_the_disk_before_its_name_and_the_name_before_going_on(whole):
    _, run = whole
    places = [i for i, seen in enumerate(run.seen) if seen == "before replace"]
    assert len(places) > ROUNDS
    for place in places:
        assert run.seen[place - 1] == "after fsync"
        assert run.seen[place + 1 : place + 3] == ["after replace", "before fsync"]
    # A checkpoint knows of lines: both files of them are on the disk before it is written.
    last = len(run.seen) - 1 - run.seen[::-1].index("before save_file")
    assert run.seen[last - 4 : last] == ["before fsync", "after fsync"] * 2


def test_killed_at_any_moment_it_ends_the_same(whole, tmp_path):
    secure, run = whole
    # A secure run has moments by the hundred that differ in the site only: some of each kind.
    for moment in range(1, run.moments + 1, 3 if secure else 1):
        server = server_of(tmp_path / str(moment), secure=secure)
        outcome = killed_at(server, moment)
        check_same(server, outcome, run, (moment, run.seen[moment - 1]))
        shutil.rmtree(server.path)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(moments=st.lists(st.integers(1, 150), min_size=2, max_size=6))
def test_killed_again_and_again_it_ends_the_same(whole, tmp_path, moments):
    secure, run = whole
    server = server_of(tmp_path / "run", secure=secure)
    try:
        check_same(server, killed_at(server, *moments), run, moments)
    finally:
        shutil.rmtree(server.path)


def test_a_finished_run_is_recognised_and_nobody_is_asked(whole, tmp_path):
    secure, run = whole
    server = server_of(tmp_path / "run", secure=secure)
    server.run()
    asked = len(server.sites.answers.times)
    server.sites.nodes = None
    check_same(server, server.run(), run, "finished")
    assert len(server.sites.answers.times) == asked


def test_a_control_variate_goes_on_where_it_was(tmp_path):
    """Sites refuse a request that comes again with another one, or with others counted."""
    study = study_of(strategy='"scaffold"', rounds="4\nlocal-steps = 5")
    whole, moments = Server(tmp_path / "whole", study, PlainSites()), Moments()
    whole.sites.tick = moments.at
    with moments.killing(None):
        expected = whole.run()
    assert any(number == 4 for _, _, number in whole.sites.answers.times)
    for moment in range(1, moments.passed + 1, 5):
        server = Server(tmp_path / str(moment), study, PlainSites())
        outcome = killed_at(server, moment)
        assert server.files() == whole.files(), moments.seen[moment - 1]
        np.testing.assert_array_equal(outcome.parameters, expected.parameters)
        shutil.rmtree(server.path)


# --- torn files -----------------------------------------------------------------------------------


@pytest.fixture
def stopped(tmp_path):
    """A run that was killed before the checkpoint of round 4, whose lines are there."""
    server, moments = server_of(tmp_path / "run"), Moments()
    whole = Uninterrupted(tmp_path / "whole", secure=False)
    stored = [i for i, seen in enumerate(whole.seen, 1) if seen == "before save_file"]
    server.sites.tick = moments.at
    # From the end: the last checkpoint, the final model, the checkpoint of round 4.
    with pytest.raises(Killed), moments.killing(stored[-3]):
        server.run()
    server.sites.tick = lambda what: None
    lines = (server.path / "roster.jsonl").read_bytes().splitlines()
    assert len(lines) == ROUNDS
    return server, whole


def restored(server, kept):
    shutil.rmtree(server.path)
    shutil.copytree(kept, server.path)


@pytest.mark.parametrize(
    "name",
    [CHECKPOINT, "rounds.jsonl", "roster.jsonl", f"{CHECKPOINTS}/model-3.safetensors"],
)
def test_a_torn_file_is_refused_or_repaired_and_never_misread(stopped, tmp_path, name):
    server, whole = stopped
    kept = tmp_path / "kept"
    shutil.copytree(server.path, kept)
    content = (kept / name).read_bytes()
    ended = {"refused": 0, "the same": 0}
    every = 7 if name.endswith("jsonl") else 37
    for size in [*range(0, len(content), every), len(content) - 1]:
        restored(server, kept)
        (server.path / name).write_bytes(content[:size])
        try:
            server.run()
        except RunFolderError:
            ended["refused"] += 1
        else:
            assert server.files() == whole.files
            ended["the same"] += 1
    assert ended["refused"] > 0
    if name == "roster.jsonl":
        # Of the lines beyond the checkpoint, any part may be there.
        assert ended["the same"] > 10


@pytest.mark.parametrize("name", [CHECKPOINT, f"{CHECKPOINTS}/model-3.safetensors"])
def test_a_flipped_bit_is_found(stopped, tmp_path, name):
    server, _ = stopped
    kept = tmp_path / "kept"
    shutil.copytree(server.path, kept)
    content = (kept / name).read_bytes()
    for place in range(0, len(content), 101):
        restored(server, kept)
        flipped = bytearray(content)
        flipped[place] ^= 1
        (server.path / name).write_bytes(flipped)
        try:
            server.run()
        except RunFolderError:
            continue
        # Padding and the like: nothing that is read.
        header = 8 + int.from_bytes(content[:8], "little")
        assert place < header


def test_a_checkpoint_of_another_run_is_refused(stopped, tmp_path):
    server, _ = stopped
    for other in (study_of(rounds="5"), study_of(learning_rate="0.2")):
        server.study = other
        with pytest.raises(RunFolderError, match="study_id"):
            server.run()


def test_a_folder_in_which_another_process_works_is_refused(tmp_path):
    server = server_of(tmp_path / "run")
    with (
        RunFolder.open(server.path).claimed(),
        pytest.raises(RunFolderError, match="another process works on this run"),
    ):
        server.run()
    server.run()


def test_a_checkpoint_is_a_model_that_can_be_used_elsewhere(stopped):
    server, _ = stopped
    shutil.copy(server.path / CHECKPOINT, server.path / "model.safetensors")
    arrays, metadata = read_model(server.path)
    assert metadata["study_id"] == server.study.study_id
    assert metadata["classes"] == "absent\npresent"
    assert {"preprocessing.0.mean", "preprocessing.0.scale", "optimiser.mean"} <= set(arrays)
