"""A whole run against scripted sites: what goes wrong at a site stays at that site."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import RecordDict

from wardround_server.coordinator import Coordinator
from wardround_server.exchange import Answer
from wardround_server.run_folder import RunFolder, read_model
from wardround_shared.errors import NotEnoughSitesError, RunFolderError
from wardround_shared.evaluation import counts_length
from wardround_shared.messages import (
    CLASS_COUNTS,
    EVALUATE,
    HELLO,
    STATISTICS,
    TRAIN,
    Greeting,
    Update,
    greeting_record,
    sums_record,
    update_record,
)
from wardround_shared.messages import (
    read_model as read_global_model,
)
from wardround_shared.study import Study, parse_study

STUDY = """
[study]
name = "scripted"
task = "tabular-classification"
classes = ["absent", "present"]
[data]
source = "table"
table = ["*.csv"]
label = { column = "y" }
features = [{ column = "a" }, { column = "b" }]
[preprocessing]
steps = [{ name = "impute", indicator = false }, { name = "standardise" }]
[model]
name = "mlp"
hidden = []
[training]
rounds = 3
learning-rate = 0.1
[privacy]
mechanism = "none"
[aggregation]
secure = false
minimum-sites = 2
"""
PARAMETERS = 2 * 2 + 2


class ScriptedSites:
    """An exchange whose sites answer correctly, but for what a test scripts."""

    def __init__(self, sites: int, script: Callable[[int, str, int], object] | None = None):
        self.sites = sites
        self.script = script or (lambda *_: None)
        self.asked: list[tuple[str, RecordDict]] = []

    def nodes(self, *, at_least: int, deadline: float) -> tuple[int, ...]:
        return tuple(range(self.sites))

    def ask(self, nodes, message_type, content, *, group, deadline):
        self.asked.append((message_type, content))
        for node in nodes:
            scripted = self.script(node, message_type, int(group))
            if scripted == "silent":
                continue
            if isinstance(scripted, str):
                yield Answer(node_id=node, content=None, failure=scripted)
            else:
                content = self.right(node, message_type) if scripted is None else scripted
                yield Answer(node_id=node, content=content)

    def right(self, node: int, message_type: str) -> RecordDict:
        if message_type == HELLO:
            greeting = Greeting(site=f"site-{node}", software="0", shapes=((2,),))
            return greeting_record(greeting)
        if message_type == CLASS_COUNTS:
            return sums_record(np.array([3.0, 5.0]))
        if message_type == STATISTICS:
            return sums_record(np.array([8.0, 16.0, 48.0] * 2)[: self._statistics()])
        if message_type == EVALUATE:
            return sums_record(np.zeros(counts_length(2)))
        delta = np.full(PARAMETERS, float(node), np.float32) * (node + 1)
        counts = np.zeros(counts_length(2))
        return update_record(Update(delta=delta, weight=node + 1.0, counts=counts))

    def _statistics(self) -> int:
        fitted = read_global_model(self.asked[-1][1]).fitted
        return 4 if not fitted else 6


class Watcher:
    def __init__(self):
        self.absent, self.failures, self.lines = [], [], []

    def joined(self, sites, absent):
        self.absent = list(absent)

    def answered(self, round_number, site, failure):
        if failure:
            self.failures.append((round_number, site, failure))

    def closed(self, line, metrics_before, seconds):
        self.lines.append(line)


@pytest.fixture
def study() -> Study:
    return parse_study(STUDY, origin="test")


def _run(study: Study, sites: ScriptedSites, tmp_path: Path):
    folder = RunFolder.create(tmp_path / "run")
    watcher = Watcher()
    coordinator = Coordinator(study=study, run="r", seed=1, folder=folder, observer=watcher)
    return coordinator, watcher, folder


def test_the_model_moves_by_the_weighted_mean(study, tmp_path):
    sites = ScriptedSites(3)
    coordinator, _, folder = _run(study, sites, tmp_path)
    outcome = coordinator.run(sites)
    # Deltas 0, 1, 2 with weights 1, 2, 3: mean 8 / 6 a round.
    first = next(content for kind, content in sites.asked if kind == TRAIN)
    start = read_global_model(first).parameters
    np.testing.assert_allclose(outcome.parameters, start + 3 * 8 / 6, rtol=1e-6)
    assert outcome.sites == ("site-0", "site-1", "site-2")
    arrays, metadata = read_model(folder.path)
    assert metadata["study_id"] == study.study_id
    assert sum(a.size for n, a in arrays.items() if not n.startswith("pre")) == PARAMETERS


def test_the_requests_hold_nothing_but_study_round_and_model(study, tmp_path):
    sites = ScriptedSites(3)
    coordinator, _, _ = _run(study, sites, tmp_path)
    coordinator.run(sites)
    for kind, content in sites.asked:
        allowed = {"header"} if kind == HELLO else {"header", "model", "fitted", "recipe"}
        assert set(content) == allowed


@pytest.mark.parametrize(
    "failure",
    [
        "its worker ended",
        "silent",
        RecordDict(),
        update_record(Update(delta=np.ones(5, np.float32), weight=1.0, counts=np.zeros(9))),
    ],
)
def test_a_site_that_fails_in_a_round_is_left_out_of_that_round_only(study, tmp_path, failure):
    def script(node, kind, group):
        return failure if (node, kind, group) == (1, TRAIN, 2) else None

    sites = ScriptedSites(3, script)
    coordinator, watcher, folder = _run(study, sites, tmp_path)
    outcome = coordinator.run(sites)
    assert [len(line.aggregated) for line in watcher.lines] == [3, 2, 3]
    assert [drop.site for drop in outcome.dropped] == ["site-1"]
    roster = [json.loads(line) for line in (folder.path / "roster.jsonl").read_text().splitlines()]
    assert [line["dropped"] == [] for line in roster] == [True, False, True]
    assert roster[1]["dropped"][0]["why"]


def given_up_in(*rounds):
    def script(node, kind, group):
        return "its disk is full" if node > 0 and kind == TRAIN and group in rounds else None

    return script


def test_below_the_minimum_a_round_is_given_up_and_the_next_one_starts(study, tmp_path):
    sites = ScriptedSites(3, given_up_in(2))
    coordinator, watcher, folder = _run(study, sites, tmp_path)
    outcome = coordinator.run(sites)
    assert [(one.round, "its disk is full" in one.why) for one in outcome.given_up] == [(2, True)]
    assert [line.round for line in watcher.lines] == [1, 2, 3]
    roster = [json.loads(line) for line in (folder.path / "roster.jsonl").read_text().splitlines()]
    assert [line["round"] for line in roster] == [1, 2, 3]
    # The model of round 3 is that of round 2: two moves of 8 / 6, and no third.
    sent = [read_global_model(content) for kind, content in sites.asked if kind == TRAIN]
    np.testing.assert_array_equal(sent[1].parameters, sent[2].parameters)
    np.testing.assert_allclose(outcome.parameters, sent[0].parameters + 2 * 8 / 6, rtol=1e-6)


def test_rounds_given_up_in_a_row_end_the_run_with_the_reason(study, tmp_path):
    study = parse_study(STUDY.replace("rounds = 3", "rounds = 9"), origin="test")
    sites = ScriptedSites(3, given_up_in(2, 4, 5, 6))
    coordinator, watcher, folder = _run(study, sites, tmp_path)
    with pytest.raises(NotEnoughSitesError, match=r"3 rounds in a row.*1 of 3 sites.*disk is full"):
        coordinator.run(sites)
    assert [line.round for line in watcher.lines] == [1, 2, 3, 4, 5, 6]
    assert len((folder.path / "roster.jsonl").read_text().splitlines()) == 6
    assert (folder.path / "checkpoints" / "latest.safetensors").is_file()
    assert not (folder.path / "model.safetensors").exists()


def test_a_run_in_which_no_round_moved_anything_has_failed(study, tmp_path):
    study = parse_study(STUDY.replace("rounds = 3", "rounds = 2"), origin="test")
    sites = ScriptedSites(3, given_up_in(1, 2))
    coordinator, _, folder = _run(study, sites, tmp_path)
    with pytest.raises(NotEnoughSitesError, match="2 rounds in a row"):
        coordinator.run(sites)
    assert not (folder.path / "model.safetensors").exists()


def test_a_second_node_of_one_name_and_an_old_version_are_left_out(study, tmp_path):
    def script(node, kind, group):
        if kind != HELLO or node < 2:
            return None
        name = "site-0" if node == 2 else "old"
        record = greeting_record(Greeting(site=name, software="0", shapes=((2,),)))
        record["greeting"]["protocol"] = 0 if node == 3 else record["greeting"]["protocol"]
        return record

    sites = ScriptedSites(4, script)
    coordinator, watcher, _ = _run(study, sites, tmp_path)
    outcome = coordinator.run(sites)
    assert outcome.sites == ("site-0", "site-1")
    reasons = {drop.site: drop.why for drop in watcher.absent}
    assert "second node" in reasons["site-0"]
    assert any("protocol version 0" in why for why in reasons.values())


def test_shapes_must_agree(study, tmp_path):
    def script(node, kind, group):
        if kind == HELLO and node == 2:
            return greeting_record(Greeting(site="z", software="0", shapes=((3,),)))
        return None

    sites = ScriptedSites(3, script)
    coordinator, watcher, _ = _run(study, sites, tmp_path)
    coordinator.run(sites)
    assert [(d.site, "shape 3" in d.why) for d in watcher.absent] == [("z", True)]


def test_the_same_seed_gives_the_same_first_model(study, tmp_path):
    models = []
    for number in range(2):
        sites = ScriptedSites(2)
        coordinator, _, _ = _run(study, sites, tmp_path / str(number))
        models.append(coordinator.run(sites).parameters)
    np.testing.assert_array_equal(models[0], models[1])


def test_a_run_folder_that_exists_is_refused(tmp_path):
    RunFolder.create(tmp_path / "run")
    with pytest.raises(RunFolderError, match="exists already"):
        RunFolder.create(tmp_path / "run")


def test_a_damaged_model_is_one_sentence(tmp_path):
    with pytest.raises(RunFolderError, match="no finished run"):
        read_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}garbage")
    with pytest.raises(RunFolderError, match="damaged"):
        read_model(tmp_path)


def test_nothing_is_half_written_when_the_disk_is_full(tmp_path, monkeypatch):
    folder = RunFolder.create(tmp_path / "run")
    folder.write_text("summary.json", "old")

    def full(self, *_args, **_keys):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(RunFolderError, match="No space left on device"):
        folder.write_text("summary.json", "new")
    assert (folder.path / "summary.json").read_bytes() == b"old"
    assert {p.name for p in folder.path.iterdir()} == {"summary.json", "checkpoints"}
