"""The parts of the page, each a function from a run to a section. K = classes."""

import numpy as np

from wardround_shared.evaluation import (
    calibration,
    confusion,
    expected_calibration_error,
    roc,
)
from wardround_simulations.report.figures import Line, bar_chart, line_chart
from wardround_simulations.report.markup import Child, Markup, element, joined, table
from wardround_simulations.report.run import Counts, Metrics, Run

_METRICS = {
    "auroc": "AUROC",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "f1_macro": "F1 (macro)",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "loss": "Loss",
}
# Longer tables are folded away until they are asked for.
_LONG = 24


def performance(run: Run) -> Markup:
    """Metrics of the final model, overall and per site."""
    if not run.metrics:
        return section("Performance", _note("The final model was not evaluated."))
    rows = [("All sites", run.metrics), *sorted(run.per_site.items())]
    cells = [
        (site, *(figure(m.get(key)) for key in _METRICS), whole(m.get("n"))) for site, m in rows
    ]
    shown = table(
        "Final model on the validation patients, whom no site trained on",
        ("", *_METRICS.values(), "Examples"),
        cells,
    )
    return section("Performance", _folded(shown, len(rows)), _definitions(_performance_words(run)))


def history(run: Run) -> Markup:
    """Metrics per round and site, as charts and as a table."""
    if not run.history:
        return section("Rounds", _note("No round was closed."))
    keys = ["auroc", "balanced_accuracy", "loss"]
    if len(run.classes) > 2:
        keys.insert(1, "f1_macro")
    charts = [_history_chart(run, key) for key in keys]
    return section(
        "Rounds",
        _paragraph(
            "Each point is the global model at the start of that round, measured on the "
            "validation patients; the last point is the final model."
        ),
        element("div", *charts, class_="charts"),
        _folded(_history_table(run, "auroc"), _LONG + 1),
    )


def curves(run: Run) -> Markup:
    """ROC and calibration curves of the final model."""
    if run.counts is None:
        return section("Discrimination and calibration", _note("There are no counts to draw."))
    roc_lines, calibration_lines = _roc_lines(run), _calibration_lines(run)
    positive = run.classes[1] if len(run.classes) == 2 else "each class against the rest"
    return section(
        "Discrimination and calibration",
        element(
            "div",
            line_chart(
                roc_lines,
                title="ROC curve",
                x_label="1 - specificity",
                y_label="Sensitivity",
                alternative=f"ROC curves for {positive}; AUROC over all sites is "
                f"{figure(run.metrics.get('auroc'))}.",
                unit_square=True,
                diagonal=True,
            ),
            line_chart(
                calibration_lines,
                title="Calibration curve",
                x_label="Predicted probability",
                y_label="Observed share",
                alternative=f"Predicted against observed probability for {positive}.",
                unit_square=True,
                diagonal=True,
                markers=True,
            ),
            class_="charts",
        ),
        _definitions(_curve_words(run)),
    )


def confusions(run: Run) -> Markup:
    """Confusion matrix of the final model over all sites."""
    if run.counts is None:
        return section("Confusion matrix", _note("There are no counts to show."))
    matrix = confusion(run.counts, len(run.classes))
    totals = matrix.sum(axis=1)
    rows = []
    for name, row, total in zip(run.classes, matrix, totals, strict=True):
        shares = row / total if total else np.zeros_like(row)
        cells = [_shaded(n, share) for n, share in zip(row, shares, strict=True)]
        rows.append((f"Truly {name}", *cells, whole(total)))
    return section(
        "Confusion matrix",
        table(
            "Examples over all sites; the shade is the share of the row",
            ("", *(f"Predicted {name}" for name in run.classes), "All"),
            rows,
        ),
        _paragraph("The predicted class is the one with the highest probability."),
    )


def privacy(run: Run) -> Markup:
    """Privacy spent per site against what was planned."""
    promised = run.privacy
    if promised.mechanism == "none":
        return section(
            "Privacy",
            _paragraph(
                "No differential privacy was used (mechanism = none). Nothing bounds what the "
                "model may reveal about a single patient."
            ),
        )
    rows = [
        (
            site,
            figure(spent.epsilon),
            _against(spent.epsilon, promised.planned_epsilon),
            figure(spent.prv),
            figure(spent.rdp),
            figure(spent.noise_multiplier),
            figure(spent.sample_rate),
            whole(spent.steps),
        )
        for site, spent in sorted(promised.spent.items())
    ]
    head = (
        "Site", "Epsilon spent", "Of what was planned", "PRV bound", "RDP bound",
        "Noise multiplier", "Sample rate", "Steps",
    )  # fmt: skip
    promise = (
        f"{promised.mechanism}, unit: {promised.unit}, planned epsilon "
        f"{figure(promised.planned_epsilon, '.3g')} at delta {figure(promised.delta, '.3g')}"
    )
    shown = table(f"Privacy spent in this run ({promise})", head, rows)
    return section("Privacy", _folded(shown, len(rows)), _definitions(_privacy_words(run)))


def participation(run: Run) -> Markup:
    """Who took part in each round, who dropped out and why."""
    if not run.roster:
        return section("Participation", _note("No round was closed."))
    rows: list[tuple[Child, ...]] = [
        (
            str(line.number),
            _names(line.invited, line.invited),
            _names(line.trained, line.invited),
            _names(line.aggregated, line.invited),
            _dropped(line.dropped),
        )
        for line in run.roster
    ]
    lost = sum(len(line.dropped) for line in run.roster)
    summary = "Every invited site took part in every round." if lost == 0 else (
        f"An invited site was missing from the sum {lost} times."
    )
    shown = table(
        "Who took part in each round",
        ("Round", "Invited", "Trained", "In the sum", "Dropped out, and why"),
        rows,
        text_columns=5,
    )
    return section("Participation", _paragraph(summary), _folded(shown, len(rows)))


def cohorts(run: Run) -> Markup:
    """What each site brought, and what was left out for which reason."""
    if not run.cohorts:
        return section("Cohorts", _note("The run folder says nothing about cohorts."))
    rows: list[tuple[Child, ...]] = []
    for site, cohort in sorted(run.cohorts.items()):
        classes = (whole(cohort.classes.get(name, 0)) for name in run.classes)
        aside = [f"{why}: {n}" for why, n in cohort.set_aside.items()]
        numbers = (whole(cohort.patients), whole(cohort.train), whole(cohort.validation), *classes)
        rows.append((site, _list(aside), _list(list(cohort.notes)), *numbers))
    head = (
        "Site", "Set aside", "Notes", "Patients", "Training examples", "Validation examples",
        *(f"Class {name}" for name in run.classes),
    )  # fmt: skip
    shown = table("What each site brought to the study", head, rows, text_columns=3)
    words = {
        "Set aside": "examples that could not be read or used, for each reason; nobody trained "
        "on them.",
        "Validation examples": "examples of patients who were kept out of training.",
    }
    notes = [element("p", note, class_="note") for note in run.notes]
    return section("Cohorts", *notes, _folded(shown, len(rows)), _definitions(words))


def time(run: Run) -> Markup:
    """Where the time went."""
    names = {"total": "Total", "training": "Training and evaluation", "overhead": "Overhead"}
    rows: list[tuple[Child, ...]] = [
        (title, f"{run.seconds[key]:.1f} s") for key, title in names.items() if key in run.seconds
    ]
    if run.peak_rss_mb is not None:
        rows.append(("Peak memory", f"{run.peak_rss_mb:.0f} MB"))
    timed = [line for line in run.history if line.seconds is not None]
    parts = [table("Time and memory", ("", "Value"), rows)] if rows else []
    if timed:
        slowest = max(line.seconds or 0.0 for line in timed)
        parts.append(
            bar_chart(
                [line.number for line in timed],
                [line.seconds or 0.0 for line in timed],
                title="Seconds per round",
                x_label="Round",
                y_label="Seconds",
                alternative=f"Duration of each round; the slowest took {slowest:.1f} seconds.",
            )
        )
    if not parts:
        parts = [_note("No times were recorded.")]
    words = {"Overhead": "everything outside local training and evaluation."}
    return section("Time", element("div", *parts, class_="charts"), _definitions(words))


def study(run: Run) -> Markup:
    """The study as run."""
    identity = _paragraph(
        f"Study id {run.study_id}; run {run.name}; seed {'-' if run.seed is None else run.seed}."
    )
    if not run.study_text:
        return section("Study as run", identity, _note("The run folder has no study.toml."))
    text = element("pre", element("code", run.study_text), tabindex="0", aria_label="study.toml")
    return section("Study as run", identity, text)


# --- pieces ----------------------------------------------------------------------------------


def section(title: str, *children: Child) -> Markup:
    """A titled part of the page."""
    anchor = title.lower().replace(" ", "-")
    return element(
        "section", element("h2", title, id=anchor), *children, aria_labelledby=anchor
    )


def figure(value: float | None, form: str = ".3f") -> str:
    """A number for people; an en dash where it is not defined."""
    return "–" if value is None else format(value, form)


def whole(value: float | None) -> str:
    """A count for people, with thin spaces between thousands."""
    return "–" if value is None else f"{value:,.0f}".replace(",", "\u202f")


def _history_chart(run: Run, key: str) -> Markup:
    title = f"{_METRICS[key]} per round"
    overall = _line("All sites", [(line.number, line.metrics) for line in run.history], key)
    sites = sorted({line.site for line in run.site_history})
    lines = [
        _line(site, [(s.number, s.metrics) for s in run.site_history if s.site == site], key)
        for site in sites
    ]
    first, last = overall.y[0], overall.y[-1]
    return line_chart(
        [*lines, Line(name=overall.name, x=overall.x, y=overall.y, overall=True)],
        title=title,
        x_label="Round",
        y_label=_METRICS[key],
        alternative=f"{title}: over all sites from {first:.3f} to {last:.3f}.",
    )


def _line(name: str, points: list[tuple[int, Metrics]], key: str) -> Line:
    values = [metrics.get(key) for _, metrics in points]
    return Line(
        name=name,
        x=np.array([float(number) for number, _ in points]),
        y=np.array([np.nan if value is None else float(value) for value in values]),
    )


def _history_table(run: Run, key: str) -> Markup:
    sites = sorted({line.site for line in run.site_history})
    found = {(s.site, s.number): s.metrics.get(key) for s in run.site_history}
    rows: list[tuple[Child, ...]] = [
        (
            f"{line.number} (final)" if line.final else str(line.number),
            figure(line.metrics.get(key)),
            *(figure(found.get((site, line.number))) for site in sites),
        )
        for line in run.history
    ]
    return table(f"{_METRICS[key]} per round and site", ("Round", "All sites", *sites), rows)


def _roc_lines(run: Run) -> list[Line]:
    return [
        Line(name=name, x=x, y=y, overall=overall)
        for name, counts, k, overall in _drawn(run)
        for x, y in [roc(counts, len(run.classes), k)]
    ]


def _calibration_lines(run: Run) -> list[Line]:
    return [
        Line(name=name, x=found.predicted, y=found.observed, overall=overall)
        for name, counts, k, overall in _drawn(run)
        for found in [calibration(counts, len(run.classes), k)]
    ]


def _drawn(run: Run) -> list[tuple[str, Counts, int, bool]]:
    """What the curves show: two classes: every site and all; more: every class over all sites."""
    assert run.counts is not None
    if len(run.classes) > 2:
        return [(name, run.counts, k, False) for k, name in enumerate(run.classes)]
    sites = [(site, counts, 1, False) for site, counts in sorted(run.site_counts.items())]
    return [*sites, ("All sites", run.counts, 1, True)]


def _shaded(n: float, share: float) -> Markup:
    style = f"--share:{100.0 * share:.0f}%"
    return element("span", f"{whole(n)} ({100.0 * share:.0f} %)", class_="cell", style=style)


def _against(epsilon: float, planned: float | None) -> Child:
    if not planned:
        return "–"
    share = 100.0 * epsilon / planned
    bar = element("span", class_="bar", style=f"--share:{min(share, 100.0):.1f}%")
    return joined(bar, f"{share:.1f} %")


def _names(sites: tuple[str, ...], of: tuple[str, ...]) -> Child:
    if len(sites) == len(of) > 3:
        return f"all {len(of)}" if sites is not of else f"{len(of)}: {', '.join(of[:8])}" + (
            " …" if len(of) > 8 else ""
        )
    return ", ".join(sites) or "none"


def _dropped(dropped: tuple[tuple[str, str], ...]) -> Child:
    return _list([f"{site}: {why}" for site, why in dropped])


def _list(items: list[str]) -> Child:
    if not items:
        return "none"
    if len(items) == 1:
        return items[0]
    return element("ul", *(element("li", item) for item in items))


def _folded(content: Markup, rows: int) -> Markup:
    if rows <= _LONG:
        return content
    return element("details", element("summary", "Show the table"), content)


def _paragraph(text: str) -> Markup:
    return element("p", text)


def _note(text: str) -> Markup:
    return element("p", text, class_="note")


def _definitions(words: dict[str, str]) -> Markup:
    pairs = [joined(element("dt", word), element("dd", meaning)) for word, meaning in words.items()]
    return element("dl", *pairs)


def _performance_words(run: Run) -> dict[str, str]:
    positive = f"“{run.classes[1]}”" if len(run.classes) == 2 else "a class"
    return {
        "AUROC": "chance that an example of the class gets a higher score than one without it; "
        "0.5 is guessing, 1 is perfect.",
        "Accuracy": "share of examples that are classified correctly.",
        "Balanced accuracy": "mean over the classes of the share classified correctly.",
        "F1 (macro)": "mean over the classes of the harmonic mean of precision and sensitivity.",
        "Sensitivity": f"share of the examples truly of {positive} that are found.",
        "Specificity": f"share of the examples truly not of {positive} that are left out.",
        "Loss": "mean negative log-likelihood of the true class; lower is better.",
        "–": "not defined, for example the AUROC where only one class occurs.",
    }


def _curve_words(run: Run) -> dict[str, str]:
    assert run.counts is not None
    error = expected_calibration_error(run.counts, len(run.classes), 1)
    return {
        "ROC curve": "sensitivity against false alarms for every threshold; the diagonal is "
        "guessing.",
        "Calibration curve": "on the diagonal, of the examples given a probability of 30 %, "
        "30 % are truly of the class.",
        "Expected calibration error": f"mean distance from the diagonal for "
        f"“{run.classes[1]}”, here {figure(error)}.",
    }


def _privacy_words(run: Run) -> dict[str, str]:
    unit = run.privacy.unit or "unit"
    return {
        "Epsilon": f"how much one {unit} may change what the model can reveal; smaller is more "
        "private.",
        "Delta": "probability with which the bound may fail.",
        "Unit": f"whose contribution is hidden: here one {unit}"
        + (
            "; a patient with several records is protected less than this says."
            if unit == "record"
            else "."
        ),
        "PRV and RDP bound": "epsilon computed by two methods (privacy random variables, Rényi "
        "differential privacy); the tighter PRV counts unless they contradict each other.",
        "Noise multiplier": "noise added to each step, in units of the clipping bound.",
        "Sample rate": "probability with which a record enters a step.",
    }
