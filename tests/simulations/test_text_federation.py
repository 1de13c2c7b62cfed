"""A federation over texts: no word leaves a hospital, and what an update shows is known."""

import csv
import random

import numpy as np
import pytest
from federations import Silent, arrays_of, settings_of

from wardround_server.exchange import GridExchange
from wardround_shared.preprocessing.text import hashed, words
from wardround_shared.study import disclosures, load_study
from wardround_simulations.federation import simulate

STUDY = """
[study]
name = "notes"
task = "text-classification"
classes = ["absent", "present"]
[data]
source = "text"
table = ["*.csv"]
text = ["note"]
label = { column = "finding" }
patient = "patient"
site = { file = "(.+)[.]csv" }
[preprocessing]
steps = [{ name = "hash-words", length = 16, runs = 2 }]
[model]
name = "bilstm"
buckets = 512
embedding = 4
hidden = 4
[training]
rounds = 2
batch-size = 8
learning-rate = 0.5
[privacy]
mechanism = "none"
[aggregation]
secure = false
minimum-sites = 3
"""
SITES = ("north", "south", "west")
OWN = {site: [f"{site}ish{chr(97 + number) * 3}" for number in range(26)] for site in SITES}


def write(folder, *, own=26):
    """Three hospitals, each with words of its own; the first of a text says the finding."""
    draw = random.Random(5)
    for site in SITES:
        with (folder / f"{site}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["patient", "finding", "note"])
            for row in range(40):
                finding = draw.choice(["absent", "present"])
                rest = " ".join(draw.choices(OWN[site][:own], k=8))
                cell = f"{'blankish' if finding == 'absent' else 'densish'} lungish,\n{rest}."
                writer.writerow([f"{site}-{row}", finding, cell])


@pytest.fixture
def notes(tmp_path):
    (tmp_path / "data").mkdir()
    write(tmp_path / "data")
    study = tmp_path / "notes.toml"
    study.write_text(STUDY, encoding="utf-8")
    return study


def listened(monkeypatch):
    """Everything that any site sends: kind of question, name of record, field, content."""
    heard = []
    ask_each = GridExchange.ask_each

    def listening(self, requests, *, group, deadline):
        for answer in ask_each(self, requests, group=group, deadline=deadline):
            (kind,) = {kind for kind, _ in requests.values()}
            for name, record in (answer.content or {}).items():
                for field, value in record.items():
                    data = getattr(value, "data", None)
                    content = data if data is not None else repr(value).encode()
                    heard.append((kind, name, field, bytes(content)))
            yield answer

    monkeypatch.setattr(GridExchange, "ask_each", listening)
    return heard


def spelt(word):
    """The forms in which a word, or its number, could be read in what is sent."""
    number = hashed([word])
    as_number = [np.array([number], kind).tobytes() for kind in ("<i8", ">i8", "<f8")]
    return [word.encode(), word.encode("utf-16-le"), str(number).encode(), *as_number]


def test_no_word_and_no_number_of_a_word_leaves_a_site(notes, tmp_path, monkeypatch):
    heard = listened(monkeypatch)
    simulate(settings_of(notes, tmp_path / "data", tmp_path / "run"), Silent())
    files = [file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()]
    sent = b"\n".join([*(content for *_, content in heard), *files])
    assert len(heard) > 10
    for word in sum(OWN.values(), ["blankish", "densish", "lungish"]):
        assert words(word) == [word]
        assert not any(form in sent for form in spelt(word))


def test_what_is_sent_has_the_same_size_whatever_words_there_are(notes, tmp_path, monkeypatch):
    sizes = []
    for own in (1, 26):
        write(tmp_path / "data", own=own)
        with monkeypatch.context() as context:
            heard = listened(context)
            simulate(settings_of(notes, tmp_path / "data", tmp_path / f"run-{own}"), Silent())
        numbers = [(kind, name, field, len(data)) for kind, name, field, data in heard]
        sizes.append(sorted(one for one in numbers if one[0] != "query.hello"))
    assert sizes[0] == sizes[1]


def touched(delta):
    """Buckets whose vectors an update changes, from the delta of all parameters [P]."""
    table = delta[: 512 * 4].reshape(512, 4)
    return set(np.flatnonzero(np.abs(table).max(axis=1) > 0).tolist())


def site_updates(notes, tmp_path, monkeypatch, *overrides):
    """What each site's training changes, as it is before it is masked."""
    from wardround_client import site as module

    found = {}
    train = module.train

    def watching(trained, examples, index, settings):
        delta = train(trained, examples, index, settings)
        found.setdefault(len(found), delta)
        return delta

    monkeypatch.setattr(module, "train", watching)
    simulate(settings_of(notes, tmp_path / "data", tmp_path / "run", *overrides), Silent())
    return [found[number] for number in range(3)]


def test_without_privacy_an_update_shows_the_buckets_of_a_sites_words(notes, tmp_path, monkeypatch):
    """As the threat model says: whoever reads one site's update can try a list of words on it."""
    updates = site_updates(notes, tmp_path, monkeypatch)
    table = [touched(delta) for delta in updates]
    assert all(0 < len(buckets) < 512 for buckets in table)


def test_under_privacy_every_bucket_changes(notes, tmp_path, monkeypatch):
    updates = site_updates(notes, tmp_path, monkeypatch, "privacy.mechanism=dp-sgd")
    assert all(touched(delta) == set(range(512)) for delta in updates)


def test_secure_sums_give_the_model_that_plain_sums_give(notes, tmp_path):
    simulate(settings_of(notes, tmp_path / "data", tmp_path / "plain"), Silent())
    secure = settings_of(notes, tmp_path / "data", tmp_path / "secure", "aggregation.secure=true")
    summary = simulate(secure, Silent())
    assert summary["metrics"]["n"] > 0
    one, other = arrays_of(tmp_path / "plain"), arrays_of(tmp_path / "secure")
    for name in one:
        np.testing.assert_allclose(one[name], other[name], atol=2e-4)


def test_the_statement_says_what_the_update_shows(notes):
    told = {}
    for mechanism in ("none", "dp-sgd"):
        study = load_study(notes, [f"privacy.mechanism={mechanism}"])
        told[mechanism] = [one for one in disclosures(study) if "buckets" in one.what]
    assert len(told["none"]) == 1
    assert "list of words" in told["none"][0].what
    assert not told["dp-sgd"]
