"""The federation with secure aggregation: the same result, and nothing readable on the way."""

import json

import numpy as np
import pytest
from federations import Silent, arrays_of, settings_of
from hospitals import write_hospital

from wardround_client import site
from wardround_client.site import Request, Site
from wardround_server.exchange import Exchange
from wardround_shared.errors import NotEnoughSitesError, PrivacyError, ProtocolError
from wardround_shared.messages import TRAIN, Header
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
    ask_each = Exchange.ask_each

    def listening(self, requests, *, group, deadline):
        for answer in ask_each(self, requests, group=group, deadline=deadline):
            (kind,) = {kind for kind, _ in requests.values()}
            kinds.setdefault(kind, set()).update(answer.content)
            yield answer

    monkeypatch.setattr(Exchange, "ask_each", listening)
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


def test_below_the_threshold_the_round_is_given_up(study_file, hospitals, tmp_path, monkeypatch):
    train = Site.train

    def failing(self, request, model, state):
        if self._cohort.site == "west":
            raise PrivacyError("no")
        return train(self, request, model, state)

    monkeypatch.setattr(Site, "train", failing)
    with pytest.raises(NotEnoughSitesError):
        simulate(settings_of(study_file, hospitals, tmp_path / "run", PLAIN, *SECURE), Silent())
    roster = (tmp_path / "run" / "roster.jsonl").read_text().splitlines()
    assert json.loads(roster[-1])["aggregated"] == []
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_two_sites_cannot_hide_in_a_sum(study_file, hospitals, tmp_path):
    (hospitals / "west.csv").unlink()
    settings = settings_of(
        study_file, hospitals, tmp_path / "run", PLAIN, "aggregation.secure=true"
    )
    with pytest.raises(NotEnoughSitesError, match="secure aggregation takes 3"):
        simulate(settings, Silent())
    assert not (tmp_path / "run").exists()


def test_a_site_never_answers_in_the_clear_when_the_study_demands_masks(
    study_file, hospitals, tmp_path, monkeypatch
):
    """The server cannot talk a site out of secure aggregation by leaving its messages out."""
    refusals = []
    train = Site.train

    def asked_in_the_clear(self, request, model, state):
        bare = Request(
            header=Header(study_id=request.header.study_id, run=request.header.run, round=1),
            secure={},
            digest=b"",
        )
        try:
            train(self, bare, model, state)
        except PrivacyError as error:
            refusals.append(str(error))
        return train(self, request, model, state)

    monkeypatch.setattr(Site, "train", asked_in_the_clear)
    simulate(settings_of(study_file, hospitals, tmp_path / "run", PLAIN, *SECURE), Silent())
    assert len(refusals) == 9
    assert all("in the clear" in refusal for refusal in refusals)


def test_a_site_trains_a_round_once_when_the_server_repeats_it(
    study_file, hospitals, tmp_path, monkeypatch
):
    """The masks refuse a second answer as well, but only after a training that was paid for."""
    refusals, trained = [], []
    answer, train = Site.train, site.train

    def asked_twice(self, request, model, state):
        first = answer(self, request, model, state)
        try:
            answer(self, request, model, state)
        except ProtocolError as error:
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
    # Class counts, two fitted steps, three rounds and the evaluation: each round of the protocol
    # has its five answers, and the setup of one more had begun.
    assert len(list((folder / "spent").iterdir())) == 7 * 5 + 2


def test_a_cohort_above_the_public_bound_is_refused(study_file, hospitals, tmp_path):
    settings = settings_of(
        study_file, hospitals, tmp_path / "run", PLAIN, *SECURE, "aggregation.largest-cohort=10"
    )
    with pytest.raises(NotEnoughSitesError, match=r"largest-cohort|beyond|bound"):
        simulate(settings, Silent())
