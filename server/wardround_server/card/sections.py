"""What a model card says, section by section; each returns lines of Markdown."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from wardround_server.card.measured import Measured, measured, smallest_group
from wardround_server.card.rounding import FEWEST, between, figure, rounded, twentieth
from wardround_shared.calibration import FEWEST as FEWEST_TO_CALIBRATE
from wardround_shared.calibration import calibrate
from wardround_shared.evaluation import expected_calibration_error, positive_classes
from wardround_shared.study import Study, disclosures, unprotected
from wardround_shared.tasks import Classification, MultiLabel, task_of

Summary = Mapping[str, Any]
Lines = list[str]

_MOST_SITES = 20
_FEW = f"Fewer than {FEWEST} validation examples are behind each figure: no figure is shown."


def use(study: Study) -> Lines:
    """Intended use, and what it is not for."""
    said = study.study.description or "(the study has no description)"
    return [
        f"The study says what it is for: {said}",
        "",
        (
            f'- Input: as the study\'s `data.source = "{study.data.source}"` and its preprocessing '
            "describe it, from patients and devices like those of the sites below."
        ),
        "- Users: people who can judge the input and the answer, in research.",
        "",
        "It must not be used",
        "",
        (
            "- to diagnose or treat anybody: it is not a medical device, and no study of its use "
            "with patients was made;"
        ),
        "- without a person who can overrule it;",
        (
            "- on other kinds of input, patients or devices without measuring it there first "
            "(`wardround evaluate`);"
        ),
        "- to find out who was in its training data.",
    ]


def data(summary: Summary) -> Lines:
    """Patients and examples by site, in rounded counts."""
    cohorts: Mapping[str, Mapping[str, Any]] = summary.get("cohorts") or {}
    if not cohorts:
        n = (summary.get("metrics") or {}).get("n") or 0
        return [
            (
                f"{summary.get('sites', 'An unknown number of')} sites. The server knows sums over "
                f"sites only: {rounded(n)} validation examples in all; how many examples each site "
                "has, and of which classes, stays with the sites."
            ),
        ]
    names = [*next(iter(cohorts.values()))["classes"]]
    head = ["site", "patients", "to train on", "to validate on", *map(_cell, names), "set aside"]
    lines = [
        f"Counts to tens; fewer than {FEWEST} are shown as <{FEWEST}.",
        "",
        *_table_head(head),
    ]
    for site, about in [*cohorts.items()][:_MOST_SITES]:
        numbers = [
            about["patients"],
            about["train"],
            about["validation"],
            *(about["classes"][name] for name in names),
            sum(about["set_aside"].values()),
        ]
        lines.append(_row(site, *map(rounded, numbers)))
    return [*lines, *_further(len(cohorts))]


def metrics(study: Study, summary: Summary) -> Lines:
    """Of the final model on the validation patients, over all sites and by site."""
    counts = summary.get("counts") or {}
    overall = _counts(counts.get("overall"))
    if overall is None:
        return ["The run did not end with counts: nothing was measured."]
    lines = [
        (
            f"Of the final model on the sites' validation patients, none of whom it was trained on "
            f"({rounded(overall[0])} examples)."
        ),
        "",
        *_of_all(measured(study, overall)),
        "",
        (
            "Intervals: Wilson for shares, Hanley-McNeil's variance as a score interval for an "
            "AUROC, and resampling of the summed counts for the others."
        ),
    ]
    by_site = [*(counts.get("per_site") or {}).items()]
    if not by_site:
        return [*lines, "", "By site nothing is known: the server reads sums over sites only."]
    lines += [
        "",
        "By site, to the nearest twentieth and without intervals, which would give counts away:",
        "",
        *_table_head(["site", "examples", "metrics"]),
    ]
    for site, one in by_site[:_MOST_SITES]:
        found = _counts(one)
        if found is not None:
            lines.append(_row(site, rounded(found[0]), _of_site(study, summary, site, found)))
    return [*lines, *_further(len(by_site))]


def calibration(study: Study, summary: Summary) -> Lines:
    """How far the probabilities can be taken at their word."""
    task = task_of(study)
    counts = _counts((summary.get("counts") or {}).get("overall"))
    if counts is None or not isinstance(task, Classification | MultiLabel):
        return ["Not measured: the summed counts of this task hold no probabilities."]
    if smallest_group(task, counts) < FEWEST_TO_CALIBRATE:
        return [
            (
                f"Not judged: some class has fewer than {FEWEST_TO_CALIBRATE} validation examples, "
                f"or all but so few. `wardround predict` gives the probabilities as the model puts "
                "them out."
            )
        ]
    lines = [
        (
            "`wardround predict` puts a logistic curve through the log-odds (Platt 1999), fitted "
            "on the summed validation counts. A slope below 1 means that the model is too sure. "
            "The error is that of the uncalibrated probabilities, in ten groups."
        ),
        "",
        *_table_head(["class", "expected calibration error", "slope", "intercept"]),
    ]
    if isinstance(task, MultiLabel):
        two = ("absent", "present")
        named = enumerate(study.study.classes)
        return lines + [_curve(name, task.of_finding(counts, k), two, 1) for k, name in named]
    classes = study.study.classes
    positive = positive_classes(len(classes))
    return lines + [_curve(classes[c], counts, classes, c) for c in positive]


def privacy(study: Study, summary: Summary) -> Lines:
    """What is promised to the patients whom the model was trained on."""
    kept = study.privacy
    lines = []
    if not kept.private:
        lines += [
            (
                "**NONE.** The model was trained without differential privacy "
                '(`privacy.mechanism = "none"`): it may reveal whom it was trained on.'
            ),
        ]
    elif summary.get("noise", "system") != "system":
        lines += [
            (
                "**NONE.** The noise was injected for a test and can be computed again: this model "
                "is not private, whatever epsilon says."
            ),
        ]
    else:
        spent = (summary.get("privacy") or {}).get("epsilon")
        epsilon, whence = kept.epsilon, "planned; each site's ledger holds what was spent"
        if isinstance(spent, Mapping) and spent:
            epsilon, whence = max(spent.values()), "spent, by the sites' ledgers"
        lines += [
            (
                f"{kept.mechanism}: epsilon at most {epsilon:.2f} ({whence}) at delta "
                f"{kept.delta:g} for each {kept.unit} at each site."
            ),
        ]
    if study.study.kind == "generation" and unprotected(study, summary.get("noise", "system")):
        lines.append("Images that it makes may be copies of those that it was trained on.")
    secure = (
        "Updates were summed under secure aggregation: the server read sums over sites only."
        if study.aggregation.secure
        else "Updates were NOT summed securely: the server saw each site's update."
    )
    start = summary.get("initial_weights")
    lines += ["", secure]
    if start:
        lines += [
            "",
            (
                f"It started from weights in {start['file']}: what those were trained on, this run "
                "protects nobody of."
            ),
        ]
    lines += ["", "Given away outside epsilon:", ""]
    return lines + [f"- {one.what}: {one.form} ({one.purpose})" for one in disclosures(study)]


def limits(summary: Summary) -> Lines:
    """What the card cannot say."""
    lines = [
        (
            "- By sex and by age group nothing was measured: the counts that leave a site are "
            "summed over all its patients and hold neither. Whether the model is worse for some of "
            "them is not known."
        ),
        (
            "- Validation patients are from the sites that trained it. Of other hospitals nothing "
            "is known until it is measured there."
        ),
        "- If settings were chosen by these figures, the figures are kind.",
        (
            "- Intervals take each example as drawn on its own; with several of one patient they "
            "are too narrow."
        ),
        (
            "- The calibration is fitted on the counts that it is measured by, at their share of "
            "each class; where a disease is rarer, probabilities are too high."
        ),
    ]
    dropped = summary.get("dropped") or []
    if dropped:
        lines.append(
            f"- Sites that were left out of rounds: {len(dropped)} times; see the summary."
        )
    if summary.get("cohorts"):
        lines.append(
            "- Counts are rounded here; `summary.json` beside this card has them exactly. Hand out "
            "the card, not the summary."
        )
    return lines


def _counts(listed: Any) -> np.ndarray | None:
    return np.asarray(listed, dtype=np.float64) if listed else None


def _of_site(study: Study, summary: Summary, site: str, counts: np.ndarray) -> str:
    """Metrics of one site, without intervals; nothing where they are of a few patients."""
    about = (summary.get("cohorts") or {}).get(site, {})
    if about.get("validation_patients", 0) < FEWEST:
        return f"fewer than {FEWEST} patients"
    return _at_site(measured(study, counts, intervals=False))


def _of_all(found: list[Measured]) -> Lines:
    if not found:
        return [_FEW]
    rows = [_row(one.name, figure(one.value), between(one.interval)) for one in found]
    return [*_table_head(["metric", "value", "95 % interval"]), *rows]


def _at_site(found: list[Measured]) -> str:
    shown = [f"{one.name} {twentieth(one.value)}" for one in found if one.value is not None]
    return ", ".join(shown) or "too few examples to show"


def _curve(name: str, counts: np.ndarray, classes: tuple[str, ...], c: int) -> str:
    fitted = calibrate(counts, classes)
    error = figure(expected_calibration_error(counts, len(classes), c))
    if not fitted.curves:
        return _row(name, error, "none", fitted.fault)
    curve = fitted.curves[positive_classes(len(classes)).index(c)]
    return _row(name, error, f"{curve.slope:.2f}", f"{curve.intercept:.2f}")


def _further(sites: int) -> Lines:
    more = sites - _MOST_SITES
    return ["", f"And {more} further sites."] if more > 0 else []


def _table_head(names: list[str]) -> Lines:
    return [_row(*names), _row(*("---" for _ in names))]


def _row(*cells: str) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    """Text that cannot break a table: a name comes from a study or from a label table."""
    return " ".join(text.replace("|", "/").split())
