"""`wardround bench deployment` measures what it says; the daemons have tests of their own."""

import os
import subprocess
import sys
import tomllib

import pytest

from wardround_client.data_sets import DataSets, cohort_for
from wardround_server.enrolment.home import ServerHome
from wardround_server.enrolment.settings import settings_text
from wardround_shared.models import build_model, parameter_count
from wardround_shared.preprocessing import Recipe
from wardround_shared.supervision import free_port
from wardround_shared.times import utc_now
from wardround_simulations.benchmarks import deployment, stock_flower


@pytest.fixture
def site(tmp_path):
    settings = settings_text(
        address=f"localhost:{free_port()}", health_port=free_port(), metrics_port=free_port()
    )
    server = ServerHome.init(tmp_path / "server", settings=settings, now=utc_now())
    return deployment._enrolled(tmp_path, server, "north")


@pytest.mark.parametrize("secure", [True, False])
def test_the_model_has_the_parameters_that_are_told_and_the_site_can_train_it(site, secure):
    study = deployment._study(3, secure=secure)
    data_set = DataSets(site.data_sets).get("bench")
    cohort = cohort_for(study, data_set, site="north", cache=site.cache)
    shapes = Recipe(study).output_shapes(tuple(tuple(a.shape[1:]) for a in cohort.arrays))
    module = build_model(study.model, shapes, len(study.study.classes))
    assert parameter_count(module) == deployment.PARAMETERS
    assert study.aggregation.secure is secure
    assert len(cohort.train)


def test_the_stock_app_is_a_whole_flower_app_of_the_same_size():
    app = tomllib.loads((stock_flower._APP / "pyproject.toml").read_text(encoding="utf-8"))
    components = app["tool"]["flwr"]["app"]["components"]
    assert components == {"serverapp": "stock_app:server", "clientapp": "stock_app:client"}
    assert (stock_flower._APP / "stock_app.py").is_file()


def test_memory_and_time_of_a_family_of_processes_are_counted():
    work = "sum(range(10**7)); print(flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", work], stdin=pipe, stdout=pipe) as child:
        child.stdout.readline()
        assert child.pid in deployment._family(os.getpid())
        assert deployment._resident_kb(child.pid) > 1000
        assert deployment._resident_kb(os.getpid()) > 1000
        child.communicate(b"\n")
