"""ROC and calibration curves and the confusion matrix, of tasks with classes. K = classes."""

from dataclasses import dataclass

import numpy as np

from wardround_shared.evaluation import (
    calibration,
    confusion,
    expected_calibration_error,
    roc,
)
from wardround_shared.tasks import MultiLabel
from wardround_simulations.report.figures import Line, line_chart
from wardround_simulations.report.markup import (
    Markup,
    definitions,
    element,
    figure,
    note,
    paragraph,
    section,
    table,
    whole,
)
from wardround_simulations.report.run import Counts, Run

# Groups of a calibration curve; with few examples fewer groups, so that each says something.
_GROUPS, _FEW_GROUPS, _FEW_EXAMPLES = 10, 5, 500

_WITH_CLASSES = {"classification", "multilabel-classification"}


@dataclass(frozen=True, kw_only=True)
class _Curve:
    """What a curve is drawn from: one class against the rest, at one site or at all.

    Attributes:
        classes: K of the counts.
        index: of the class.
        overall: whether it is over all sites and all that is drawn.
    """

    name: str
    counts: Counts
    classes: int
    index: int
    overall: bool


def curves(run: Run) -> Markup | None:
    """ROC and calibration curves of the final model; None for a task without classes."""
    if run.kind not in _WITH_CLASSES:
        return None
    if run.counts is None:
        return section("Discrimination and calibration", note("There are no counts to draw."))
    positive = "each class against the rest" if _several(run) else run.classes[-1]
    return section(
        "Discrimination and calibration",
        element(
            "div",
            line_chart(
                [_roc(curve) for curve in _curves(run)],
                title="ROC curve",
                x_label="1 - specificity",
                y_label="Sensitivity",
                alternative=f"ROC curves for {positive}; AUROC over all sites is "
                f"{figure(run.metrics.get('auroc'))}.",
                unit_square=True,
                diagonal=True,
            ),
            line_chart(
                [_calibration(curve) for curve in _over_all_sites(run)],
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
        definitions(_words(run)),
    )


def confusions(run: Run) -> Markup | None:
    """Confusion matrix of the final model over all sites; None without one class of several."""
    if run.kind != "classification":
        return None
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


def _several(run: Run) -> bool:
    """Whether there is more than one class to draw."""
    return run.kind != "classification" or len(run.classes) > 2


def _over_all_sites(run: Run) -> list[_Curve]:
    """Each positive class over all sites: one site's examples are too few for a calibration."""
    assert run.counts is not None
    if run.kind == "multilabel-classification":
        task = MultiLabel(run.classes)
        return [
            _Curve(
                name=name, counts=task.of_finding(run.counts, k), classes=2, index=1, overall=False
            )
            for k, name in enumerate(run.classes)
        ]
    classes = len(run.classes)
    if classes == 2:
        return [_Curve(name="All sites", counts=run.counts, classes=2, index=1, overall=True)]
    return [
        _Curve(name=name, counts=run.counts, classes=classes, index=k, overall=False)
        for k, name in enumerate(run.classes)
    ]


def _curves(run: Run) -> list[_Curve]:
    """With one positive class every site and all; with more, each over all sites."""
    overall = _over_all_sites(run)
    if _several(run):
        return overall
    sites = sorted(run.site_counts.items())
    return [
        *(_Curve(name=s, counts=counts, classes=2, index=1, overall=False) for s, counts in sites),
        *overall,
    ]


def _roc(curve: _Curve) -> Line:
    x, y = roc(curve.counts, curve.classes, curve.index)
    return Line(name=curve.name, x=x, y=y, overall=curve.overall)


def _calibration(curve: _Curve) -> Line:
    groups = _FEW_GROUPS if curve.counts[0] < _FEW_EXAMPLES else _GROUPS
    found = calibration(curve.counts, curve.classes, curve.index, groups)
    return Line(name=curve.name, x=found.predicted, y=found.observed, overall=curve.overall)


def _shaded(n: float, share: float) -> Markup:
    style = f"--share:{100.0 * share:.0f}%"
    return element("span", f"{whole(n)} ({100.0 * share:.0f} %)", class_="cell", style=style)


def _words(run: Run) -> dict[str, str]:
    errors = [
        f"{figure(expected_calibration_error(curve.counts, curve.classes, curve.index))} for "
        f"“{run.classes[1] if curve.overall else curve.name}”"
        for curve in _over_all_sites(run)
    ]
    return {
        "ROC curve": "sensitivity against false alarms for every threshold; the diagonal is "
        "guessing.",
        "Calibration curve": "on the diagonal, of the examples given a probability of 30 %, "
        "30 % are truly of the class.",
        "Expected calibration error": f"mean distance from the diagonal: {', '.join(errors)}.",
    }
