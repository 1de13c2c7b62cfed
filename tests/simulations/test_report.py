"""The report says what happened, hides no danger, and runs nothing that a name contains."""

import errno
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wardround_shared.errors import RunFolderError
from wardround_shared.evaluation import count, metrics
from wardround_simulations.report import write_report

HOSTILE = '<script>alert("x")</script>'
VOID = {"meta"}


class Page(HTMLParser):
    """Collects elements and text, and checks that every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data

    def named(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


class RunFolder:
    """A run folder as a simulation leaves it, made up from a seed."""

    def __init__(
        self,
        path: Path,
        *,
        sites: tuple[str, ...] = ("north", "south", "east"),
        classes: tuple[str, ...] = ("absent", "present"),
        rounds: int = 4,
    ) -> None:
        self.path = path
        self.sites, self.classes, self.rounds = sites, classes, rounds
        self._rng = np.random.default_rng(5)
        final = {site: self._counts(3.0) for site in sites}
        self.summary: dict[str, Any] = self._summary(final)
        path.mkdir(parents=True)
        (path / "study.toml").write_text('[model]\nname = "cnn"\n')
        for index, site in enumerate(sites):
            (path / "sites" / str(index)).mkdir(parents=True)
            self._write_lines(f"sites/{index}/journal.jsonl", self._journal(site))
        self._write_lines("rounds.jsonl", self._round_lines())
        self._write_lines("roster.jsonl", self._roster())
        self.save()

    def save(self) -> None:
        (self.path / "summary.json").write_text(json.dumps(self.summary))

    def page(self) -> Page:
        self.save()
        return Page(write_report(self.path).read_text(encoding="utf-8"))

    def _write_lines(self, name: str, lines: list[dict[str, Any]]) -> None:
        (self.path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))

    def _counts(self, skill: float) -> np.ndarray:
        labels = self._rng.integers(len(self.classes), size=60)
        logits = self._rng.normal(size=(60, len(self.classes)))
        logits[np.arange(60), labels] += skill
        odds = np.exp(logits)
        return count(odds / odds.sum(axis=1, keepdims=True), labels)

    def _measured(self, number: int) -> dict[str, Any]:
        return metrics(self._counts(number / self.rounds * 2.0), self.classes)

    def _journal(self, site: str) -> list[dict[str, Any]]:
        return [
            {"site": site, "round": n, "metrics": self._measured(n), "train_loss": 0.5}
            for n in range(1, self.rounds + 2)
        ]

    def _round_lines(self) -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = [
            {
                "round": n,
                "metrics": self._measured(n),
                "invited": len(self.sites),
                "aggregated": len(self.sites),
                "weight": 100.0,
                "seconds": 1.0 + 0.1 * n,
            }
            for n in range(1, self.rounds + 1)
        ]
        final = {"round": self.rounds + 1, "final": True, "metrics": self.summary["metrics"]}
        return [*lines, final]

    def _roster(self) -> list[dict[str, Any]]:
        everyone = list(self.sites)
        dropped = {"site": everyone[-1], "why": "no answer before the deadline"}
        return [
            {
                "round": n,
                "invited": everyone,
                "trained": everyone[:-1] if n == 2 else everyone,
                "aggregated": everyone[:-1] if n == 2 else everyone,
                "dropped": [dropped] if n == 2 else [],
            }
            for n in range(1, self.rounds + 1)
        ]

    def _summary(self, final: dict[str, np.ndarray]) -> dict[str, Any]:
        overall = np.sum(list(final.values()), axis=0)
        spent = {
            "prv": 7.91, "rdp": 8.42, "epsilon": 7.91, "steps": 240,
            "noise_multiplier": 3.2, "sample_rate": 0.33,
        }  # fmt: skip
        book = {"cap": 12.0, "delta": 1e-5, "spent": 9.25, "left": 2.75}
        return {
            "study": "phantom",
            "study_id": "ab" * 32,
            "run": str(self.path),
            "status": "complete",
            "started": "2025-03-01T10:00:00+00:00",
            "sites": len(self.sites),
            "rounds": self.rounds,
            "seed": 0,
            "classes": list(self.classes),
            "metrics": metrics(overall, self.classes),
            "per_site": {site: metrics(c, self.classes) for site, c in final.items()},
            "privacy": {
                "mechanism": "dp-sgd",
                "unit": "record",
                "delta": 1e-5,
                "planned_epsilon": 8.0,
                "epsilon": dict.fromkeys(self.sites, 7.91),
                "spent": dict.fromkeys(self.sites, spent),
                "ledger": dict.fromkeys(self.sites, book),
                "disclosures": [
                    {"what": "the weather", "purpose": "small talk", "form": "exact, once"}
                ],
            },
            "secure_aggregation": True,
            "noise": "system",
            "dropped": [],
            "seconds": {"total": 12.0, "training": 9.0, "overhead": 3.0},
            "peak_rss_mb": 512.0,
            "notes": [],
            "cohorts": {
                site: {
                    "patients": 300,
                    "train": 240,
                    "validation": 60,
                    "classes": dict.fromkeys(self.classes, 100),
                    "set_aside": {"the DICOM file is truncated": 2},
                    "notes": ["one class only"],
                }
                for site in self.sites
            },
            "counts": {
                "overall": overall.tolist(),
                "per_site": {site: c.tolist() for site, c in final.items()},
            },
        }


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


# --- what it says ----------------------------------------------------------------------------


def test_the_headline_names_sites_rounds_and_privacy(run: RunFolder) -> None:
    page = run.page()
    auroc = run.summary["metrics"]["auroc"]
    assert (
        f"A model (cnn) for “phantom” with AUROC {auroc:.3f} on 180 validation examples was "
        "learned by 3 sites in 4 rounds, with differential privacy (dp-sgd per record, epsilon at "
        "most 7.91 at delta 1e-05)." in page.text
    )


def test_a_private_run_raises_no_alarm(run: RunFolder) -> None:
    assert not [a for a in run.page().named("p") if a.get("class") == "warning"]


def test_what_epsilon_leaves_out_is_said_as_the_run_says_it(run: RunFolder) -> None:
    text = run.page().text
    assert "Disclosure statement" in text
    for word in ("the weather", "small talk", "exact, once"):
        assert word in text


def test_what_is_left_in_the_ledgers_is_shown(run: RunFolder) -> None:
    text = run.page().text
    for word in ("Cap of epsilon", "9.25", "2.75"):
        assert word in text


def test_an_older_run_without_ledgers_is_shown_all_the_same(run: RunFolder) -> None:
    for key in ("ledger", "disclosures"):
        del run.summary["privacy"][key]
    assert "Cap of epsilon" not in run.page().text


def test_no_privacy_is_shouted(run: RunFolder) -> None:
    run.summary["privacy"] = {"mechanism": "none", "unit": None, "delta": None, "epsilon": {}}
    page = run.page()
    assert "NO DIFFERENTIAL PRIVACY" in page.text
    assert "WITHOUT differential privacy" in page.text


@pytest.mark.parametrize("noise", ["injected for a test", None])
def test_noise_that_is_not_the_systems_counts_for_nothing(
    run: RunFolder, noise: str | None
) -> None:
    run.summary["noise"] = noise
    page = run.page()
    assert "NOISE WAS INJECTED FOR A TEST" in page.text
    assert "WITHOUT differential privacy" in page.text


@pytest.mark.parametrize("secure", [False, None])
def test_aggregation_that_is_not_said_to_be_secure_is_not(
    run: RunFolder, secure: bool | None
) -> None:
    run.summary["secure_aggregation"] = secure
    assert "SECURE AGGREGATION IS OFF" in run.page().text


@pytest.mark.parametrize("status", ["interrupted", "failed"])
def test_a_run_without_an_end_says_so(run: RunFolder, status: str) -> None:
    run.summary |= {"status": status, "reason": "worker 2 was killed", "metrics": {}}
    run.summary["counts"] = {"overall": [], "per_site": {}}
    text = run.page().text
    assert f"This run {'was interrupted' if status == 'interrupted' else 'failed'}" in text
    assert "worker 2 was killed" in text
    assert "The final model was not evaluated." in text


def test_who_dropped_out_and_why_is_told(run: RunFolder) -> None:
    text = run.page().text
    assert "missing from the sum 1 times" in text
    assert "all but east" in text
    assert "east: no answer before the deadline" in text


def test_cohorts_name_what_was_set_aside(run: RunFolder) -> None:
    text = run.page().text
    assert "the DICOM file is truncated: 2" in text
    assert "one class only" in text


def test_every_number_of_the_summary_is_shown(run: RunFolder) -> None:
    text = run.page().text
    for measured in [run.summary["metrics"], *run.summary["per_site"].values()]:
        for key in ("auroc", "accuracy", "balanced_accuracy", "sensitivity", "specificity"):
            assert f"{measured[key]:.3f}" in text
    assert "8.420" in text
    assert "98.9 %" in text  # 7.91 of 8


def test_an_undefined_metric_is_a_dash_not_a_zero(run: RunFolder) -> None:
    run.summary["metrics"]["auroc"] = None
    labels = np.zeros(10, dtype=np.int64)
    only_one = count(np.tile([0.8, 0.2], (10, 1)), labels)
    run.summary["per_site"]["north"] = metrics(only_one, run.classes)
    run.summary["counts"]["per_site"]["north"] = only_one.tolist()
    text = run.page().text
    assert "with balanced accuracy" in text
    assert "nan" not in text.lower().split()


# --- forms of runs ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sites", "classes"),
    [(1, 2), (30, 2), (2, 3)],
    ids=["one site", "more sites than colours", "three classes"],
)
def test_any_number_of_sites_and_classes_fits(tmp_path: Path, sites: int, classes: int) -> None:
    names = tuple(f"hospital {i}" for i in range(sites))
    run = RunFolder(tmp_path / "run", sites=names, classes=tuple("NSV"[:classes]), rounds=2)
    text = run.page().text
    assert all(name in text for name in names)


# --- what is not there -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ("rounds.jsonl", "rounds.jsonl: no round was closed."),
        ("roster.jsonl", "roster.jsonl: no round was closed."),
        ("study.toml", "study.toml: the study as run."),
        ("sites", "Journals of the sites"),
    ],
)
def test_a_part_that_is_missing_is_named(run: RunFolder, part: str, sentence: str) -> None:
    path = run.path / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert sentence in run.page().text


def test_a_line_cut_short_is_named_and_the_others_are_shown(run: RunFolder) -> None:
    lines = (run.path / "roster.jsonl").read_text()
    (run.path / "roster.jsonl").write_text(lines[:-20])
    text = run.page().text
    assert "roster.jsonl: line 4 is cut short." in text
    assert "all but east" in text


def test_a_folder_without_summary_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"no summary\.json"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        {"classes": None},
        {"counts": {"overall": [1.0, 2.0]}},
        {"privacy": {}},
        {"metrics": {"auroc": "<b>high</b>"}},
    ],
    ids=["no classes", "short counts", "no mechanism", "text for a number"],
)
def test_a_damaged_summary_is_one_clear_error(run: RunFolder, damage: dict[str, Any]) -> None:
    run.summary |= damage
    run.save()
    with pytest.raises(RunFolderError, match="run the study again"):
        write_report(run.path)
    assert not (run.path / "report.html").exists()


def test_a_full_disk_keeps_the_report_that_was_there(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run.path / "report.html").write_text("before")

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(RunFolderError, match="No space left"):
        write_report(run.path)
    assert (run.path / "report.html").read_bytes() == b"before"
    assert not list(run.path.glob(".report*"))


# --- safe, self-contained, readable ----------------------------------------------------------


def hostile(content: Any) -> Any:
    """The same JSON with every free text followed by an attack."""
    match content:
        case dict():
            return {key: hostile(value) for key, value in content.items()}
        case list():
            return [hostile(value) for value in content]
        case str():
            return f"{content}{HOSTILE}"
        case _:
            return content


def test_no_text_of_a_run_can_become_an_element(tmp_path: Path) -> None:
    run = RunFolder(
        tmp_path / "run",
        sites=(HOSTILE, '"><img src=x onerror=alert(1)>', "$\\frac{a}", "Hôpital 東京"),
        classes=("absent", f"present{HOSTILE}"),
    )
    (run.path / "study.toml").write_text(f"# {HOSTILE}\n</code></pre><b>")
    kept = {key: run.summary[key] for key in ("metrics", "counts", "per_site", "classes")}
    run.summary = hostile(run.summary) | kept
    page = run.page()
    assert not page.named("script", "img", "b", "iframe", "object", "link", "base", "form")
    assert all(not name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert page.text.count(HOSTILE) > 10
    assert "$\\frac{a}" in page.text
    assert "Hôpital 東京" in page.text


def test_the_file_asks_the_network_for_nothing(run: RunFolder) -> None:
    page = run.page()
    for _, attributes in page.elements:
        for name, value in attributes.items():
            assert name not in {"src", "srcset", "action", "data"}
            if name.endswith("href"):
                assert value is not None
                assert value.startswith("#")
            if not name.startswith("xmlns"):
                assert "://" not in (value or "")
    text = (run.path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"@import|url\((?!#)", text)
    policy = next(a for a in page.named("meta") if a.get("http-equiv"))
    assert (policy["content"] or "").startswith("default-src 'none'")


def test_ids_are_unique_and_references_resolve(run: RunFolder) -> None:
    page = run.page()
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    text = (run.path / "report.html").read_text(encoding="utf-8")
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
    used |= {str(a["aria-labelledby"]) for _, a in page.elements if "aria-labelledby" in a}
    assert used <= set(ids)


def test_drawings_have_a_title_and_tables_have_headers(run: RunFolder) -> None:
    page = run.page()
    drawings = [a for a in page.named("svg") if a.get("aria-hidden") != "true"]
    assert len(drawings) == 6
    assert all(a.get("role") == "img" and a.get("aria-labelledby") for a in drawings)
    assert len(page.named("caption")) == len(page.named("table")) >= 6
    assert all(a.get("scope") in {"col", "row"} for a in page.named("th"))


def test_the_same_run_gives_the_same_bytes(run: RunFolder) -> None:
    first = write_report(run.path).read_bytes()
    assert write_report(run.path).read_bytes() == first


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2.2)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def palettes() -> Iterator[dict[str, str]]:
    css = files("wardround_simulations.report").joinpath("page.css").read_text("utf-8")
    for block in re.findall(r":root \{(.*?)\}", css, flags=re.DOTALL):
        yield dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", block))


def test_colours_can_be_told_from_the_paper_in_light_in_dark_and_in_print() -> None:
    found = list(palettes())
    assert len(found) == 3
    for palette in found:
        paper = palette["paper"]
        assert contrast(palette["ink"], paper) >= 7.0
        assert contrast(palette["ink"], palette["panel"]) >= 7.0
        assert contrast(palette["accent"], paper) >= 4.5
        assert contrast(palette["alarm"], palette["alarm-paper"]) >= 4.5
        for name, colour in palette.items():
            if name.startswith(("line-", "overall", "faint")):
                assert contrast(colour, paper) >= 3.0, name
