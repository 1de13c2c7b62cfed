"""The page around the sections: headline, warnings, contents."""

from importlib.resources import files

from wardround_simulations.metric_names import METRICS, first_of
from wardround_simulations.report import conduct, discrimination, learning
from wardround_simulations.report.markup import Markup, element, figure, section, whole
from wardround_simulations.report.run import Run

# No script, no request: whatever a name contains, the browser has nothing that it may fetch or run.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)
_STATUS = {
    "interrupted": "This run was interrupted and did not finish.",
    "failed": "This run failed and did not finish.",
}


def page(run: Run) -> str:
    """The whole report as one HTML document."""
    parts = [
        learning.performance(run),
        learning.made_images(run),
        learning.history(run),
        discrimination.curves(run),
        discrimination.confusions(run),
        conduct.privacy(run),
        conduct.participation(run),
        conduct.cohorts(run),
        conduct.time(run),
        conduct.study(run),
    ]
    title = f"{run.study}: report of a federated study"
    head = element(
        "head",
        Markup('<meta charset="utf-8">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<meta name="color-scheme" content="light dark">'),
        element("title", title),
        element("style", Markup(files(__package__).joinpath("page.css").read_text("utf-8"))),
    )
    body = element("body", _header(run), element("main", _missing(run), *parts))
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def headline(run: Run) -> str:
    """One sentence: what was learned, by how many sites in how many rounds, how privately."""
    model = f"A model ({run.model})" if run.model else "A model"
    learned = f"{model} for “{run.study}”" + _score(run)
    by = f"learned by {_count(run.sites, 'site')} in {_count(run.rounds, 'round')}"
    verb = "was" if run.status == "complete" else "was being"
    return f"{learned} {verb} {by}, {_protection(run)}."


def warnings(run: Run) -> list[str]:
    """What a reader must not overlook, most serious first."""
    found = []
    if run.status != "complete":
        sentence = _STATUS.get(run.status, f"This run ended with status “{run.status}”.")
        found.append(sentence + (f" Reason: {run.reason}" if run.reason else ""))
    if run.privacy.mechanism == "none":
        found.append(
            "NO DIFFERENTIAL PRIVACY (mechanism = none). The model may reveal records of the "
            "patients it was trained on; do not pass it on as if it were anonymous."
        )
    elif run.privacy.injected_noise:
        found.append(
            "NOISE WAS INJECTED FOR A TEST. It can be computed again and removed, so nothing in "
            "this run is private, whatever epsilon says below."
        )
    if not run.secure_aggregation:
        found.append(
            "SECURE AGGREGATION IS OFF. The server sees the update of each single site, not only "
            "their sum."
        )
    return found


def _header(run: Run) -> Markup:
    boxes = [element("p", text, class_="warning", role="note") for text in warnings(run)]
    status = f"Status: {run.status}. Started: {run.started or 'not recorded'}. Run: {run.name}."
    return element(
        "header",
        element("p", "Wardround report", class_="kicker"),
        element("h1", headline(run)),
        element("p", status, class_="status"),
        *boxes,
    )


def _missing(run: Run) -> Markup | None:
    if not run.missing:
        return None
    items = (element("li", text) for text in run.missing)
    return section("Not in this run folder", element("ul", *items))


def _score(run: Run) -> str:
    key = first_of(run.metrics)
    if key is None:
        return ""
    n = whole(run.metrics.get("n"))
    name = METRICS[key].lower() if " " in METRICS[key] else METRICS[key]
    return f" with {name} {run.metrics[key]:.3f} on {n} validation examples"


def _protection(run: Run) -> str:
    privacy = run.privacy
    if privacy.mechanism == "none":
        return "WITHOUT differential privacy"
    if privacy.injected_noise:
        return "with test noise and therefore WITHOUT differential privacy"
    largest = max((spent.epsilon for spent in privacy.spent.values()), default=None)
    if largest is None and privacy.planned_epsilon is not None and run.status == "complete":
        return (
            f"with differential privacy ({privacy.mechanism} per {privacy.unit}, epsilon at most "
            f"{privacy.planned_epsilon:g} at delta {figure(privacy.delta, '.3g')} by each site's "
            "own ledger, which no report can look into)"
        )
    if largest is None:
        return f"with {privacy.mechanism}, of which no site recorded a spending"
    return (
        f"with differential privacy ({privacy.mechanism} per {privacy.unit}, epsilon at most "
        f"{largest:.2f} at delta {figure(privacy.delta, '.3g')})"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
