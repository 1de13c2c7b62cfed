"""A whole run at the server: greet, fit the preprocessing, train round by round, evaluate.

The coordinator holds the global model, one running sum, and names of sites; never two updates.
P = model parameters, L = metric counts, K = classes.
"""

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from wardround_server.aggregation import RunningSum, Sum
from wardround_server.exchange import Answer, Exchange
from wardround_server.optimisers import Parameters, server_optimiser
from wardround_server.rounds import Dropped, RosterLine, Round
from wardround_server.run_folder import CHECKPOINT, MODEL, ROUNDS, RunFolder
from wardround_shared import __version__
from wardround_shared.errors import NotEnoughSitesError, ProtocolError
from wardround_shared.evaluation import counts_length, metrics
from wardround_shared.messages import (
    CLASS_COUNTS,
    EVALUATE,
    HELLO,
    STATISTICS,
    TRAIN,
    Fitted,
    Floats,
    GlobalModel,
    Greeting,
    Header,
    Shapes,
    header_record,
    model_record,
    read_greeting,
    read_sums,
    read_update,
    shapes_text,
)
from wardround_shared.models import build_model, flatten, unflatten_
from wardround_shared.preprocessing import Recipe
from wardround_shared.study import Study

Metrics = dict[str, Any]


class Observer(Protocol):
    """Who watches a run: a progress bar, plain lines, or a daemon's status."""

    def joined(self, sites: Sequence[str], absent: Sequence[Dropped]) -> None:
        """The sites that answered the first message, and those that did not."""

    def answered(self, round_number: int, site: str, failure: str) -> None:
        """A site answered in a round; `failure` is empty if all is well."""

    def closed(self, line: RosterLine, metrics_before: Metrics, seconds: float) -> None:
        """A round is over; the metrics describe the model that it started from."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a finished run knows.

    Attributes:
        metrics: of the final model, over all sites' validation splits.
        counts: float64 [L], the metric counts behind them.
        dropped: every drop of every round.
    """

    sites: tuple[str, ...]
    rounds: int
    parameters: Parameters
    fitted: Fitted
    metrics: Metrics
    counts: Floats
    dropped: tuple[Dropped, ...]


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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare a run.

        Args:
            run: name of the run; goes into every message.
            seed: of the initial parameters.
        """
        self._study = study
        self._run = run
        self._folder = folder
        self._observer = observer
        self._clock = clock
        self._seed = seed
        self._recipe = Recipe(study)
        self._classes = study.study.classes
        # Known once the sites have said what their examples look like.
        self._shapes: Shapes = ()
        self._module = torch.nn.Module()
        self._parameters: Parameters = np.zeros(0, np.float32)
        self._latest: deque[Parameters] = deque(maxlen=study.training.average_last)
        self._optimiser = server_optimiser(study.training)
        self._fitted: Fitted = ()
        self._class_counts: Floats = np.zeros(len(self._classes))
        self._dropped: list[Dropped] = []
        self._names: dict[int, str] = {}

    def run(self, exchange: Exchange) -> Outcome:
        """Carry the study out.

        1. greet the sites, 2. make the first model, 3. sum class counts and what the
        preprocessing needs, 4. train `rounds` rounds, 5. evaluate the final model, 6. store it.

        Raises:
            NotEnoughSitesError: too few sites at any step; what was reached is on disk.
        """
        self._greet(exchange)
        self._initialise()
        self._fit(exchange)
        rounds = self._study.training.rounds
        for number in range(1, rounds + 1):
            self._train(exchange, number)
        self._parameters = np.mean(np.stack(self._latest), axis=0, dtype=np.float64).astype("f4")
        counts = self._evaluate(exchange, rounds + 1)
        final = metrics(counts, self._classes)
        self._folder.append_line(ROUNDS, {"round": rounds + 1, "final": True, "metrics": final})
        self._store(MODEL)
        return Outcome(
            sites=tuple(self._names.values()),
            rounds=rounds,
            parameters=self._parameters,
            fitted=self._fitted,
            metrics=final,
            counts=counts,
            dropped=tuple(self._dropped),
        )

    # --- the steps ---------------------------------------------------------------------------

    def _greet(self, exchange: Exchange) -> None:
        minimum = self._study.aggregation.minimum_sites
        deadline = self._study.aggregation.deadline
        nodes = exchange.nodes(at_least=minimum, deadline=deadline)
        absent: list[Dropped] = []
        greetings: dict[int, Greeting] = {}
        content = header_record(self._header(0))
        for answer in exchange.ask(nodes, HELLO, content, group="0", deadline=deadline):
            if answer.content is None:
                absent.append(Dropped(site=f"node {answer.node_id}", why=answer.failure))
                continue
            try:
                greeting = read_greeting(answer.content)
            except ProtocolError as error:
                absent.append(Dropped(site=f"node {answer.node_id}", why=str(error)))
                continue
            greetings[answer.node_id] = greeting
        for node_id, greeting in sorted(greetings.items(), key=lambda item: item[1].site):
            self._shapes = self._shapes or greeting.shapes
            if greeting.site in self._names.values():
                absent.append(Dropped(site=greeting.site, why="a second node has this name"))
            elif greeting.shapes != self._shapes:
                why = (
                    f"its examples have the shape {shapes_text(greeting.shapes)}, "
                    f"others {shapes_text(self._shapes)}"
                )
                absent.append(Dropped(site=greeting.site, why=why))
            else:
                self._names[node_id] = greeting.site
        self._dropped += absent
        self._observer.joined(tuple(self._names.values()), absent)
        if len(self._names) < minimum:
            why = "; ".join(f"{drop.site}: {drop.why}" for drop in absent)
            raise NotEnoughSitesError(
                f"{len(self._names)} sites answered, the study needs {minimum} "
                f"(aggregation.minimum-sites). {why}".rstrip()
            )

    def _initialise(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            shapes = self._recipe.output_shapes(self._shapes)
            self._module = build_model(self._study.model, shapes, len(self._classes))
        self._parameters = flatten(self._module).numpy()

    def _fit(self, exchange: Exchange) -> None:
        """Class counts first, then the sums that each fitted preprocessing step needs."""
        self._class_counts = self._summed(exchange, CLASS_COUNTS, 0, len(self._classes))
        for _ in self._recipe.needs_fit:
            length = self._recipe.statistics_length(self._shapes, self._fitted)
            sums = self._summed(exchange, STATISTICS, 0, length)
            self._fitted = (*self._fitted, self._recipe.fit(sums, self._fitted))

    def _train(self, exchange: Exchange, number: int) -> None:
        started = self._clock()
        invited = tuple(self._names.values())
        current = Round(
            number=number,
            invited=invited,
            minimum_sites=self._study.aggregation.minimum_sites,
            running_sum=self._running_sum(),
        )
        for site, answer in self._answers(exchange, TRAIN, number):
            failure = self._take(current, site, answer)
            self._observer.answered(number, site, failure)
        try:
            summed = current.close()
        finally:
            line = current.roster_line()
            self._folder.append_roster(line)
            self._dropped += line.dropped
        self._step(summed)
        before = metrics(summed.counts, self._classes)
        seconds = self._clock() - started
        self._folder.append_line(
            ROUNDS,
            {
                "round": number,
                "metrics": before,
                "invited": len(invited),
                "aggregated": summed.sites,
                "weight": summed.weight,
                "seconds": seconds,
            },
        )
        self._store(CHECKPOINT)
        self._observer.closed(line, before, seconds)

    def _evaluate(self, exchange: Exchange, number: int) -> Floats:
        return self._summed(exchange, EVALUATE, number, counts_length(len(self._classes)))

    # --- their parts -------------------------------------------------------------------------

    def _header(self, number: int) -> Header:
        return Header(study_id=self._study.study_id, run=self._run, round=number)

    def _answers(
        self, exchange: Exchange, message_type: str, number: int
    ) -> Iterator[tuple[str, Answer]]:
        model = GlobalModel(
            parameters=self._parameters, fitted=self._fitted, class_counts=self._class_counts
        )
        content = model_record(self._header(number), model)
        nodes = tuple(self._names)
        deadline = self._study.aggregation.deadline
        for answer in exchange.ask(
            nodes, message_type, content, group=str(number), deadline=deadline
        ):
            yield self._names[answer.node_id], answer

    def _running_sum(self) -> RunningSum:
        return RunningSum(
            parameters=self._parameters.size,
            counts=counts_length(len(self._classes)),
            sites=len(self._names),
        )

    @staticmethod
    def _take(current: Round, site: str, answer: Answer) -> str:
        """Add an answer to the round; returns why not, or nothing."""
        if answer.content is None:
            current.drop(site, answer.failure)
            return answer.failure
        try:
            update = read_update(answer.content)
        except ProtocolError as error:
            current.drop(site, str(error))
            return str(error)
        current.add(site, update)
        return next((d.why for d in current.roster_line().dropped if d.site == site), "")

    def _step(self, summed: Sum) -> None:
        if summed.weight > 0:
            mean_delta = summed.delta / summed.weight
            self._parameters = self._optimiser.step(self._parameters, mean_delta)
        self._latest.append(self._parameters)

    def _summed(self, exchange: Exchange, message_type: str, number: int, length: int) -> Floats:
        """Sum of what every site answers: statistics or metric counts, float64 [length]."""
        total = np.zeros(length)
        failures: dict[str, str] = dict.fromkeys(self._names.values(), "no answer in time")
        sums: dict[str, Floats] = {}
        for site, answer in self._answers(exchange, message_type, number):
            if answer.content is None:
                failures[site] = answer.failure
                continue
            try:
                values = read_sums(answer.content)
            except ProtocolError as error:
                failures[site] = str(error)
                continue
            if values.shape != (length,):
                failures[site] = f"{values.size} sums instead of {length}"
                continue
            sums[site] = values
            failures.pop(site)
        self._dropped += [Dropped(site=site, why=why) for site, why in failures.items()]
        if len(sums) < self._study.aggregation.minimum_sites:
            why = "; ".join(f"{site}: {reason}" for site, reason in failures.items())
            raise NotEnoughSitesError(
                f"{len(sums)} of {len(self._names)} sites answered {message_type}, the study needs "
                f"{self._study.aggregation.minimum_sites} (aggregation.minimum-sites). {why}"
            )
        for site in sorted(sums):  # a fixed order: floating-point sums depend on it
            total += sums[site]
        return total

    def _store(self, name: str) -> None:
        """Write the model (named parameters) with everything needed to use it elsewhere."""
        unflatten_(self._module, torch.from_numpy(self._parameters))
        arrays = {key: value.detach().numpy() for key, value in self._module.state_dict().items()}
        for step, constants in enumerate(self._fitted):
            for key, value in constants.items():
                arrays[f"preprocessing.{step}.{key}"] = np.asarray(value)
        if name == CHECKPOINT:
            arrays |= {f"optimiser.{k}": v for k, v in self._optimiser.state().items()}
        metadata = {
            "study": self._study.study.name,
            "study_id": self._study.study_id,
            "classes": "\n".join(self._classes),
            "shapes": shapes_text(self._shapes),
            "fitted_steps": str(len(self._fitted)),
            "software": __version__,
        }
        self._folder.write_arrays(name, arrays, metadata)


def as_json(outcome: Outcome) -> dict[str, Any]:
    """The parts of an outcome that stand in `summary.json`."""
    return {
        "sites": len(outcome.sites),
        "rounds": outcome.rounds,
        "metrics": outcome.metrics,
        "dropped": [dataclasses.asdict(drop) for drop in outcome.dropped],
    }
