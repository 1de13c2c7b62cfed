"""Words become the same numbers everywhere, and nothing of them is a list."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround_shared.errors import StudyError, UnreadableError
from wardround_shared.preprocessing import Recipe
from wardround_shared.preprocessing.text import PADDING, decode_text, hashed, words
from wardround_shared.study import HashWords, parse_study

STUDY = """
[study]
name = "notes"
task = "text-classification"
classes = ["a", "b"]
[data]
source = "text"
table = ["*.csv"]
text = ["note"]
label = { column = "label" }
[preprocessing]
steps = [{ name = "hash-words", length = 8, runs = 2 }]
[model]
name = "bilstm"
[training]
rounds = 1
learning-rate = 0.1
[privacy]
mechanism = "none"
[aggregation]
secure = false
"""


def decoded(*texts, length=8, runs=1):
    return decode_text(np.array(texts), HashWords(name="hash-words", length=length, runs=runs))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No chest pain.", ["no", "chest", "pain"]),
        ("BP 120/80, 5mg\tt.i.d.", ["bp", "000", "00", "0mg", "t", "i", "d"]),
        ("Why? doesn\u2019t 'it'", ["why", "?", "doesn't", "it"]),
        ("Dyspn\u00f6e = DYSPNO\u0308E", ["dyspn\u00f6e", "dyspn\u00f6e"]),
        ("5\u3392", ["0mhz"]),
        ("\ufb01brosis \uff11\uff12 \u00b2", ["fibrosis", "00", "0"]),
        ("Stra\u00dfe STRASSE", ["strasse", "strasse"]),
        ("\u0926\u0930\u094d\u0926", ["\u0926\u0930\u094d\u0926"]),
        ("a_b\x00c\nd", ["a", "b", "c", "d"]),
        ("' '' ... \x00 \U0001f600", []),
    ],
)
def test_words_are_what_the_docstring_says(text, expected):
    assert words(text) == expected


@given(st.text())
def test_any_text_has_words_without_blanks_that_are_their_own_words(text):
    found = words(text)
    assert all(word and not any(sign.isspace() for sign in word) for word in found)
    assert words(" ".join(found)) == found


def test_a_word_has_the_same_number_on_every_machine():
    # Whoever changes these breaks every stored model and every study under way.
    found = [hashed(["pain"]), hashed(["no", "pain"]), hashed(["?"])]
    assert found == [2056839295, 2114225420, 2014000976]


def test_a_number_does_not_depend_on_the_process():
    code = "from wardround_shared.preprocessing.text import hashed; print(hashed(['pain']))"
    for seed in ("1", "2"):
        out = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert int(out.stdout) == hashed(["pain"])


def test_numbers_are_spread_evenly():
    found = np.array([hashed([f"word {number}"]) for number in range(20_000)])
    assert found.min() > 0
    assert found.max() < 2**31
    counts = np.bincount(found % 64, minlength=64)
    assert np.square(counts - 312.5).sum() / 312.5 < 110  # chi-square, 63 degrees, p = 0.0002


def test_one_number_a_word_and_zeros_after_the_last():
    tokens = decoded("no chest pain", length=5)
    assert tokens.dtype == np.int32
    assert tokens.tolist() == [[hashed(["no"]), hashed(["chest"]), hashed(["pain"]), 0, 0]]
    assert PADDING == 0


def test_runs_begin_at_each_position():
    tokens = decoded("no chest pain", length=4, runs=3)
    no, chest, pain = "no", "chest", "pain"
    assert tokens[1].tolist() == [hashed([no, chest]), hashed([chest, pain]), 0, 0]
    assert tokens[2].tolist() == [hashed([no, chest, pain]), 0, 0, 0]
    assert decoded("pain", length=4, runs=3)[1:].tolist() == [[0] * 4] * 2


def test_of_a_long_text_both_ends_are_kept():
    many = " ".join(chr(ord("a") + i) for i in range(20))
    assert decoded(many, length=5).tolist() == [[hashed([w]) for w in "abcst"]]
    assert decoded(many, length=20).tolist() == [[hashed([w]) for w in many.split()]]


def test_a_text_of_a_million_words_is_cut_and_not_refused():
    tokens = decoded("pain " * 1_000_000, length=16)
    assert tokens.tolist() == [[hashed(["pain"])] * 16]


def test_columns_are_read_one_after_the_other_and_stay_apart():
    tokens = decoded("no", "pain", length=4, runs=2)
    assert tokens[0, [0, 2, 3]].tolist() == [hashed(["no"]), hashed(["pain"]), 0]
    assert hashed(["no", "pain"]) not in tokens[1]
    assert decoded("", "pain", length=4)[0].tolist()[1:] == [hashed(["pain"]), 0, 0]


@pytest.mark.parametrize("text", ["", "  \n", "...", "\x00\x07", "\U0001f600 \u2603", "\ud800"])
def test_a_text_without_a_word_is_unreadable_in_one_phrase(text):
    with pytest.raises(UnreadableError, match=r"^the text has no word\.$"):
        decoded(text)


def test_numbers_go_through_the_recipe_untouched():
    recipe = Recipe(parse_study(STUDY, origin="s"))
    (tokens,) = recipe.decode(np.array(["chest pain"]))
    array = np.stack([tokens, np.full_like(tokens, 2**31 - 1)])
    (ready,) = recipe.transform((array,), ())
    assert ready.dtype == np.int32
    assert (ready == array).all()
    assert recipe.needs_fit == ()
    assert recipe.output_shapes([(2, 8)]) == ((2, 8),)


@pytest.mark.parametrize(
    ("steps", "fault"),
    [
        ("[]", "one hash-words step"),
        ('[{ name = "hash-words" }, { name = "hash-words" }]', "one hash-words step"),
        ('[{ name = "standardise" }]', "does not fit what the data source"),
        ('[{ name = "hash-words" }, { name = "augment" }]', "does not fit what the data source"),
    ],
)
def test_other_steps_are_refused(steps, fault):
    text = STUDY.replace('[{ name = "hash-words", length = 8, runs = 2 }]', steps)
    with pytest.raises(StudyError, match=fault):
        Recipe(parse_study(text, origin="s"))


def test_the_cache_follows_the_step():
    keys = {
        Recipe(parse_study(STUDY.replace("runs = 2", f"runs = {runs}"), origin="s")).cache_key
        for runs in (1, 2)
    }
    assert len(keys) == 2
