"""What a site has spent in a run: the plan, solved once, and the steps taken from it.

The account lives in the node's Flower context, so it is there again in the next round. Steps are
taken off before they are trained: a training that raises an error has been paid for. But the
context's state goes back with the answer: if the worker process dies in the middle of a round, the
steps that it took are lost from the account, and the epsilon that is reported is too small by
them. A ledger on disk that is written before the training, and that counts over all studies, is a
work of its own and not there yet.
"""

import math
from dataclasses import dataclass

from flwr.app import ConfigRecord, RecordDict

from wardround_shared.errors import BudgetError, PrivacyError
from wardround_shared.privacy.accounting import (
    SampledGaussian,
    noise_multiplier_for,
    require_reachable,
)
from wardround_shared.study import Study

_KEY = "privacy-account"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """DP-SGD as planned for one site and the whole study.

    Attributes:
        sample_rate: probability with which each example is in a step (Poisson sampling).
        steps_per_round: steps of one round.
        planned_steps: steps of all rounds.
        noise_multiplier: noise standard deviation over the clipping norm.
    """

    sample_rate: float
    steps_per_round: int
    planned_steps: int
    noise_multiplier: float


def plan(study: Study, examples: int) -> Plan:
    """Solve the noise once, so that all planned rounds together cost the study's epsilon.

    Args:
        study: with a private mechanism.
        examples: number of training examples at the site.
    """
    privacy = study.privacy
    sample_rate, steps_per_round = _sampling(study, examples)
    planned = steps_per_round * study.training.rounds
    return Plan(
        sample_rate=sample_rate,
        steps_per_round=steps_per_round,
        planned_steps=planned,
        noise_multiplier=noise_multiplier_for(
            epsilon=privacy.epsilon, delta=privacy.delta, sample_rate=sample_rate, steps=planned
        ),
    )


def require_plan(study: Study, examples: int) -> None:
    """Refuse a study that `plan` would refuse, without solving the noise; arguments as there.

    Raises:
        PrivacyError: no noise reaches the study's epsilon.
    """
    sample_rate, steps_per_round = _sampling(study, examples)
    require_reachable(
        epsilon=study.privacy.epsilon,
        delta=study.privacy.delta,
        sample_rate=sample_rate,
        steps=steps_per_round * study.training.rounds,
    )


def _sampling(study: Study, examples: int) -> tuple[float, int]:
    """Sample rate, and steps of one round."""
    sample_rate = min(1.0, study.training.batch_size / max(examples, 1))
    return sample_rate, study.training.local_epochs * math.ceil(1 / sample_rate)


class Account:
    """Steps taken from a plan; kept in `state` under a key of its own."""

    def __init__(self, state: RecordDict, study: Study, examples: int) -> None:
        self._state = state
        record = state.get(_KEY)
        if not isinstance(record, ConfigRecord):
            solved = plan(study, examples)
            record = ConfigRecord(
                {
                    "examples": examples,
                    "sample-rate": solved.sample_rate,
                    "steps-per-round": solved.steps_per_round,
                    "planned-steps": solved.planned_steps,
                    "noise-multiplier": solved.noise_multiplier,
                    "spent-steps": 0,
                }
            )
            state[_KEY] = record
        if record["examples"] != examples:
            raise PrivacyError(
                "The cohort has changed since this run began, so its privacy account no longer "
                "holds; start a new run."
            )
        self._record = record

    @property
    def plan(self) -> Plan:
        """The plan as solved at the start of the run."""
        record = self._record
        return Plan(
            sample_rate=_number(record, "sample-rate"),
            steps_per_round=int(_number(record, "steps-per-round")),
            planned_steps=int(_number(record, "planned-steps")),
            noise_multiplier=_number(record, "noise-multiplier"),
        )

    @property
    def spent(self) -> SampledGaussian:
        """The mechanism run so far."""
        current = self.plan
        return SampledGaussian(
            noise_multiplier=current.noise_multiplier,
            sample_rate=current.sample_rate,
            steps=int(_number(self._record, "spent-steps")),
        )

    def spend_round(self) -> Plan:
        """Take one round's steps off the plan, before they are trained.

        Raises:
            BudgetError: the plan is used up; nothing is taken.
        """
        current, spent = self.plan, self.spent.steps
        if spent + current.steps_per_round > current.planned_steps:
            raise BudgetError(
                f"The planned privacy budget is spent: {spent} of {current.planned_steps} steps "
                "are taken; a further round needs a new study."
            )
        self._record["spent-steps"] = spent + current.steps_per_round
        return current


def _number(record: ConfigRecord, key: str) -> float:
    value = record[key]
    if isinstance(value, int | float):
        return value
    raise PrivacyError(f"The privacy account is damaged: {key} is missing; start a new run.")
