"""What a person reads at the end of a run."""

from typing import Any

from wardround_shared.study.disclosure import NOT_PRIVATE
from wardround_simulations.metric_names import METRICS, NOT_IN_A_LINE


def closing_lines(summary: dict[str, Any]) -> list[str]:
    """What a person reads at the end of a run."""
    dropped = summary["dropped"]
    lines = [f"{summary['study']}: {summary['participation']['sentence']}"]
    lines += [f"  {drop['site']} was left out: {drop['why']}" for drop in dropped]
    for site, cohort in summary["cohorts"].items():
        lines += [f"  {site} set aside {n}: {why}" for why, n in cohort["set_aside"].items()]
    lines += [f"note: {note}" for note in summary["notes"]]
    lines.append(metrics_line("all sites", summary["metrics"]))
    lines += [metrics_line(site, m) for site, m in summary["per_site"].items()][:20]
    if summary.get("personal"):
        lines += _personal_lines(summary["personal"], summary["per_site"])
    privacy, start = summary["privacy"], summary.get("initial_weights")
    if start is not None:
        fresh = ", ".join(start["fresh"]) or "nothing"
        lines.append(
            f"started from: {start['file']}, {start['taken']} arrays; fresh: {fresh}; what those "
            "weights were trained on, this run protects nobody of"
        )
    if privacy["mechanism"] == "none":
        lines.append(f"privacy: {NOT_PRIVATE}")
    else:
        largest = max(privacy["epsilon"].values(), default=0.0)
        lines.append(
            f"privacy: epsilon at most {largest:.2f} at delta {privacy['delta']:g} "
            f"per {privacy['unit']}, at every site"
        )
        least = min(privacy["ledger"].items(), key=lambda book: book[1]["left"])
        lines.append(_ledger_line(*least))
        outside = "; ".join(one["what"] for one in privacy["disclosures"])
        lines.append(f"privacy: outside epsilon: {outside}")
        if summary["noise"] != "system":
            lines.append("privacy: the noise was INJECTED FOR A TEST: this model is not private")
    if summary["secure_aggregation"]:
        lines.append("aggregation: secure: the server could read sums over the sites only")
    else:
        lines.append("aggregation: NOT secure: the server sees each site's update")
    seconds = summary["seconds"]
    lines.append(
        f"time: {seconds['total']:.1f} s, of which {seconds['overhead']:.1f} s overhead; "
        f"peak memory {summary['peak_rss_mb']:.0f} MB"
    )
    lines.append(f"run folder: {summary['run']}")
    return lines


def _personal_lines(personal: dict[str, Any], measured: dict[str, Any]) -> list[str]:
    """The shared model beside each site's own; by site where the lines above were not that."""
    shared, own = personal["shared"], personal["own"]
    lines = [
        metrics_line("all sites, by the shared model", shared["metrics"]),
        metrics_line("all sites, each by its own model", own["metrics"]),
    ]
    if own["per_site"] != measured:
        lines += [metrics_line(f"{s}, by its own", m) for s, m in own["per_site"].items()][:20]
    return lines


def _ledger_line(site: str, book: dict[str, float]) -> str:
    return (
        f"ledger: epsilon {book['left']:.2f} of {book['cap']:g} is left at {site} after all its "
        "studies, and no site has less"
    )


def metrics_line(name: str, measured: dict[str, Any]) -> str:
    """One line: whose they are, and the metrics in the order in which they are looked at."""
    if not measured.get("n"):
        return f"{name}: no validation examples"
    shown = [key for key in METRICS if key not in NOT_IN_A_LINE]
    figures = [f"{key} {measured[key]:.3f}" for key in shown if measured.get(key) is not None]
    return f"{name}: {', '.join(figures)} (n = {measured['n']:.0f})"
