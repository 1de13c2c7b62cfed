"""A whole run at the server: greet, fit the preprocessing, train round by round, evaluate.

The coordinator holds the global model, one running sum of updates, and names of sites; never two
updates. After each sum it writes a checkpoint, so that it can be killed at any time: on a folder
that has one, `run` goes on from it and ends with the same model. P = model parameters, L = metric
counts, K = classes.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from flwr.app import RecordDict

from wardround_server.aggregation import Sum
from wardround_server.assembly import assemble
from wardround_server.attempts import Attempts
from wardround_server.attendance import Attendance, Everyone
from wardround_server.checkpoint import Checkpoints, Progress
from wardround_server.control import Control
from wardround_server.exchange import Exchange
from wardround_server.greeting import Joined
from wardround_server.initial_weights import start_from_
from wardround_server.last_models import LastModels
from wardround_server.named_parameters import NamedParameters
from wardround_server.observer import Metrics, Observer
from wardround_server.optimisers import Parameters, ServerOptimiser, server_optimiser
from wardround_server.plain_sums import PlainSums
from wardround_server.register import Register
from wardround_server.rounds import PRESENT, Dropped, GivenUp, RosterLine
from wardround_server.run_folder import ROUNDS, RunFolder
from wardround_server.secure_sums import SecureSums
from wardround_server.summation import Summation
from wardround_shared.errors import NotEnoughSitesError, PrivacyError
from wardround_shared.messages import (
    CLASS_COUNTS,
    EVALUATE,
    STATISTICS,
    Fitted,
    Floats,
    GlobalModel,
    Header,
    Shapes,
    model_record,
    sent_parameters,
)
from wardround_shared.models import flatten
from wardround_shared.network import build_network
from wardround_shared.preprocessing import Recipe
from wardround_shared.secure_aggregation.roster import Roster, Terms
from wardround_shared.study import Study
from wardround_shared.tasks import adversaries, task_of

MOST_GIVEN_UP = 3
"""Rounds in a row that may be given up; sites have paid for each of them in their ledgers."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a finished run knows.

    Attributes:
        metrics: of the final model, over all sites' validation splits.
        counts: float64 [L], the metric counts behind them.
        dropped: every drop of every round, after those of the other sums.
        given_up: rounds of training that moved nothing.
    """

    sites: tuple[str, ...]
    rounds: int
    parameters: Parameters
    fitted: Fitted
    metrics: Metrics
    counts: Floats
    dropped: tuple[Dropped, ...]
    given_up: tuple[GivenUp, ...]


class Coordinator:
    """Runs one study from the first message to the stored model."""

    def __init__(  # noqa: D417
        self,
        *,
        study: Study,
        run: str,
        seed: int,
        folder: RunFolder,
        observer: Observer,
        roster: Roster | None = None,
        clock: Callable[[], float] = time.monotonic,
        attendance_of: Callable[[Joined], Attendance] | None = None,
        pause: Callable[[float], None] = time.sleep,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Prepare a run, or to go on with one.

        Args:
            run: name of the run; goes into every message.
            seed: of the initial parameters.
            folder: of the run; one that is `durable` also keeps secure sums that are under way.
            roster: of the run; needed for secure aggregation. Where it is given, only its sites
                may take part.
            attendance_of: makes the attendance from the first greetings. Without one all sites
                that have greeted are asked each time and nobody is waited for, as in a simulation.
            pause: takes seconds between two attempts.
            should_stop: looked at between two sums and two attempts.
        """
        self._study = study
        self._run = run
        self._seed = seed
        self._folder = folder
        self._observer = observer
        self._roster = roster
        self._clock = clock
        self._attendance_of = attendance_of
        self._pause = pause
        self._should_stop = should_stop
        self._recipe = Recipe(study)
        self._classes = study.study.classes
        self._task = task_of(study)
        self._optimiser = self._server_optimiser()
        self._control = Control() if study.training.strategy == "scaffold" else None
        self._checkpoints = Checkpoints(folder, study=study, run=run, seed=seed)
        self._progress = Progress()
        self._register = Register(folder, self._progress, roster)
        self._names: NamedParameters
        self._last = LastModels(folder, study.training.average_last)
        self._summation: Summation
        self._attempts: Attempts

    def run(self, exchange: Exchange) -> Outcome:
        """Carry the study out, or go on with it where the folder's checkpoint has stopped.

        1. greet the sites, 2. make the first model, 3. sum what class weights and
        preprocessing need, 4. train `rounds` rounds, 5. store the final model, 6. evaluate it.
        A run that is complete is not asked for again: its outcome is read.

        Raises:
            NotEnoughSitesError: nobody is waited for, and too few sites at any other step than 4,
                or there in `MOST_GIVEN_UP` rounds in a row or in all rounds; or a sum is lost
                likewise. What was reached is on disk.
            StoppedError: it was told to stop.
            RunFolderError: the folder cannot be written, is in use, or is damaged.
        """
        with self._folder.claimed():
            begun = self._restore()
            if self._progress.counts is not None:
                self._last.remove_all()
                self._folder.sum_store().clear()
                return self._outcome(self._checkpoints.load_model(self._names))
            self._greet(exchange)
            if not begun:
                self._initialise()
            self._fit()
            self._train()
            return self._finish()

    # --- the steps ---------------------------------------------------------------------------

    def _restore(self) -> bool:
        """Take up the checkpoint, if there is one."""
        loaded = self._checkpoints.load(lambda shapes: NamedParameters(self._module(shapes)))
        if loaded is None:
            return False
        self._progress, self._names = loaded
        self._register = Register(self._folder, self._progress, self._roster)
        self._optimiser.restore(self._progress.optimiser)
        if self._control is not None:
            self._control.restore(self._progress.control, self._progress.counted)
        self._last = LastModels(
            self._folder, self._study.training.average_last, self._progress.averaged
        )
        # Whoever resumes a run that ended so gives it as many rounds again.
        if self._progress.in_a_row >= MOST_GIVEN_UP:
            self._progress.in_a_row = 0
        return True

    def _greet(self, exchange: Exchange) -> None:
        progress, study = self._progress, self._study.aggregation
        waits = self._attendance_of is not None
        joined = assemble(
            exchange,
            self._header(0),
            register=self._register,
            observer=self._observer,
            minimum=self._needed if waits else study.minimum_sites,
            deadline=study.deadline,
            shapes=progress.shapes,
            closed=self._roster is not None,
            finished=progress.finished,
            pause=self._pause if waits else None,
            should_stop=self._should_stop,
        )
        progress.shapes = joined.shapes
        self._register.there(joined.names.values())
        known = set(progress.dropped)
        progress.dropped += [drop for drop in joined.absent if drop not in known]
        self._attempts = Attempts(
            attendance=(self._attendance_of or _everyone)(joined),
            needed=self._needed,
            observer=self._observer,
            pause=self._pause,
            should_stop=self._should_stop,
        )
        self._summation = self._summation_over(exchange)

    def _initialise(self) -> None:
        module = self._module(self._progress.shapes)
        start_from_(module, self._folder)
        self._names = NamedParameters(module)
        self._progress.parameters = flatten(module).numpy()

    def _fit(self) -> None:
        """Class counts if the loss needs them, then the sums of each fitted preprocessing step."""
        progress = self._progress
        if self._study.training.class_weights == "balanced" and progress.class_counts is None:
            progress.class_counts = self._sums(CLASS_COUNTS, 0, len(self._classes))
            self._store()
        while len(progress.fitted) < len(self._recipe.needs_fit):
            length = self._recipe.statistics_length(progress.shapes, progress.fitted)
            sums = self._sums(STATISTICS, 0, length)
            progress.fitted = (*progress.fitted, self._recipe.fit(sums, progress.fitted))
            self._store()

    def _train(self) -> None:
        """All rounds; one that is given up leaves the model as it is and has used its number up."""
        progress, rounds = self._progress, self._study.training.rounds
        while progress.finished < rounds:
            number = progress.finished + 1
            try:
                self._train_round(number)
            except NotEnoughSitesError as error:
                self._give_up(number, error)
        if not self._last.rounds:
            raise NotEnoughSitesError(
                f"No round has moved the model, and so there is none: {progress.given_up[-1].why}"
            )

    def _give_up(self, number: int, error: NotEnoughSitesError) -> None:
        """Go on after a round without a sum.

        Raises:
            NotEnoughSitesError: it was the last of too many.
        """
        progress, rounds = self._progress, self._study.training.rounds
        progress.given_up.append(GivenUp(round=number, why=str(error)))
        progress.in_a_row += 1
        progress.finished = number
        self._store()
        in_a_row = progress.in_a_row
        if in_a_row == MOST_GIVEN_UP or (number == rounds and not self._last.rounds):
            what = "The round was" if rounds == 1 else f"{in_a_row} rounds in a row were"
            raise NotEnoughSitesError(f"{what} given up, and so is the run: {error}") from error

    def _train_round(self, number: int) -> None:
        started = self._clock()
        try:
            summed = self._updates(number)
        except NotEnoughSitesError:
            self._observer.closed(self._noted_line(), {}, self._clock() - started)
            raise
        line = self._noted_line()
        before = self._task.metrics(summed.counts)
        seconds = self._clock() - started
        self._folder.append_line(
            ROUNDS,
            {
                "round": number,
                "metrics": before,
                "invited": len(line.invited),
                "aggregated": summed.sites,
                "weight": summed.weight,
                "clamped": summed.clamped,
                "seconds": seconds,
            },
        )
        self._step(summed, line)
        del summed  # as large as the model
        self._last.add(number, self._progress.parameters)
        self._progress.finished, self._progress.in_a_row = number, 0
        self._store()
        self._observer.closed(line, before, seconds)

    def _finish(self) -> Outcome:
        """Store the model that is kept, and evaluate it."""
        last, rounds = self._progress.parameters, self._study.training.rounds
        self._progress.parameters = self._last.mean(last)
        self._checkpoints.save_model(self._progress, self._names)
        counts = self._sums(EVALUATE, rounds + 1, self._task.counts_length)
        self._progress.counts = counts
        outcome = self._outcome(self._progress.parameters)
        line = {"round": rounds + 1, "final": True, "metrics": outcome.metrics}
        self._folder.append_line(ROUNDS, line)
        self._progress.parameters = last
        self._store()
        self._last.remove_all()
        return outcome

    # --- their parts -------------------------------------------------------------------------

    @property
    def _needed(self) -> int:
        """Sites without which no sum is possible."""
        minimum = self._study.aggregation.minimum_sites
        return self._roster.threshold if self._secure and self._roster else minimum

    @property
    def _secure(self) -> bool:
        return self._study.aggregation.secure

    def _header(self, number: int) -> Header:
        return Header(study_id=self._study.study_id, run=self._run, round=number)

    def _module(self, shapes: Shapes) -> torch.nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            inputs = self._recipe.output_shapes(shapes)
            return build_network(self._study, inputs)

    def _server_optimiser(self) -> ServerOptimiser:
        """The study's, and where images are made the generator's training after it."""
        optimiser = server_optimiser(self._study.training)
        if self._study.study.kind != "generation":
            return optimiser
        from wardround_server.generator import WithGenerator  # noqa: PLC0415 - one task needs it

        return WithGenerator(
            optimiser,
            self._study.training,
            lambda: adversaries(self._module(self._progress.shapes)),
            self._seed,
        )

    def _request(self, number: int, *, training: bool = False) -> RecordDict:
        progress, control = self._progress, self._control if training else None
        counts = progress.class_counts
        model = GlobalModel(
            parameters=progress.parameters,
            fitted=progress.fitted,
            class_counts=np.zeros(len(self._classes)) if counts is None else counts,
            control=None if control is None else control.values(progress.parameters.size),
            counted={} if control is None else control.counted,
        )
        content = model_record(self._header(number), model)
        # The message is a copy; from here on it is the only one.
        progress.parameters = sent_parameters(content)
        return content

    def _updates(self, number: int) -> Sum:
        request = self._request(number, training=True)
        size = self._progress.parameters.size

        def question(invited: Mapping[int, str]) -> Sum:
            self._register.there(invited.values())
            return self._summation.updates(request, number, parameters=size, invited=invited)

        def failed(_: NotEnoughSitesError, __: Mapping[int, str]) -> Mapping[str, str]:
            return self._register.failed(self._last_line())

        earlier = self._register.attempts(number)
        return self._attempts.until_there(number, question, failed, earlier=earlier)

    def _sums(self, message_type: str, number: int, length: int) -> Floats:
        request = self._request(number)

        def question(invited: Mapping[int, str]) -> tuple[Floats, list[Dropped]]:
            self._register.there(invited.values())
            return self._summation.sums(
                message_type, request, number, length=length, invited=invited
            )

        def failed(error: NotEnoughSitesError, invited: Mapping[int, str]) -> dict[str, str]:
            return dict.fromkeys(invited.values(), str(error))

        sums, dropped = self._attempts.until_there(number, question, failed)
        missed = {drop.site: drop.why for drop in dropped if drop.why not in PRESENT}
        self._attempts.attendance.missed(missed)
        self._progress.dropped += dropped
        return sums

    def _noted_line(self) -> RosterLine:
        """Who took part in the round that has just ended; written to the run folder."""
        line, missed = self._register.ended(self._last_line())
        self._attempts.attendance.missed(missed)
        return line

    def _last_line(self) -> RosterLine:
        line = self._summation.roster_line
        assert line is not None
        return line

    def _summation_over(self, exchange: Exchange) -> Summation:
        if not self._secure:
            return PlainSums(study=self._study, exchange=exchange, observer=self._observer)
        if self._roster is None:
            raise PrivacyError("There is no roster, so that nothing can be summed securely.")
        terms = Terms(study_id=self._study.study_id, run=self._run, roster=self._roster)
        return SecureSums(
            study=self._study,
            terms=terms,
            exchange=exchange,
            observer=self._observer,
            store=self._folder.sum_store() if self._folder.durable else None,
            should_stop=self._should_stop,
        )

    def _step(self, summed: Sum, line: RosterLine) -> None:
        if summed.weight > 0:
            self._follow(summed, line)
            mean_delta = summed.delta / summed.weight
            self._progress.parameters = self._optimiser.step(self._progress.parameters, mean_delta)

    def _follow(self, summed: Sum, line: RosterLine) -> None:
        """Move the control variate, if the strategy has one, as those of the sites have moved."""
        training = self._study.training
        if self._control is not None and training.local_steps is not None:
            self._control.add(
                summed.delta,
                weight=summed.weight,
                moved=training.local_steps * training.rate_in(line.round),
                number=line.round,
                sites=line.aggregated,
            )

    def _store(self) -> None:
        """Write the checkpoint; what only led up to it is forgotten."""
        self._progress.optimiser = self._optimiser.state()
        if self._control is not None:
            self._progress.control = self._control.state()
            self._progress.counted = self._control.counted
        self._progress.averaged = self._last.rounds
        self._checkpoints.save(self._progress, self._names)
        self._last.remove_others()
        self._summation.settled()

    def _outcome(self, parameters: Parameters) -> Outcome:
        counts = self._progress.counts
        assert counts is not None
        return Outcome(
            sites=self._progress.sites,
            rounds=self._study.training.rounds,
            parameters=parameters,
            fitted=self._progress.fitted,
            metrics=self._task.metrics(counts),
            counts=counts,
            dropped=self._register.dropped(),
            given_up=tuple(self._progress.given_up),
        )


def _everyone(joined: Joined) -> Attendance:
    return Everyone(joined.names)


def as_json(outcome: Outcome) -> dict[str, Any]:
    """The parts of an outcome that stand in `summary.json`."""
    return {
        "sites": len(outcome.sites),
        "rounds": outcome.rounds,
        "metrics": outcome.metrics,
        "dropped": [dataclasses.asdict(drop) for drop in outcome.dropped],
        "given_up": [dataclasses.asdict(one) for one in outcome.given_up],
    }
