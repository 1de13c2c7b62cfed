"""Hospitals that train a model of their own after the last round: paid for, and kept at home."""

import pytest
from daemons import Consortium, started
from safetensors.numpy import load_file

from wardround_client.personal_files import MODEL, PERSONAL
from wardround_server.run_folder import read_model

pytestmark = [pytest.mark.timeout(300), pytest.mark.long_form]

OF_A_RUN = (
    "aggregation.secure=true",
    "aggregation.minimum-sites=3",
    "aggregation.deadline=60.0",
    "training.rounds=2",
    "personal.fine-tune-epochs=2",
)


def test_each_hospital_ends_with_a_model_of_its_own(folder, study):
    made = Consortium.found(folder, ("north", "south", "west"))
    with started(made) as consortium:
        run = consortium.submit(study, "own", *OF_A_RUN)
        run.finish()
        shared, _ = read_model(run.folder)
        for site in consortium.sites.values():
            (file,) = site.files.runs.glob(f"*/{PERSONAL}/{MODEL}")
            own = load_file(file)
            assert own.keys() == shared.keys()
            assert any((own[name] != array).any() for name, array in shared.items())
            assert site.payments("own") == [(number, "committed") for number in (1, 2, 3)]
        assert not list(consortium.server.home.rglob(PERSONAL))
