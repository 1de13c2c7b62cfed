"""How the study was conducted: privacy, participation, cohorts, time, the study file."""

from collections.abc import Sequence
from itertools import groupby

from wardround_simulations.report.figures import bar_chart
from wardround_simulations.report.markup import (
    LONG,
    UNDEFINED,
    Child,
    Markup,
    definitions,
    element,
    figure,
    folded,
    joined,
    listing,
    note,
    paragraph,
    section,
    table,
    whole,
)
from wardround_simulations.report.run import RosterLine, Run


def privacy(run: Run) -> Markup:
    """Privacy spent per site against what was planned."""
    promised = run.privacy
    if promised.mechanism == "none":
        return section(
            "Privacy",
            paragraph(
                "No differential privacy was used (mechanism = none). Nothing bounds what the "
                "model may reveal about a single patient."
            ),
            *_disclosures(run),
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
    return section(
        "Privacy",
        folded(shown, len(rows)),
        *_ledgers(run),
        *_disclosures(run),
        definitions(_privacy_words(run)),
    )


def _ledgers(run: Run) -> list[Markup]:
    """What each site's ledger holds after the run, over all studies."""
    books = sorted(run.privacy.ledger.items())
    if not books:
        return []
    rows = [
        (
            site,
            figure(book.cap),
            figure(book.delta, ".3g"),
            figure(book.spent),
            figure(book.left),
        )
        for site, book in books
    ]
    head = ("Site", "Cap of epsilon", "At delta", "Spent in all studies", "Left")
    return [folded(table("The sites' ledgers after this run", head, rows), len(rows))]


def _disclosures(run: Run) -> list[Markup]:
    """What left the sites beside what epsilon covers."""
    told = run.privacy.disclosures
    if not told:
        return []
    rows = [(one.what, one.purpose, one.form) for one in told]
    head = ("What left a site and is outside epsilon", "What for", "How")
    return [table("Disclosure statement", head, rows, text_columns=3)]


def participation(run: Run) -> Markup:
    """Who took part in each round, who dropped out and why."""
    if not run.roster:
        return section("Participation", note("No round was closed."))
    everyone = sorted({site for line in run.roster for site in line.invited})
    rows: list[tuple[Child, ...]] = [
        (
            _span([line.number for line in lines]),
            *(_names(sites, everyone) for sites in (first.invited, first.trained)),
            _names(first.aggregated, everyone),
            listing([f"{site}: {why}" for site, why in first.dropped]),
        )
        for lines in _alike(run.roster)
        for first in lines[:1]
    ]
    lost = sum(len(line.dropped) for line in run.roster)
    summary = (
        f"An invited site was missing from the sum {lost} times."
        if lost
        else "Every invited site took part in every round."
    )
    rest = f" and {len(everyone) - LONG} more" if len(everyone) > LONG else ""
    shown = table(
        "Who took part in each round",
        ("Rounds", "Invited", "Trained", "In the sum", "Dropped out, and why"),
        rows,
        text_columns=5,
    )
    return section(
        "Participation",
        paragraph(f"{summary} Sites: {', '.join(everyone[:LONG])}{rest}."),
        folded(shown, len(rows)),
    )


def cohorts(run: Run) -> Markup:
    """What each site brought, and what was left out for which reason."""
    if not run.cohorts:
        return section("Cohorts", note("The run folder says nothing about cohorts."))
    rows: list[tuple[Child, ...]] = []
    groups = list(dict.fromkeys(name for one in run.cohorts.values() for name in one.classes))
    for site, cohort in sorted(run.cohorts.items()):
        classes = (whole(cohort.classes.get(name, 0)) for name in groups)
        aside = [f"{why}: {n}" for why, n in cohort.set_aside.items()]
        numbers = (whole(cohort.patients), whole(cohort.train), whole(cohort.validation), *classes)
        rows.append((site, listing(aside), listing(list(cohort.notes)), *numbers))
    head = (
        "Site", "Set aside", "Notes", "Patients", "Training examples", "Validation examples",
        *(f"Class {name}" if name in run.classes else name.capitalize() for name in groups),
    )  # fmt: skip
    shown = table("What each site brought to the study", head, rows, text_columns=3)
    words = {
        "Set aside": "examples that could not be read or used, for each reason; nobody trained "
        "on them.",
        "Validation examples": "examples of patients who were kept out of training.",
    }
    notes = [element("p", note, class_="note") for note in run.notes]
    return section("Cohorts", *notes, folded(shown, len(rows)), definitions(words))


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
        parts = [note("No times were recorded.")]
    words = {"Overhead": "everything outside local training and evaluation."}
    return section("Time", element("div", *parts, class_="charts"), definitions(words))


def study(run: Run) -> Markup:
    """The study as run."""
    identity = paragraph(
        f"Study id {run.study_id}; run {run.name}; seed {'-' if run.seed is None else run.seed}."
    )
    if not run.study_text:
        return section("Study as run", identity, note("The run folder has no study.toml."))
    text = element("pre", element("code", run.study_text), tabindex="0", aria_label="study.toml")
    return section("Study as run", identity, text)


def _against(epsilon: float, planned: float | None) -> Child:
    if not planned:
        return UNDEFINED
    share = 100.0 * epsilon / planned
    bar = element("span", class_="bar", style=f"--share:{min(share, 100.0):.1f}%")
    return joined(bar, f"{share:.1f} %")


def _alike(roster: Sequence[RosterLine]) -> list[list[RosterLine]]:
    """Neighbouring rounds in which the same sites did the same."""
    return [
        list(lines)
        for _, lines in groupby(
            roster, key=lambda line: (line.invited, line.trained, line.aggregated, line.dropped)
        )
    ]


def _span(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def _names(sites: Sequence[str], everyone: Sequence[str]) -> str:
    """The sites by name, or by who is not among them, whichever is shorter."""
    absent = [site for site in everyone if site not in set(sites)]
    if not sites:
        return "none"
    if not absent:
        return "the only site" if len(everyone) == 1 else f"all {len(everyone)}"
    if len(absent) < len(sites):
        return f"all but {', '.join(absent)}"
    return ", ".join(sites)


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
        "differential privacy); the larger one counts.",
        "Noise multiplier": "noise added to each step, in units of the clipping bound.",
        "Sample rate": f"probability with which a {unit} enters a step.",
        "Ledger": "each site keeps an account over all studies, and refuses what passes its cap.",
    }
