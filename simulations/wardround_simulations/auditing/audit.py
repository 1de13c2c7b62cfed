"""An audit: train a site with canaries among its patients, and guess who was in.

Everything that promises privacy is the system's own: the plan, the drawing of patients, clipping,
noise and the accountant. What works on noisy sums only is chosen so that they can be seen best. The
coins and the noise cannot be seeded, so that two audits of a run differ.

m = canaries, P = parameters.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wardround_client.account import Plan, plan
from wardround_client.training import LocalTraining, Protection, local_seed, train
from wardround_shared.errors import RunError
from wardround_shared.privacy.accounting import epsilon_spent
from wardround_shared.privacy.noise import NoiseSource, SystemNoise
from wardround_shared.study import Personal, Privacy, Study, Training
from wardround_shared.tasks import task_of
from wardround_simulations.auditing.bounds import Guesses, best_guesses, largest_bound
from wardround_simulations.auditing.canaries import Canaries, WithCanaries, make_canaries
from wardround_simulations.auditing.scores import auroc, true_positive_rate
from wardround_simulations.auditing.subject import Subject, open_subject
from wardround_simulations.threads import one_torch_thread

CONFIDENCE = 0.95
EPSILON = 2.0
"""Trained with no more than this. What m canaries can show ends near log(m / 9), and the smaller
the claim, the more surely a fault passes it."""

_COPIES = 6
_FALSE_POSITIVE_RATES = ("0.001", "0.01")
# Logits of a canary move by about this much over the whole audit: its gradient stays what it was.
_MOVE = 0.1


@dataclass(frozen=True, kw_only=True)
class AuditSettings:
    """What to audit, and how closely.

    Attributes:
        run: folder of a finished run.
        data: the run's data; none for the embedded study.
        site: without it the one with the most patients to train on.
        canaries: made-up patients m, each of them included by a coin.
        epsilon: what the audited training promises; without it the run's own, and at most 2.
        cache: folder of decoded cohorts.
    """

    run: Path
    data: Path | None = None
    site: str | None = None
    canaries: int = 2000
    epsilon: float | None = None
    cache: Path


Watched = Callable[[Sequence[int]], Iterable[int]]


def audit_run(
    settings: AuditSettings, *, noise: NoiseSource | None = None, watched: Watched = iter
) -> dict[str, Any]:
    """Audit one site of a run; the result is what `wardround audit --json` prints.

    Args:
        settings: what to audit.
        noise: of the coins and the training; without it the operating system's.
        watched: passes the numbers of the rounds through, and shows how far it has got.

    Raises:
        RunError: so few canaries could not refute the claim, whatever they did.
        WardroundError: the run or the data cannot be used, as in `open_subject`.
    """
    started = time.perf_counter()
    noise = noise or SystemNoise()
    subject = open_subject(settings.run, settings.data, site=settings.site, cache=settings.cache)
    study = _promise(subject, settings)
    _require_power(settings.canaries, study.privacy)
    canaries = make_canaries(
        subject.model,
        subject.examples.parts,
        included=(noise.uniform(settings.canaries) < 0.5).numpy(),
        max_grad_norm=study.privacy.max_grad_norm,
        copies=_copies(study.privacy),
    )
    planned = plan(study, subject.units + settings.canaries // 2)
    protection = Protection(
        plan=planned, steps=planned.steps_per_round, privacy=study.privacy, noise=noise
    )
    with one_torch_thread():
        change = _train(subject, study, protection, canaries, watched)
    scores = canaries.scores(change)
    guesses = best_guesses(
        scores, canaries.included, delta=study.privacy.delta, confidence=CONFIDENCE
    )
    return {
        **_about(subject, canaries, planned),
        **_membership(scores, canaries.included),
        **_verdict(guesses, _claimed(planned, study.privacy), canaries, study.privacy),
        "epsilon_of_run": subject.summary["privacy"]["epsilon"].get(subject.site),
        "notes": _notes(subject, study),
        "seconds": time.perf_counter() - started,
    }


# --- what is trained -----------------------------------------------------------------------------


def _promise(subject: Subject, settings: AuditSettings) -> Study:
    """The study as audited: same rounds, sample rate and clipping, with a promise of its own."""
    asked = subject.study
    epsilon = settings.epsilon
    if epsilon is None:
        epsilon = min(asked.privacy.epsilon, EPSILON)
    sample_rate = min(1.0, asked.training.batch_size / subject.units)
    batch = max(1, round(sample_rate * (subject.units + settings.canaries // 2)))
    return asked.model_copy(
        update={
            "privacy": asked.privacy.model_copy(update={"epsilon": epsilon}),
            # What a site trains for itself shows nothing to whoever is looked for here.
            "personal": Personal(),
            "training": asked.training.model_copy(update={"batch_size": batch}),
        }
    )


def _require_power(canaries: int, privacy: Privacy) -> None:
    most = largest_bound(canaries, delta=privacy.delta, confidence=CONFIDENCE)
    if most <= privacy.epsilon:
        raise RunError(
            f"An audit with {canaries} canaries cannot show an epsilon above {most:.2f}, so it "
            f"could not refute {privacy.epsilon:g}; take more --canaries or a lower --epsilon."
        )


def _copies(privacy: Privacy) -> int:
    """Examples of one canary: several, so that clipping each of them would let more through."""
    return min(_COPIES, privacy.examples_per_patient) if privacy.unit == "patient" else 1


def _train(
    subject: Subject,
    study: Study,
    protection: Protection,
    canaries: Canaries,
    watched: Watched,
) -> NDArray[np.float64]:
    """Train all rounds, each on the model that the last one left; the sum of updates, [P]."""
    module = WithCanaries(subject.model, canaries)
    examples = canaries.among(subject.examples)
    settings = LocalTraining(
        task=task_of(study),
        training=_bare_sum(study, protection.plan, canaries),
        round=1,
        seed=0,
        class_counts=np.ones(len(study.study.classes)),
        augmentation=None,
        protection=protection,
    )
    index = torch.arange(len(examples.targets))
    change = np.zeros(sum(parameter.numel() for parameter in module.parameters()))
    for number in watched(range(1, study.training.rounds + 1)):
        seed = local_seed(int(subject.summary["seed"]), subject.site, number)
        this_round = dataclasses.replace(settings, round=number, seed=seed)
        change += train(module, examples, index, this_round)
    return change


def _bare_sum(study: Study, planned: Plan, canaries: Canaries) -> Training:
    """Plain gradient steps, so small that the model hardly moves.

    What an optimiser makes of the noisy sums cannot tell more than they do; so an update is their
    sum itself, and each canary's gradient what it was at the first model that was received.
    """
    steps, bound = planned.planned_steps, study.privacy.max_grad_norm
    noise = planned.noise_multiplier * bound * math.sqrt(steps)
    signal = planned.sample_rate * bound * steps
    moved = (noise + signal) / (planned.sample_rate * planned.units)
    return study.training.model_copy(
        update={
            "optimiser": "sgd",
            "learning_rate": _MOVE / (moved * float(canaries.strengths.max())),
            "learning_rate_schedule": "constant",
            "momentum": 0.0,
            "weight_decay": 0.0,
            "class_weights": "none",
            "strategy": "fedavg",
            "proximal": 0.0,
        }
    )


# --- what is said --------------------------------------------------------------------------------


def _claimed(planned: Plan, privacy: Privacy) -> float:
    """What the accountant says of all rounds, and never more than what was to be planned for."""
    spent = epsilon_spent([planned.cost_after(0)], privacy.delta)
    return min(spent.epsilon, privacy.epsilon)


def _about(subject: Subject, canaries: Canaries, planned: Plan) -> dict[str, Any]:
    return {
        "study": subject.study.study.name,
        "site": subject.site,
        "unit": subject.study.privacy.unit,
        "canaries": len(canaries.included),
        "included": int(canaries.included.sum()),
        "examples_per_canary": canaries.copies,
        "rounds": subject.study.training.rounds,
        "steps_per_round": planned.steps_per_round,
        "sample_rate": planned.sample_rate,
        "noise_multiplier": planned.noise_multiplier,
    }


def _membership(scores: NDArray[np.float64], included: NDArray[np.bool_]) -> dict[str, Any]:
    inside, outside = scores[included], scores[~included]
    return {
        "auroc": dataclasses.asdict(auroc(inside, outside, confidence=CONFIDENCE)),
        "tpr_at_fpr": {
            rate: dataclasses.asdict(
                true_positive_rate(
                    inside, outside, false_positive_rate=float(rate), confidence=CONFIDENCE
                )
            )
            for rate in _FALSE_POSITIVE_RATES
        },
    }


def _verdict(
    guesses: Guesses, claimed: float, canaries: Canaries, privacy: Privacy
) -> dict[str, Any]:
    broken = guesses.bound > claimed
    told = f"{guesses.correct} of {guesses.made} guesses about canaries were right"
    why = (
        f"{told}, which no mechanism with an epsilon of {claimed:.2f} allows: it is at least "
        f"{guesses.bound:.2f}."
        if broken
        else f"{told}; that shows an epsilon of at least {guesses.bound:.2f} and does not refute "
        f"the {claimed:.2f} that is claimed."
    )
    most = largest_bound(len(canaries.included), delta=privacy.delta, confidence=CONFIDENCE)
    return {
        "guesses": guesses.made,
        "correct": guesses.correct,
        "epsilon_lower_bound": guesses.bound,
        "epsilon_claimed": claimed,
        "largest_bound": most,
        "delta": privacy.delta,
        "confidence": CONFIDENCE,
        "verdict": "broken" if broken else "holds",
        "why": why,
    }


def _notes(subject: Subject, study: Study) -> list[str]:
    notes = []
    of_run, audited = subject.study.privacy.epsilon, study.privacy.epsilon
    if audited != of_run:
        notes.append(
            f"the audit trained with an epsilon of {audited:g} where the study has {of_run:g}, by "
            "the same code: the smaller the claim, the more surely a fault shows."
        )
    if subject.summary.get("noise") != "system":
        notes.append(
            "the run itself had its noise injected for a test and is not private; the audit drew "
            "its own."
        )
    return notes
