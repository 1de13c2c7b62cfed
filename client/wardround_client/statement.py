"""The disclosure statement: what a study does to this site's patients, before it is approved.

It says what is computed, what leaves the site and how, what that promises and costs, and what no
epsilon covers. Names and descriptions come from outside: whatever could steer a terminal is taken
out of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from wardround_client.account import charged_unit, plan
from wardround_client.ledger import Ledger
from wardround_client.policy import Policy
from wardround_client.rules import Hours, fewest_sites
from wardround_client.sources.index import columns_read
from wardround_shared.errors import PrivacyError
from wardround_shared.privacy.accounting import epsilon_spent
from wardround_shared.study import (
    DicomData,
    FhirData,
    IndexedData,
    Study,
    Training,
    disclosures,
)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the statement: its title, and sentences."""

    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """What the statement depends on beside the study.

    Attributes:
        data_set: name of the data that the study is to use.
        protected: patients or records in training, as a check has counted them; None: not checked.
        sites: on the roster of the run; None: not known yet.
        ledger: of this site; None: there is none.
    """

    data_set: str
    protected: int | None
    sites: int | None
    policy: Policy
    ledger: Ledger | None


def statement(study: Study, circumstances: Circumstances) -> tuple[Part, ...]:
    """What a person has to know before deciding.

    Raises:
        LedgerError: the ledger was changed from outside.
    """
    parts = (
        ("Study", _study(study)),
        ("What is computed", _computed(study, circumstances)),
        ("What leaves this site", _leaving(study)),
        ("Floors", _floors(study, circumstances)),
        ("What is promised to patients", _promise(study)),
        ("What it costs", _cost(study, circumstances)),
        ("What epsilon does not cover", _uncovered(study)),
        ("What this site's policy says", _policy(study, circumstances)),
    )
    return tuple(
        Part(title=title, lines=tuple(_printable(line) for line in lines)) for title, lines in parts
    )


def lines_of(parts: tuple[Part, ...]) -> tuple[str, ...]:
    """The statement as plain lines."""
    return tuple(
        line for part in parts for line in (part.title, *(f"  {one}" for one in part.lines), "")
    )[:-1]


def _study(study: Study) -> Iterator[str]:
    yield f"{study.study.name}, id {study.study_id}."
    if study.study.description:
        yield f"Its author says: {study.study.description}"
    yield f"Task: {study.study.task}, of the classes {', '.join(study.study.classes)}."


def _computed(study: Study, circumstances: Circumstances) -> Iterator[str]:
    training = study.training
    yield (
        f"In each of {training.rounds} rounds this site trains the model {study.model.name} on the "
        f"data set {circumstances.data_set}, {_length(training)}."
    )
    if training.strategy == "scaffold":
        yield "How its steps differ from all sites' (its control variate) stays at this site."
    if study.personal.layers == "normalisation":
        yield "Scale and shift of its normalisation layers stay at this site."
    if study.personal.ditto is not None:
        yield (
            "In each round this site also trains a model of its own, "
            f"{_length(training)}; that model stays here."
        )
    if study.personal.fine_tune_epochs:
        yield (
            "After the last round this site trains the model further for itself, "
            f"{_times(study.personal.fine_tune_epochs)} over the data; that model stays here."
        )
    yield (
        f"{study.data.validation_fraction:.0%} of the patients are not trained on; the model is "
        "measured on them in each round."
    )
    if study.study.kind == "generation":
        yield (
            "What comes of it makes images like those of the patients, for whoever has the model"
            + ("." if study.privacy.private else "; it may make copies of some of them.")
        )
    if isinstance(study.data, IndexedData):
        yield f"Columns that are read: {', '.join(columns_read(study.data))}."
    if isinstance(study.data, FhirData):
        yield from _resources_read(study.data)
    if isinstance(study.data, DicomData):
        allowed = circumstances.policy.rules.allow_burned_in_annotation
        yield (
            "Images whose header says that text is burned in are "
            + ("read, as this site's policy allows." if allowed else "left out.")
        )
    yield "No code comes with a study: what is computed is in the software that is installed here."


def _resources_read(data: FhirData) -> Iterator[str]:
    key = f"the identifier of the system {data.patient}" if data.patient else "the id"
    yield (
        f"Of each Patient {key}, birth date, gender and death are read, of Encounters when they "
        "were, of Conditions and Observations code and time; names and addresses never are."
    )
    yield f"Observations whose values are read: {', '.join(one.name for one in data.features)}."
    yield f"Conditions that are the label: {', '.join(data.label.conditions)}."


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _length(training: Training) -> str:
    """How long a round trains."""
    if training.local_steps is not None:
        return f"in {training.local_steps} steps"
    return f"{_times(training.local_epochs)} over the data"


def _leaving(study: Study) -> Iterator[str]:
    yield (
        "In each round one vector: the change of the model, the number of training examples, and "
        "the counts that measure the model. No record, no patient key, no file."
    )
    if study.aggregation.secure:
        yield (
            "It is masked: the server learns the sum over sites and nothing of this site's part "
            "(secure aggregation, docs/protocol.md)."
        )
    else:
        yield (
            "It is NOT masked (aggregation.secure = false): the server sees what this site alone "
            "has learned and counted."
        )
    yield "The model of each round goes to all sites of the run; the last one is its result."


def _floors(study: Study, circumstances: Circumstances) -> Iterator[str]:
    aggregation, sites = study.aggregation, circumstances.sites
    yield f"The study closes no round with fewer than {aggregation.minimum_sites} sites."
    fewest = fewest_sites(study, sites)
    if aggregation.secure and fewest is None:
        yield (
            "A sum is over more than two thirds of the sites of the run, whose number is not "
            "known yet."
        )
    elif aggregation.secure:
        yield f"A sum is over at least {fewest} of {sites} sites: with fewer, no mask comes off."
    yield (
        f"This site's policy asks for {circumstances.policy.rules.minimum_cohort} sites in a sum."
    )
    yield (
        "An approval is for one run. A further run, over other sites perhaps, could tell by the "
        "difference what this site has: it needs another approval."
    )


def _promise(study: Study) -> Iterator[str]:
    privacy = study.privacy
    if not privacy.private:
        yield (
            'NONE: privacy.mechanism = "none". Nothing bounds what the model reveals about a '
            "single patient."
        )
        return
    unit = charged_unit(study)
    yield (
        f"Epsilon {privacy.epsilon:g} at delta {privacy.delta:g} for each {unit}, over the whole "
        f"study: the model hardly depends on whether one {unit} was in the data (docs/privacy.md)."
    )
    if unit == "record":
        yield (
            "The unit is one record: a patient with several records is protected less than epsilon "
            "says."
        )


def _cost(study: Study, circumstances: Circumstances) -> Iterator[str]:
    if not study.privacy.private:
        yield "Nothing is charged to the ledger, since nothing is promised."
        return
    cap = circumstances.policy.cap_of(circumstances.data_set)
    population = circumstances.policy.population_of(circumstances.data_set)
    yield (
        f"It is charged to the population {population}, with a cap of epsilon {cap.epsilon:g} at "
        f"delta {cap.delta:g} over all studies."
    )
    if circumstances.ledger is None:
        yield "This site has no ledger, and takes part in no private study without one."
    elif circumstances.protected is None:
        yield (
            "What it would cost is known when the data were checked (wardround-site data check); "
            f"not more than epsilon {study.privacy.epsilon:g} at delta {study.privacy.delta:g}."
        )
    else:
        yield from _account(study, circumstances, circumstances.ledger, circumstances.protected)


def _account(
    study: Study, circumstances: Circumstances, ledger: Ledger, protected: int
) -> Iterator[str]:
    """What is spent, and what this study adds to it."""
    policy, data_set = circumstances.policy, circumstances.data_set
    cap, population = policy.cap_of(data_set), policy.population_of(data_set)
    try:
        cost = plan(study, protected).cost_after(0)
    except PrivacyError as error:
        yield f"REFUSED: {error}"
        return
    history = ledger.history(population)
    spent = epsilon_spent(history, cap.delta).epsilon
    alone = epsilon_spent([cost], cap.delta).epsilon
    together = epsilon_spent([*history, cost], cap.delta).epsilon
    yield f"The study by itself costs epsilon {alone:.4g} at that delta."
    yield (
        f"Spent so far: {spent:.4g}. With this study: {together:.4g}. Left then: "
        f"{max(cap.epsilon - together, 0.0):.4g}. (Costs do not simply add up.)"
    )
    before = sum(entry.purpose.study_id == study.study_id for entry in ledger.entries())
    if before:
        yield f"{before} rounds of this very study are in what is spent already."
    try:
        ledger.require_room(
            cost, data_set=data_set, population=population, unit=charged_unit(study), cap=cap
        )
    except PrivacyError as error:
        yield f"REFUSED: {error}"


def _uncovered(study: Study) -> Iterator[str]:
    for told in disclosures(study):
        yield f"{told.what} ({told.purpose}): {told.form}."
    yield "What the model says truthfully about people in general, whoever was in the data."


def _policy(study: Study, circumstances: Circumstances) -> Iterator[str]:
    policy = circumstances.policy
    refusals = tuple(
        policy.refusals(study, data_set=circumstances.data_set, sites=circumstances.sites)
    )
    yield from (f"REFUSED: {sentence}" for sentence in refusals)
    if not refusals:
        yield "It allows this study."
    if policy.rules.hours is not None:
        yield f"This site answers {Hours.parse(policy.rules.hours)} of its local time."


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)
