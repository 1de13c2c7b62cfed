"""What a study may spend at one site: the plan, solved once, and its rounds, taken off the ledger.

The plan lies in the state of the run, so that it need not be solved again; it says nothing about
what was spent. That is in the site's ledger, on disk before a round is trained.
"""

import math
from dataclasses import dataclass

import numpy as np
from flwr.app import ConfigRecord

from wardround_client.cohort import Cohort
from wardround_client.ledger import Ledger, Purpose
from wardround_client.policy import Policy
from wardround_client.run_state import RunState
from wardround_shared.errors import BudgetError, PrivacyError
from wardround_shared.messages import Header
from wardround_shared.privacy.accounting import (
    SampledGaussian,
    noise_multiplier_for,
    require_reachable,
)
from wardround_shared.study import Study

_KEY = "privacy-plan"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """DP-SGD as planned for one site and the whole study.

    Attributes:
        units: patients or records (`privacy.unit`) in the site's training split.
        sample_rate: probability with which each of them is in a step (Poisson sampling).
        steps_per_round: steps of one round, those of the site's own model among them.
        planned_steps: steps of all rounds, and of the fine-tuning after them.
        noise_multiplier: noise standard deviation over the clipping norm.
        fine_tune_steps: steps of the site's own training after the last round.
        own_steps_per_round: of those of a round, how many train the site's own model (ditto).
    """

    units: int
    sample_rate: float
    steps_per_round: int
    planned_steps: int
    noise_multiplier: float
    fine_tune_steps: int = 0
    own_steps_per_round: int = 0

    @property
    def round_cost(self) -> SampledGaussian:
        """What one round spends."""
        return self._cost(self.steps_per_round)

    @property
    def fine_tune_cost(self) -> SampledGaussian:
        """What the site's own training after the last round spends."""
        return self._cost(self.fine_tune_steps)

    def cost_after(self, rounds: int) -> SampledGaussian:
        """What is still to be spent after so many rounds; after none of them, the whole."""
        return self._cost(self.planned_steps - rounds * self.steps_per_round)

    def _cost(self, steps: int) -> SampledGaussian:
        return SampledGaussian(
            noise_multiplier=self.noise_multiplier, sample_rate=self.sample_rate, steps=steps
        )


def charged_unit(study: Study) -> str:
    """The unit that the ledger is charged by.

    Without a patient key each record passes for a patient, and a bound for patients it is not.
    """
    return study.privacy.unit if study.data.names_patients else "record"


def units_of(study: Study, cohort: Cohort) -> int:
    """Number of patients, or records, in the cohort's training split: what the plan protects."""
    if study.privacy.unit == "patient":
        return len(np.unique(cohort.patients[cohort.train]))
    return len(cohort.train)


def plan(study: Study, units: int) -> Plan:
    """Solve the noise once, so that all that is planned together costs the study's epsilon.

    That is every round, and all training of the site's own model, in the rounds or after them.

    Args:
        study: with a private mechanism.
        units: number of training patients, or records, at the site (`units_of`).

    Raises:
        PrivacyError: no noise reaches the study's epsilon.
    """
    privacy = study.privacy
    sample_rate, steps_per_round, fine_tune_steps = _sampling(study, units)
    planned = steps_per_round * study.training.rounds + fine_tune_steps
    return Plan(
        units=units,
        sample_rate=sample_rate,
        steps_per_round=steps_per_round,
        planned_steps=planned,
        noise_multiplier=noise_multiplier_for(
            epsilon=privacy.epsilon, delta=privacy.delta, sample_rate=sample_rate, steps=planned
        ),
        fine_tune_steps=fine_tune_steps,
        # The own model takes as many steps in a round as the shared one.
        own_steps_per_round=steps_per_round // 2 if _trains_two(study) else 0,
    )


def require_plan(study: Study, units: int) -> None:
    """Refuse a study that `plan` would refuse, without solving the noise; arguments as there.

    Raises:
        PrivacyError: no noise reaches the study's epsilon.
    """
    sample_rate, steps_per_round, fine_tune_steps = _sampling(study, units)
    require_reachable(
        epsilon=study.privacy.epsilon,
        delta=study.privacy.delta,
        sample_rate=sample_rate,
        steps=steps_per_round * study.training.rounds + fine_tune_steps,
    )


def _sampling(study: Study, units: int) -> tuple[float, int, int]:
    """Sample rate, steps of one round, and of the fine-tuning after the last one."""
    sample_rate = min(1.0, study.training.batch_size / max(units, 1))
    epoch = math.ceil(1 / sample_rate)
    models = 2 if _trains_two(study) else 1
    return (
        sample_rate,
        (study.training.local_steps or study.training.local_epochs * epoch) * models,
        study.personal.fine_tune_epochs * epoch,
    )


def _trains_two(study: Study) -> bool:
    """Whether a round trains the site's own model beside the shared one."""
    return study.personal.ditto is not None


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """A round that is paid for.

    Attributes:
        steps: of the shared model, or of the fine-tuning.
        own_steps: of the site's own model beside it (ditto).
        number: of its row in the ledger.
    """

    plan: Plan
    steps: int
    own_steps: int
    number: int


class Account:
    """One study's way to the ledger of one site."""

    def __init__(
        self, *, study: Study, cohort: Cohort, ledger: Ledger, policy: Policy, data_set: str
    ) -> None:
        """An account of a private study.

        Args:
            study: with a private mechanism.
            cohort: the site's.
            ledger: the site's.
            policy: the site's; says which population the data set belongs to, and its cap.
            data_set: name of what the cohort was made from.
        """
        self._study = study
        self._units = units_of(study, cohort)
        self._ledger = ledger
        self._cap = policy.cap_of(data_set)
        self._population = policy.population_of(data_set)
        self._data_set = data_set

    def admit(self, state: RunState, run: str) -> None:
        """Refuse a study whose plan does not fit into what is left, before anything is trained.

        Args:
            state: of the run; keeps the plan.
            run: what was reserved for it already is not asked for again.

        Raises:
            BudgetError: it does not.
            PrivacyError: no noise reaches the study's epsilon, or the ledger is not sound.
        """
        planned = self._plan(state)
        paid = [
            entry.purpose.round
            for entry in self._ledger.entries()
            if entry.purpose.run == run and entry.purpose.study_id == self._study.study_id
        ]
        left = planned.cost_after(len(paid))
        if not left.steps or max(paid, default=0) > self._study.training.rounds:
            return
        self._ledger.require_room(
            left,
            data_set=self._data_set,
            population=self._population,
            unit=charged_unit(self._study),
            cap=self._cap,
        )

    def reserve(self, state: RunState, header: Header, *, take_up: bool = False) -> Reservation:
        """Pay for one round; on disk when this returns, whatever becomes of the training.

        The number after the last round's is that of the fine-tuning, if the study has it.

        Args:
            state: of the run; keeps the plan.
            header: of the request.
            take_up: whether what was paid for this round before will do, if its training broke off
                (see `Ledger.reserve`).

        Raises:
            BudgetError: the round is not in the plan, was paid for before, or passes the cap.
            PrivacyError: the cohort has changed, or the ledger is not sound or cannot be written.
        """
        planned, rounds = self._plan(state), self._study.training.rounds
        if not 1 <= header.round <= rounds + (planned.fine_tune_steps > 0):
            raise BudgetError(
                f"The planned privacy budget is spent: round {header.round} of {rounds} was asked "
                "for; more rounds need a new study."
            )
        cost = self._cost(planned, header)
        number = self._ledger.reserve(
            cost, purpose=self._purpose(header), cap=self._cap, take_up=take_up
        )
        own = 0 if header.round > rounds else planned.own_steps_per_round
        return Reservation(plan=planned, steps=cost.steps - own, own_steps=own, number=number)

    def commit(self, reservation: Reservation) -> None:
        """Note that the training that was paid for has ended."""
        self._ledger.commit(reservation.number)

    def settle(self, state: RunState, header: Header) -> None:
        """Commit what was paid for a round that ended before a crash, if that is still to be done.

        Raises:
            PrivacyError: it was paid for otherwise than planned, the cohort has changed, or the
                ledger is not sound, cannot be written, or does not know the round.
        """
        cost = self._cost(self._plan(state), header)
        self._ledger.settle(cost, purpose=self._purpose(header))

    def _cost(self, planned: Plan, header: Header) -> SampledGaussian:
        after = header.round > self._study.training.rounds
        return planned.fine_tune_cost if after else planned.round_cost

    def _purpose(self, header: Header) -> Purpose:
        return Purpose(
            study=self._study.study.name,
            study_id=self._study.study_id,
            run=header.run,
            round=header.round,
            data_set=self._data_set,
            population=self._population,
            unit=charged_unit(self._study),
        )

    def _plan(self, state: RunState) -> Plan:
        """The plan as solved at the start of the run."""
        record = state.get(_KEY)
        if not isinstance(record, ConfigRecord):
            solved = plan(self._study, self._units)
            state[_KEY] = ConfigRecord(
                {
                    "units": solved.units,
                    "sample-rate": solved.sample_rate,
                    "steps-per-round": solved.steps_per_round,
                    "planned-steps": solved.planned_steps,
                    "noise-multiplier": solved.noise_multiplier,
                    "fine-tune-steps": solved.fine_tune_steps,
                    "own-steps-per-round": solved.own_steps_per_round,
                }
            )
            return solved
        if record.get("units") != self._units:
            raise PrivacyError(
                "The cohort has changed since this run began, so its privacy plan no longer "
                "holds; start a new run."
            )
        return Plan(
            units=self._units,
            sample_rate=_number(record, "sample-rate"),
            steps_per_round=int(_number(record, "steps-per-round")),
            planned_steps=int(_number(record, "planned-steps")),
            noise_multiplier=_number(record, "noise-multiplier"),
            fine_tune_steps=int(_number(record, "fine-tune-steps")),
            own_steps_per_round=int(_number(record, "own-steps-per-round")),
        )


def _number(record: ConfigRecord, key: str) -> float:
    value = record.get(key)
    if isinstance(value, int | float):
        return value
    raise PrivacyError(f"The privacy plan is damaged: {key} is missing; start a new run.")
