"""What was learned: metrics, and their way over the rounds."""

import base64

import numpy as np

from wardround_simulations.metric_names import METRICS, first_of, meanings, named
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
from wardround_simulations.report.run import Metrics, Run


def performance(run: Run) -> Markup:
    """Metrics of the final model, overall and per site."""
    if not run.metrics:
        return section("Performance", note("The final model was not evaluated."))
    rows = [("All sites", run.metrics), *sorted(run.per_site.items())]
    names = named(run.metrics)
    cells = [(site, *(_cell(m, key) for key in names), whole(m.get("n"))) for site, m in rows]
    shown = table(
        "Final model on the validation patients, whom no site trained on",
        ("", *names.values(), "Examples"),
        cells,
    )
    return section("Performance", folded(shown, len(rows)), definitions(_performance_words(run)))


def made_images(run: Run) -> Markup | None:
    """What the final model makes; nothing where it makes no images."""
    if not run.made_images:
        return None
    picture = element(
        "img",
        src="data:image/png;base64," + base64.b64encode(run.made_images).decode(),
        alt=f"made images of {', '.join(run.classes)}",
    )
    return section(
        "Made images",
        paragraph(
            "Made by the generator of the final model. One may look like a patient's: epsilon "
            "bounds how much any one patient changed what is made, and no more."
            if run.privacy.private
            else "Made by the generator of the final model, WITHOUT differential privacy: an image "
            "may be a copy of one that it was trained on."
        ),
        picture,
    )


def history(run: Run) -> Markup:
    """Metrics per round and site, as charts and as a table."""
    if not run.history:
        return section("Rounds", note("No round was closed."))
    measured = [line.metrics for line in run.history]
    main = first_of(measured[-1]) or "loss"
    others = ("f1_macro", "balanced_accuracy") if len(run.classes) > 2 else ("balanced_accuracy",)
    keys = [key for key in dict.fromkeys((main, *others, "loss")) if key in measured[-1]]
    charts = [_history_chart(run, key) for key in keys]
    return section(
        "Rounds",
        paragraph(
            "Each point is the global model at the start of that round, measured on the "
            "validation patients; the last point is the final model."
        ),
        element("div", *charts, class_="charts"),
        folded(_history_table(run, main), LONG + 1),
    )


def _history_chart(run: Run, key: str) -> Markup:
    title = f"{METRICS[key]} per round"
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
        y_label=METRICS[key],
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
    return table(f"{METRICS[key]} per round and site", ("Round", "All sites", *sites), rows)


def _cell(metrics: Metrics, key: str) -> str:
    return whole(metrics.get(key)) if key in {"events", "lesions"} else figure(metrics.get(key))


def _performance_words(run: Run) -> dict[str, str]:
    positive = f"“{run.classes[1]}”" if len(run.classes) == 2 else "a class"
    words = meanings(run.metrics, kind=run.kind, positive=positive)
    return words | {UNDEFINED: "not defined, for example the AUROC where only one class occurs."}
