"""What was learned: metrics, their way over the rounds, curves, confusion matrix. K = classes."""

import numpy as np

from wardround_shared.evaluation import (
    calibration,
    confusion,
    expected_calibration_error,
    roc,
)
from wardround_simulations.report.figures import Line, line_chart
from wardround_simulations.report.markup import (
    LONG,
    UNDEFINED,
    Child,
    Markup,
    definitions,
    element,
    figure,
    folded,
    note,
    paragraph,
    section,
    table,
    whole,
)
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

# Groups of a calibration curve; with few examples fewer groups, so that each says something.
_GROUPS, _FEW_GROUPS, _FEW_EXAMPLES = 10, 5, 500


def performance(run: Run) -> Markup:
    """Metrics of the final model, overall and per site."""
    if not run.metrics:
        return section("Performance", note("The final model was not evaluated."))
    rows = [("All sites", run.metrics), *sorted(run.per_site.items())]
    cells = [
        (site, *(figure(m.get(key)) for key in _METRICS), whole(m.get("n"))) for site, m in rows
    ]
    shown = table(
        "Final model on the validation patients, whom no site trained on",
        ("", *_METRICS.values(), "Examples"),
        cells,
    )
    return section("Performance", folded(shown, len(rows)), definitions(_performance_words(run)))


def history(run: Run) -> Markup:
    """Metrics per round and site, as charts and as a table."""
    if not run.history:
        return section("Rounds", note("No round was closed."))
    keys = ["auroc", "balanced_accuracy", "loss"]
    if len(run.classes) > 2:
        keys.insert(1, "f1_macro")
    charts = [_history_chart(run, key) for key in keys]
    return section(
        "Rounds",
        paragraph(
            "Each point is the global model at the start of that round, measured on the "
            "validation patients; the last point is the final model."
        ),
        element("div", *charts, class_="charts"),
        folded(_history_table(run, "auroc"), LONG + 1),
    )


def curves(run: Run) -> Markup:
    """ROC and calibration curves of the final model."""
    if run.counts is None:
        return section("Discrimination and calibration", note("There are no counts to draw."))
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
        definitions(_curve_words(run)),
    )


def confusions(run: Run) -> Markup:
    """Confusion matrix of the final model over all sites."""
    if run.counts is None:
        return section("Confusion matrix", note("There are no counts to show."))
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
        paragraph("The predicted class is the one with the highest probability."),
    )


def _history_chart(run: Run, key: str) -> Markup:
    title = f"{_METRICS[key]} per round"
    overall = _line("All sites", [(line.number, line.metrics) for line in run.history], key)
    sites = sorted({line.site for line in run.site_history})
    lines = [
        _line(site, [(s.number, s.metrics) for s in run.site_history if s.site == site], key)
        for site in sites
    ]
    first, last = (run.history[end].metrics.get(key) for end in (0, -1))
    return line_chart(
        [*lines, Line(name=overall.name, x=overall.x, y=overall.y, overall=True)],
        title=title,
        x_label="Round",
        y_label=_METRICS[key],
        alternative=f"{title}: over all sites from {figure(first)} to {figure(last)}.",
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
    """Over all sites only: one site's examples, shared out over groups, are too few to judge."""
    assert run.counts is not None
    k = len(run.classes)
    groups = _FEW_GROUPS if run.counts[0] < _FEW_EXAMPLES else _GROUPS
    lines = []
    for index in range(int(k == 2), k):
        found = calibration(run.counts, k, index, groups)
        name = "All sites" if k == 2 else run.classes[index]
        lines.append(Line(name=name, x=found.predicted, y=found.observed, overall=k == 2))
    return lines


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
        UNDEFINED: "not defined, for example the AUROC where only one class occurs.",
    }


def _curve_words(run: Run) -> dict[str, str]:
    assert run.counts is not None
    k = len(run.classes)
    errors = [
        f"{figure(expected_calibration_error(run.counts, k, index))} for “{run.classes[index]}”"
        for index in range(int(k == 2), k)
    ]
    return {
        "ROC curve": "sensitivity against false alarms for every threshold; the diagonal is "
        "guessing.",
        "Calibration curve": "on the diagonal, of the examples given a probability of 30 %, "
        "30 % are truly of the class.",
        "Expected calibration error": f"mean distance from the diagonal: {', '.join(errors)}.",
    }
