"""Answering requests that may take long: the server always has a word soon.

One thread works, in the order of arrival; the caller waits a moment for the answer, and says how
far it is otherwise.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late

from flwr.app import Message, RecordDict

from wardround_client.daemon.outbox import Outbox
from wardround_client.refusals import reason_of
from wardround_shared.delivery import (
    COLLECT,
    HOLD_SECONDS,
    Working,
    carried,
    opened,
    unknown_record,
    working_record,
)
from wardround_shared.errors import ProtocolError

Answerer = Callable[[str, RecordDict], RecordDict]
"""Type and content of a request -> content of its answer."""

_BEAT_SECONDS = 5.0
"""Between two signs of movement."""

_REMEMBERED = 2
"""Answers kept in memory; older ones are on disk."""


class Refusal(Exception):  # noqa: N818 - it is an answer
    """The request is answered with a reason instead of content."""


class Tickets:
    """Requests in, answers out, one at a time."""

    def __init__(
        self,
        answerer: Answerer,
        outbox: Outbox,
        *,
        site: str,
        hold: float = HOLD_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Answer with `answerer`.

        Args:
            answerer: forms the answer to a request, and raises what goes wrong.
            outbox: keeps answers before they are sent.
            site: its name, for the log.
            hold: seconds to wait for an answer before saying that it is at work.
            clock: in seconds.
        """
        self._answerer = answerer
        self._outbox = outbox
        self._site = site
        self._hold = hold
        self._clock = clock
        self._beaten = clock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="work")
        self._jobs: OrderedDict[str, Future[RecordDict]] = OrderedDict()
        self._working = Working(stage="waiting", done=0, total=0)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Note how far the work is; from any thread.

        The server learns that something moves, every few seconds at most: numbers or shares of
        steps would tell how many patients a site has.
        """
        now = self._clock()
        if stage != self._working.stage:
            self._working, self._beaten = Working(stage=stage, done=0, total=0), now
        elif now - self._beaten >= _BEAT_SECONDS:
            self._working = Working(stage=stage, done=self._working.done + 1, total=0)
            self._beaten = now

    def answer(self, message: Message) -> RecordDict:
        """The answer to a message, or how far it is.

        Raises:
            Refusal: with the reason that goes to the server.
        """
        try:
            ticket, content = opened(message.content)
        except ProtocolError as error:
            raise Refusal(str(error)) from error
        return carried(self._answer(ticket, message.metadata.message_type, content), ticket)

    @property
    def busy(self) -> bool:
        """Whether there is work under way."""
        return any(not job.done() for job in self._jobs.values())

    def close(self) -> None:
        """Wait for nothing: what is unfinished is done again after the next start."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _answer(self, ticket: str, kind: str, content: RecordDict) -> RecordDict:
        job = self._jobs.get(ticket)
        if job is None:
            kept = self._outbox.find(ticket)
            if kept is not None:
                return kept
            if kind == COLLECT:
                return unknown_record()
            job = self._begin(ticket, kind, content)
        try:
            return job.result(timeout=self._hold)
        except Exception as error:  # whatever fails here, the server gets a reason
            # Work may fail with a TimeoutError too, which is not that of the waiting.
            if isinstance(error, Late) and not (job.done() and job.exception() is error):
                return working_record(self._working)
            raise Refusal(reason_of(error, site=self._site)) from error

    def _begin(self, ticket: str, kind: str, content: RecordDict) -> Future[RecordDict]:
        job = self._thread.submit(self._work, ticket, kind, content)
        self._jobs[ticket] = job
        while len(self._jobs) > _REMEMBERED:
            oldest = next(iter(self._jobs))
            if not self._jobs[oldest].done():
                break
            del self._jobs[oldest]
        return job

    def _work(self, ticket: str, kind: str, content: RecordDict) -> RecordDict:
        self._working = Working(stage="working", done=0, total=0)
        formed = self._answerer(kind, content)
        self._outbox.put(ticket, formed)
        return formed
