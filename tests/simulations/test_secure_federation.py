"""The federation with secure aggregation: the same result, and nothing readable on the way."""

import dataclasses
import json

import numpy as np
import pytest
from federations import Silent, arrays_of, settings_of
from hospitals import write_hospital

from wardround_client import site
from wardround_client.site import Site
from wardround_server.exchange import GridExchange
from wardround_shared.errors import NotEnoughSitesError, PrivacyError
from wardround_shared.messages import TRAIN
from wardround_shared.secure_aggregation.faults import SpentError
from wardround_shared.secure_aggregation.roster import Roster
from wardround_shared.secure_aggregation.site import SecureSite
from wardround_simulations.federation import simulate

SECURE = ("aggregation.secure=true", "aggregation.minimum-sites=3")
PLAIN = "privacy.mechanism=none"


@pytest.fixture
def four_hospitals(hospitals):
    write_hospital(hospitals / "east.csv", seed=9)
    return hospitals


def test_the_model_is_that_of_plain_sums_up_to_rounding(study_file, hospitals, tmp_path):
    simulate(settings_of(study_file, hospitals, tmp_path / "plain", PLAIN), Silent())
    secure = settings_of(study_file, hospitals, tmp_path / "secure", PLAIN, *SECURE)
    summary = simulate(secure, Silent())
    assert summary["secure_aggregation"] is True
    one, other = arrays_of(tmp_path / "plain"), arrays_of(tmp_path / "secure")
    for name in one:
        np.testing.assert_allclose(one[name], other[name], atol=2e-4)


def test_inline_and_process_still_agree_to_the_last_bit(study_file, hospitals, tmp_path):
    for backend in ("inline", "process"):
        settings = settings_of(
            study_file, hospitals, tmp_path / backend, PLAIN, *SECURE, backend=backend
        )
        simulate(settings, Silent())
    one, other = arrays_of(tmp_path / "inline"), arrays_of(tmp_path / "process")
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def test_the_server_receives_nothing_of_a_site_but_its_name_shape_and_masked_bytes(
    study_file, hospitals, tmp_path, monkeypatch
):
    kinds: dict[str, set[str]] = {}
    ask_each = GridExchange.ask_each

    def listening(self, requests, *, group, deadline):
        for answer in ask_each(self, requests, group=group, deadline=deadline):
            (kind,) = {kind for kind, _ in requests.values()}
            kinds.setdefault(kind, set()).update(answer.content)
            yield answer

    monkeypatch.setattr(GridExchange, "ask_each", listening)
    simulate(settings_of(study_file, hospitals, tmp_path / "run", PLAIN, *SECURE), Silent())
    assert kinds.pop("query.hello") == {"greeting"}
    assert set().union(*kinds.values()) == {"secure"}
    assert TRAIN in kinds


def test_a_site_that_fails_in_a_round_is_not_in_the_sum_and_comes_back(
    study_file, four_hospitals, tmp_path, monkeypatch
):
    train = Site.train

    def failing(self, request, model, state):
        if self._cohort.site == "west" and request.header.round == 2:
            raise PrivacyError("no")
        return train(self, request, model, state)

    monkeypatch.setattr(Site, "train", failing)
    watcher = Silent()
    settings = settings_of(
        study_file, four_hospitals, tmp_path / "run", PLAIN, *SECURE, "training.rounds=5"
    )
    summary = simulate(settings, watcher)
    taken = [len(line.aggregated) for line in watcher.closed_rounds]
    # Its keys for round 3 were on the message that it did not answer: it is back in round 4.
    assert taken == [4, 3, 3, 4, 4]
    assert {drop["site"] for drop in summary["dropped"]} == {"west"}
    assert summary["status"] == "complete"


@pytest.fixture
def spoil(monkeypatch):
    """Make a secure round of one site go wrong; the first two are the statistics."""

    def late(self, request, **keys):
        raise PrivacyError("late")

    def false_share(self, request):
        answer = honest["unmask"](self, request)
        (owner, share), *rest = answer.self_seeds
        false = share[:-1] + bytes([share[-1] ^ 1])
        return dataclasses.replace(answer, self_seeds=((owner, false), *rest))

    def wrong_vector(self, request, **keys):
        one_mask = honest["mask"](self, request, **keys)
        apply = one_mask.apply

        def spoilt(vector):
            vector += np.uint32(2**31 - 5)
            return apply(vector)

        one_mask.apply = spoilt
        return one_mask

    honest = {"unmask": SecureSite.unmask, "mask": SecureSite.mask}
    ways = {
        "late": ("mask", late),
        "false share": ("unmask", false_share),
        "wrong vector": ("mask", wrong_vector),
    }

    def make(way: str, sites: set[str], rounds: set[int]):
        method, wrong = ways[way]
        right = honest[method]

        def chosen(self, request, **keys):
            here = self._site in sites and request.context.round in rounds
            return (wrong if here else right)(self, request, **keys)

        monkeypatch.setattr(SecureSite, method, chosen)

    return make


SPOILT = {"late": {"east", "west"}, "false share": {"east", "west"}, "wrong vector": {"east"}}


@pytest.mark.parametrize(
    ("way", "privacy"),
    [(way, privacy) for way in SPOILT for privacy in (PLAIN, "privacy.mechanism=dp-sgd")],
)
def test_a_round_that_is_given_up_moves_nothing_and_the_next_one_starts(
    study_file, four_hospitals, spoil, way, privacy
):
    watcher, run = Silent(), study_file.parent / "run"
    spoil(way, SPOILT[way], {4})  # statistics are 1 and 2, training is 3, 4, 5 and 6
    settings = settings_of(study_file, four_hospitals, run, privacy, *SECURE, "training.rounds=4")
    summary = simulate(settings, watcher)
    assert summary["status"] == "complete"
    assert [one["round"] for one in summary["given_up"]] == [2]
    roster = [json.loads(line) for line in (run / "roster.jsonl").read_text().splitlines()]
    assert [line["round"] for line in roster] == [1, 2, 3, 4]
    assert [len(line["aggregated"]) for line in roster][:2] == [4, 0]
    assert len(roster[1]["dropped"]) == 4
    assert all(len(line["aggregated"]) >= 3 for line in roster[2:])
    rounds = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    assert [line["round"] for line in rounds] == [1, 3, 4, 5], "a round that was given up moved"
    assert [len(line.aggregated) for line in watcher.closed_rounds][1] == 0
    if privacy != PLAIN:
        # Given up or not, a round was paid for where it was trained; it has another number then.
        assert summary["privacy"]["spent"]["north"]["steps"] > 0
        assert all(0 < epsilon <= 8.0 for epsilon in summary["privacy"]["epsilon"].values())


def test_one_false_share_spoils_no_round_with_answers_to_spare(
    study_file, four_hospitals, tmp_path, spoil
):
    spoil("false share", {"east"}, {3, 4, 5})
    watcher = Silent()
    settings = settings_of(study_file, four_hospitals, tmp_path / "run", PLAIN, *SECURE)
    summary = simulate(settings, watcher)
    assert summary["given_up"] == []
    assert [len(line.aggregated) for line in watcher.closed_rounds] == [4, 4, 4]


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_when_every_round_is_given_up_so_is_the_run(
    study_file, four_hospitals, tmp_path, spoil, rounds
):
    spoil("late", {"east", "west"}, set(range(3, 100)))
    run, watcher = tmp_path / "run", Silent()
    settings = settings_of(
        study_file, four_hospitals, run, PLAIN, *SECURE, f"training.rounds={rounds}"
    )
    with pytest.raises(NotEnoughSitesError, match="given up, and so is the run"):
        simulate(settings, watcher)
    roster = (run / "roster.jsonl").read_text().splitlines()
    assert [json.loads(line)["aggregated"] for line in roster] == [[]] * min(rounds, 3)
    assert not (run / "model.safetensors").exists()


def test_a_final_evaluation_that_is_given_up_leaves_the_model(
    study_file, four_hospitals, tmp_path, spoil
):
    spoil("late", {"east", "west"}, {6})
    run = tmp_path / "run"
    with pytest.raises(NotEnoughSitesError):
        simulate(settings_of(study_file, four_hospitals, run, PLAIN, *SECURE), Silent())
    assert (run / "model.safetensors").exists()


def test_two_sites_cannot_hide_in_a_sum(study_file, hospitals, tmp_path):
    (hospitals / "west.csv").unlink()
    settings = settings_of(
        study_file, hospitals, tmp_path / "run", PLAIN, "aggregation.secure=true"
    )
    with pytest.raises(NotEnoughSitesError, match="secure aggregation takes 3"):
        simulate(settings, Silent())
    assert not (tmp_path / "run").exists()


def test_a_site_trains_a_round_once_when_the_server_repeats_it(
    study_file, hospitals, tmp_path, monkeypatch
):
    """The masks refuse a second answer before it is trained and paid for."""
    refusals, trained = [], []
    answer, train = Site.train, site.train

    def asked_twice(self, request, model, state):
        first = answer(self, request, model, state)
        try:
            answer(self, request, model, state)
        except SpentError as error:
            refusals.append(str(error))
        return first

    def listening(module, examples, index, settings):
        trained.append(settings.round)
        return train(module, examples, index, settings)

    monkeypatch.setattr(Site, "train", asked_twice)
    monkeypatch.setattr(site, "train", listening)
    summary = simulate(settings_of(study_file, hospitals, tmp_path / "run", *SECURE), Silent())
    assert summary["dropped"] == []
    assert len(refusals) == 9
    assert sorted(trained) == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert all(7.5 < epsilon <= 8.0 for epsilon in summary["privacy"]["epsilon"].values())


def test_one_shot_state_is_on_disk_before_anything_is_sent(study_file, hospitals, tmp_path):
    simulate(settings_of(study_file, hospitals, tmp_path / "run", PLAIN, *SECURE), Silent())
    folder = tmp_path / "run" / "sites" / "west" / "secure"
    assert (folder / "state").stat().st_mode & 0o777 == 0o600
    assert (folder / "identity.key").stat().st_mode & 0o777 == 0o600
    # Two fitted steps, three rounds and the evaluation: each is a question, spent on the last of
    # the five answers of its round of the protocol; and the setup of one more had begun.
    assert len(list((folder / "spent").iterdir())) == 6 * 5 + 2


def test_a_cohort_above_the_public_bound_is_refused(study_file, hospitals, tmp_path):
    settings = settings_of(
        study_file, hospitals, tmp_path / "run", PLAIN, *SECURE, "aggregation.largest-cohort=10"
    )
    with pytest.raises(NotEnoughSitesError, match=r"than aggregation\.largest-cohort"):
        simulate(settings, Silent())


def test_sites_demand_the_studys_minimum_of_sites(
    study_file, four_hospitals, tmp_path, monkeypatch
):
    """Also if the server's roster would let three of four make a sum."""
    of = Roster.of
    monkeypatch.setattr(Roster, "of", lambda members, minimum_sites: of(members))
    settings = settings_of(
        study_file,
        four_hospitals,
        tmp_path / "run",
        PLAIN,
        "aggregation.secure=true",
        "aggregation.minimum-sites=4",
    )
    with pytest.raises(NotEnoughSitesError, match="this site demands 4"):
        simulate(settings, Silent())
