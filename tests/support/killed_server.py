"""A server that is killed anywhere, and the sites that a run of it asks before and after.

The sites answer a question that comes again as they did the first time, and would refuse it if it
came with another model: what a server forgets shows as a refusal, or as another final model.
"""

import hashlib
import os
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import secure_federation
from secure_federation import Federation

from wardround_server import run_folder
from wardround_server.coordinator import Coordinator
from wardround_server.exchange import Answer
from wardround_server.observer import Observer
from wardround_server.run_folder import STUDY, RunFolder
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
    read_header,
    read_model,
    request_digest,
    sums_record,
    update_record,
)
from wardround_shared.secure_aggregation import quantise
from wardround_shared.study import parse_study
from wardround_shared.vectors import sums_layout, sums_parts, update_layout, update_parts

TEXT = """
[study]
name = "killed"
task = "tabular-classification"
classes = ["absent", "present"]
[data]
source = "table"
table = ["*.csv"]
label = { column = "y" }
features = [{ column = "a" }, { column = "b" }]
[preprocessing]
steps = [{ name = "standardise" }]
[model]
name = "mlp"
hidden = [3]
[training]
rounds = 4
learning-rate = 0.1
average-last = 2
strategy = "fedadam"
server-learning-rate = 0.1
class-weights = "balanced"
[privacy]
mechanism = "none"
[aggregation]
secure = false
minimum-sites = 3
"""
COUNTS = counts_length(2)
SHAPES = ((2,),)


def study_of(*, secure: bool = False, **changes: str):
    text = TEXT.replace("secure = false", f"secure = {str(secure).lower()}")
    for name, value in changes.items():
        key = name.replace("_", "-")
        line = next(line for line in text.splitlines() if line.startswith(f"{key} = "))
        text = text.replace(line, f"{key} = {value}")
    return parse_study(text, origin="test")


class Killed(BaseException):
    """The process ends here; no `except Exception` hears of it."""


def _half(function, what, *arguments, **settings):
    """The step, half done: half of the bytes, or of the file."""
    if what == "write":
        handle, data = arguments
        return function(handle, data[: len(data) // 2])
    if what == "save_file":
        function(*arguments, **settings)
        file = Path(arguments[1])
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return None


STEPS = (
    (os, "write"),
    (os, "fsync"),
    (os, "truncate"),
    (Path, "replace"),
    (Path, "unlink"),
    (Path, "write_text"),
    (run_folder, "save_file"),
)
"""What a server does to its disk; it can be killed before, in the middle of and after each."""


class Moments:
    """The moments at which the server can be killed; counted from 1."""

    def __init__(self) -> None:
        self.passed = 0
        self.seen: list[str] = []
        self._kill_at: int | None = None

    def at(self, moment: str) -> None:
        self.seen.append(moment)
        self.passed += 1
        if self.passed == self._kill_at:
            raise Killed(moment)

    @contextmanager
    def killing(self, kill_at: int | None):
        """Within it, the server is killed at this moment; None: they are only counted."""

        def wrapped(name, function):
            def step(*arguments, **settings):
                self.at(f"before {name}")
                if name in {"write", "save_file"}:
                    try:
                        self.at(f"amid {name}")
                    except Killed:
                        _half(function, name, *arguments, **settings)
                        raise
                result = function(*arguments, **settings)
                self.at(f"after {name}")
                return result

            return step

        self.passed, self.seen, self._kill_at = 0, [], kill_at
        with ExitStack() as patched:
            for owner, name in STEPS:
                step = wrapped(name, getattr(owner, name))
                patched.enter_context(mock.patch.object(owner, name, step))
            try:
                yield self
            finally:
                self._kill_at = None


class Answers:
    """What the sites answer: it depends on site, question and model, and on nothing else."""

    def __init__(self) -> None:
        self.asked: dict[tuple[str, str, int], bytes] = {}
        self.times: list[tuple[str, str, int]] = []

    def refusal(self, site: str, message_type: str, content) -> str:
        """Why the question is refused: it came before with another model."""
        header = read_header(content)
        question = (site, message_type, header.round)
        digest = request_digest(message_type, header, read_model(content))
        self.times.append(question)
        known = self.asked.setdefault(question, digest)
        return "" if known == digest else "the same question with another model"

    def update(self, site: str, content) -> Update:
        random = _random(site, TRAIN, content)
        pull = -read_model(content).parameters * np.float32(random.uniform(0.1, 0.5))
        noise = random.normal(size=pull.size).astype(np.float32) * np.float32(0.1)
        weight = float(random.integers(1, 50))
        counts = self.sums(site, EVALUATE, content)
        return Update(delta=(pull + noise) * np.float32(weight), weight=weight, counts=counts)

    def sums(self, site: str, message_type: str, content) -> np.ndarray:
        random = _random(site, message_type, content)
        if message_type == EVALUATE:
            return random.integers(0, 9, COUNTS).astype(float)
        if message_type == CLASS_COUNTS:
            return random.integers(1, 99, 2).astype(float)
        return np.array([8.0, 8.0, *random.normal(size=2), *(8 + random.uniform(size=2))])


def _random(site: str, message_type: str, content) -> np.random.Generator:
    seed = hashlib.sha256(f"{site}/{message_type}/{read_header(content).round}".encode()).digest()
    return np.random.default_rng(list(seed))


class PlainSites:
    """An exchange with sites that answer in the clear.

    Attributes:
        away: sites that are not connected.
        fails: (site, message type, round) -> failure, or "" for silence; a test fills it.
    """

    def __init__(self, names=("east", "north", "west")) -> None:
        self.sites = names
        self.answers = Answers()
        self.away: set[str] = set()
        self.fails = lambda site, message_type, number: None
        self.tick = lambda what: None
        self._connected = 0
        self.names: dict[int, str] = {}
        self.connect()

    def connect(self) -> None:
        """All nodes get new numbers, as after a restart of the server or of theirs."""
        self._connected += 100
        # Not in the order of the names.
        self.names = {self._connected - n: site for n, site in enumerate(self.sites)}

    def nodes(self, *, at_least, deadline):
        return tuple(sorted(node for node, site in self.names.items() if site not in self.away))

    def ask(self, nodes, message_type, content, *, group, deadline):
        for node in nodes:
            site = self.names.get(node)
            if site is None or site in self.away:
                continue
            self.tick(f"before {message_type} at {site}")
            failure = self.fails(site, message_type, read_header(content).round)
            if failure == "":
                continue
            if failure is None and message_type != HELLO:
                failure = self.answers.refusal(site, message_type, content) or None
            if failure is not None:
                yield Answer(node_id=node, content=None, failure=failure)
                continue
            answer = Answer(node_id=node, content=self._right(site, message_type, content))
            self.tick(f"after {message_type} at {site}")
            yield answer

    def _right(self, site, message_type, content):
        if message_type == HELLO:
            return greeting_record(Greeting(site=site, software="0", shapes=SHAPES))
        if message_type == TRAIN:
            return update_record(self.answers.update(site, content))
        return sums_record(self.answers.sums(site, message_type, content))


class SecureSites(Federation):
    """An exchange with sites that answer under masks, from what each has on its disk."""

    def __init__(self, study, sites: int = 3) -> None:
        super().__init__(sites)
        self.cohort = secure_federation.Cohort(sites, run="run", study=study.study_id)
        self.names = dict(enumerate(self.cohort.names))
        self.study, self.answers = study, Answers()
        self._connected = 0

    def connect(self) -> None:
        """See `PlainSites.connect`."""
        self._connected += 100
        self.names = {self._connected - n: site for n, site in enumerate(self.cohort.names)}

    def nodes(self, *, at_least, deadline):
        return tuple(sorted(self.names))

    def ask(self, nodes, message_type, content, *, group, deadline):
        assert message_type == HELLO
        for node in nodes:
            self.tick(f"before {message_type}")
            greeting = Greeting(site=self.names[node], software="0", shapes=SHAPES)
            yield Answer(node_id=node, content=greeting_record(greeting))

    def _parts(self, name, message_type, content, received):
        self._content = content
        if "mask-request" in received:
            refused = self.answers.refusal(name, message_type, content)
            assert not refused, refused
            self._size = read_model(content).parameters.size
        return super()._parts(name, message_type, content, received)

    def _layout(self, message_type):
        sites = len(self.cohort.roster)
        if message_type == TRAIN:
            return update_layout(self.study, parameters=self._size, sites=sites)
        length = {CLASS_COUNTS: 2, STATISTICS: 6, EVALUATE: COUNTS}[message_type]
        return sums_layout(self.study, message_type, length=length, sites=sites)

    def _vector(self, name, message_type, number):
        if message_type == TRAIN:
            update = self.answers.update(name, self._content)
            delta = update.delta / np.float32(update.weight)
            counts, weight = update.counts, int(update.weight)
            parts = update_parts(self.study, delta=delta, weight=weight, counts=counts)
        else:
            values = self.answers.sums(name, message_type, self._content)
            parts = sums_parts(message_type, values)
        layout = self._layout(message_type)
        words = np.empty(layout.words, np.uint32)
        seed = hashlib.shake_256(f"{name}/{message_type}/{number}".encode())
        quantise(parts, layout, seed.digest, words)
        return words


class Watcher(Observer):
    """Keeps what it is told."""

    def __init__(self):
        self.opened_attempts, self.waits, self.lines, self.joins = [], [], [], []

    def joined(self, sites, absent):
        self.joins.append((tuple(sites), tuple(absent)))

    def opened(self, round_number, attempt, invited):
        self.opened_attempts.append((round_number, attempt, tuple(invited)))

    def waiting(self, round_number, sites, why):
        self.waits.append((round_number, dict(sites), why))

    def closed(self, line, metrics_before, seconds):
        self.lines.append(line)


class Server:
    """The runs of one folder, one process after the other."""

    def __init__(self, path: Path, study, sites, **settings) -> None:
        self.path, self.study, self.sites, self.settings = path, study, sites, settings
        self.watcher = Watcher()
        RunFolder.create(path, durable=True).write_text(STUDY, TEXT)

    def run(self):
        """A process that begins, or goes on."""
        self.sites.connect()
        cohort = getattr(self.sites, "cohort", None)
        coordinator = Coordinator(
            study=self.study,
            run="run",
            seed=1,
            folder=RunFolder.open(self.path, durable=True),
            observer=self.watcher,
            roster=None if cohort is None else cohort.roster,
            clock=lambda: 0.0,
            **({"pause": lambda seconds: None} | self.settings),
        )
        return coordinator.run(self.sites)

    def files(self) -> dict[str, bytes]:
        """What is left in the end."""
        return {
            name: (self.path / name).read_bytes()
            for name in ("model.safetensors", "rounds.jsonl", "roster.jsonl")
        }
