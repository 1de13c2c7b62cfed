"""A whole run at the server: greet, fit the preprocessing, train round by round, evaluate.

The coordinator holds the global model, one running sum of updates, and names of sites; never two
updates.
P = model parameters, L = metric counts, K = classes.
"""

import dataclasses
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from flwr.app import RecordDict

from wardround_server.aggregation import Sum
from wardround_server.exchange import Exchange
from wardround_server.greeting import greet
from wardround_server.observer import Metrics, Observer
from wardround_server.optimisers import Parameters, server_optimiser
from wardround_server.plain_sums import PlainSums
from wardround_server.rounds import Dropped, GivenUp, RosterLine
from wardround_server.run_folder import CHECKPOINT, MODEL, ROUNDS, RunFolder
from wardround_server.secure_sums import SecureSums
from wardround_server.summation import Summation
from wardround_shared import __version__
from wardround_shared.errors import NotEnoughSitesError, PrivacyError
from wardround_shared.evaluation import counts_length, metrics
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
    shapes_text,
)
from wardround_shared.models import build_model, flatten, unflatten_
from wardround_shared.preprocessing import Recipe
from wardround_shared.secure_aggregation.roster import Roster, Terms
from wardround_shared.study import Study

MOST_GIVEN_UP = 3
"""Rounds in a row that may be given up; sites have paid for each of them in their ledgers."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a finished run knows.

    Attributes:
        metrics: of the final model, over all sites' validation splits.
        counts: float64 [L], the metric counts behind them.
        dropped: every drop of every round.
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
    ) -> None:
        """Prepare a run.

        Args:
            run: name of the run; goes into every message.
            seed: of the initial parameters.
            roster: of the run; needed for secure aggregation.
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
        self._given_up: list[GivenUp] = []
        self._names: dict[int, str] = {}
        self._roster = roster
        self._summation: Summation

    def run(self, exchange: Exchange) -> Outcome:
        """Carry the study out.

        1. greet the sites, 2. make the first model, 3. sum what class weights and
        preprocessing need, 4. train `rounds` rounds, 5. store the final model, 6. evaluate it.

        Raises:
            NotEnoughSitesError: too few sites at any other step than 4, or there in
                `MOST_GIVEN_UP` rounds in a row or in all rounds; what was reached is on disk.
        """
        self._greet(exchange)
        self._initialise()
        self._fit()
        self._train()
        self._parameters = np.mean(np.stack(self._latest), axis=0, dtype=np.float64).astype("f4")
        self._store(MODEL)
        rounds = self._study.training.rounds
        counts = self._sums(EVALUATE, rounds + 1, counts_length(len(self._classes)))
        final = metrics(counts, self._classes)
        self._folder.append_line(ROUNDS, {"round": rounds + 1, "final": True, "metrics": final})
        return Outcome(
            sites=tuple(self._names.values()),
            rounds=rounds,
            parameters=self._parameters,
            fitted=self._fitted,
            metrics=final,
            counts=counts,
            dropped=tuple(self._dropped),
            given_up=tuple(self._given_up),
        )

    # --- the steps ---------------------------------------------------------------------------

    def _greet(self, exchange: Exchange) -> None:
        minimum = self._study.aggregation.minimum_sites
        joined = greet(
            exchange,
            self._header(0),
            minimum_sites=minimum,
            deadline=self._study.aggregation.deadline,
        )
        self._shapes = joined.shapes
        self._names = dict(joined.names)
        self._dropped += joined.absent
        self._observer.joined(tuple(self._names.values()), joined.absent)
        if len(self._names) < minimum:
            why = "; ".join(f"{drop.site}: {drop.why}" for drop in joined.absent)
            raise NotEnoughSitesError(
                f"{len(self._names)} sites answered, the study needs {minimum} "
                f"(aggregation.minimum-sites). {why}".rstrip()
            )
        self._summation = self._summation_over(exchange)

    def _initialise(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            shapes = self._recipe.output_shapes(self._shapes)
            self._module = build_model(self._study.model, shapes, len(self._classes))
        self._parameters = flatten(self._module).numpy()

    def _fit(self) -> None:
        """Class counts if the loss needs them, then the sums of each fitted preprocessing step."""
        if self._study.training.class_weights == "balanced":
            self._class_counts = self._sums(CLASS_COUNTS, 0, len(self._classes))
        for _ in self._recipe.needs_fit:
            length = self._recipe.statistics_length(self._shapes, self._fitted)
            sums = self._sums(STATISTICS, 0, length)
            self._fitted = (*self._fitted, self._recipe.fit(sums, self._fitted))

    def _train(self) -> None:
        """All rounds; one that is given up leaves the model as it is and has used its number up."""
        rounds, in_a_row = self._study.training.rounds, 0
        for number in range(1, rounds + 1):
            try:
                self._train_round(number)
            except NotEnoughSitesError as error:
                in_a_row += 1
                self._given_up.append(GivenUp(round=number, why=str(error)))
                if in_a_row == MOST_GIVEN_UP or (number == rounds and not self._latest):
                    what = "The round was" if rounds == 1 else f"{in_a_row} rounds in a row were"
                    raise NotEnoughSitesError(
                        f"{what} given up, and so is the run: {error}"
                    ) from error
            else:
                in_a_row = 0

    def _train_round(self, number: int) -> None:
        started = self._clock()
        try:
            summed = self._summation.updates(
                self._request(number), number, parameters=self._parameters.size
            )
        except NotEnoughSitesError:
            self._observer.closed(self._noted_line(), {}, self._clock() - started)
            raise
        line = self._noted_line()
        self._step(summed)
        before = metrics(summed.counts, self._classes)
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
        self._store(CHECKPOINT)
        self._observer.closed(line, before, seconds)

    def _noted_line(self) -> RosterLine:
        """Who took part in the round that has just ended; written to the run folder."""
        line = self._summation.roster_line
        assert line is not None
        self._folder.append_roster(line)
        self._dropped += line.dropped
        return line

    # --- their parts -------------------------------------------------------------------------

    def _header(self, number: int) -> Header:
        return Header(study_id=self._study.study_id, run=self._run, round=number)

    def _request(self, number: int) -> RecordDict:
        model = GlobalModel(
            parameters=self._parameters, fitted=self._fitted, class_counts=self._class_counts
        )
        return model_record(self._header(number), model)

    def _sums(self, message_type: str, number: int, length: int) -> Floats:
        sums, dropped = self._summation.sums(
            message_type, self._request(number), number, length=length
        )
        self._dropped += dropped
        return sums

    def _summation_over(self, exchange: Exchange) -> Summation:
        if not self._study.aggregation.secure:
            return PlainSums(
                study=self._study, exchange=exchange, names=self._names, observer=self._observer
            )
        if self._roster is None:
            raise PrivacyError("There is no roster, so that nothing can be summed securely.")
        terms = Terms(study_id=self._study.study_id, run=self._run, roster=self._roster)
        return SecureSums(
            study=self._study,
            terms=terms,
            exchange=exchange,
            names=self._names,
            observer=self._observer,
        )

    def _step(self, summed: Sum) -> None:
        if summed.weight > 0:
            mean_delta = summed.delta / summed.weight
            self._parameters = self._optimiser.step(self._parameters, mean_delta)
        self._latest.append(self._parameters)

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
        "given_up": [dataclasses.asdict(one) for one in outcome.given_up],
    }
