"""A model over HTTP: the same answers as `predict`, and nobody else's ears."""

import asyncio
import json
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import httpx
import pytest
from trained import TAIL, VOLUMES, trained, write_volumes
from typer.testing import CliRunner

from wardround_simulations import cli
from wardround_simulations.prediction.output import as_json
from wardround_simulations.prediction.predictor import Predictor
from wardround_simulations.serving.app import build_app

ROW = "age,pressure,sex\n61,140,m\n"
TOKEN = "0123456789abcdef" * 4


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from hospitals import HOSPITALS, STUDY, write_hospital

    folder = tmp_path_factory.mktemp("serving")
    (folder / "data").mkdir()
    for seed, name in enumerate(HOSPITALS):
        write_hospital(folder / "data" / f"{name}.csv", seed=seed)
    return trained(STUDY, folder / "data", folder, "privacy.mechanism=none")


class Client:
    """Asks an interface without a network between."""

    def __init__(self, app):
        self._transport = httpx.ASGITransport(app=app)

    def get(self, path, **options):
        return asyncio.run(self._ask("GET", path, **options))

    def post(self, path, **options):
        return asyncio.run(self._ask("POST", path, **options))

    async def _ask(self, method, path, **options):
        base = "http://localhost"
        async with httpx.AsyncClient(transport=self._transport, base_url=base) as client:
            return await client.request(method, path, **options)


@pytest.fixture
def client(run):
    return Client(build_app(Predictor(run), hosts=("localhost",), token=None))


def ask(client, body=ROW, kind="csv", **options):
    return client.post(f"/predict?kind={kind}", content=body, **options)


def test_an_answer_is_that_of_predict(client, run, tmp_path):
    file = tmp_path / "new.csv"
    file.write_text(ROW)
    expected = as_json(Predictor(run).ask([file]))["predictions"][0]
    found = ask(client).json()
    assert found["predictions"][0] | {"input": ""} == expected | {"input": ""}
    assert found["run"] == run.name
    assert found["study_id"]
    assert "NONE" in found["predictions"][0]["not_private"]


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    pytest.importorskip("nibabel", reason="the extra 'nifti' is not installed")
    folder = tmp_path_factory.mktemp("volumes")
    (folder / "data").mkdir()
    files = write_volumes(folder / "data")
    return trained(VOLUMES + TAIL, folder / "data", folder), files[0][0]


class TestColumns:
    def ask(self, volumes, query):
        run, file = volumes
        client = Client(build_app(Predictor(run), hosts=("localhost",), token=None))
        return client.post(f"/predict?kind=nii.gz{query}", content=file.read_bytes())

    def test_columns_beside_an_input_are_parameters(self, volumes):
        run, file = volumes
        table = file.parent / "labels.csv"  # 40 years old
        expected = as_json(Predictor(run).ask([file], columns=table))["predictions"]
        found = self.ask(volumes, "&column.age=40").json()["predictions"]
        assert [one | {"input": ""} for one in found] == [one | {"input": ""} for one in expected]
        assert [one["input"] for one in found] == ["input.nii.gz#1", "input.nii.gz#3"]

    @pytest.mark.parametrize(
        ("query", "why"),
        [
            ("", "the model takes age beside the file, and age was not given"),
            ("&column.agee=40", "the model takes age beside the file, and age was not given"),
            ("&column.age=old", "column age holds no finite number"),
            ("&column.age=40&column.age=41", "A column is given twice"),
            ("&column.age=40&column.sex=f", "the model takes age beside the file, not sex"),
            ("&column.age=40&age=41", "The parameters are kind, and column.NAME for each column"),
        ],
    )
    def test_columns_that_cannot_be_used_are_one_sentence(self, volumes, query, why):
        answer = self.ask(volumes, query)
        assert answer.status_code == 422
        assert why in answer.json()["detail"]


def test_columns_for_a_model_that_takes_none_are_refused(client):
    answer = ask(client, kind="csv&column.age=4")
    assert answer.status_code == 422
    assert "the model takes none beside a file" in answer.json()["detail"]


def test_no_answer_says_where_anything_lies_on_this_machine(client, run):
    texts = [ask(client).text, ask(client, "age,sex\n1,m\n").text, ask(client, "", "png").text]
    for text in texts:
        assert tempfile.gettempdir() not in text
        assert str(run.parent) not in text


def test_nothing_is_left_of_an_input(client):
    def left():
        return sorted(Path(tempfile.gettempdir()).glob("wardround-*/input.*"))

    before = left()
    ask(client)
    ask(client, "no table", "png")
    assert left() == before


def test_health_and_card(client):
    assert client.get("/health").json()["status"] == "ready"
    assert client.get("/card").text.startswith("# Model card")
    assert "/predict" in client.get("/openapi.json").json()["paths"]


@pytest.mark.parametrize(
    ("body", "kind", "status", "said"),
    [
        ("age,sex\n61,m\n", "csv", 422, "pressure"),
        ("", "csv", 422, ""),
        (ROW, "exe", 422, "kind"),
        (ROW, "../../etc/passwd", 422, "kind"),
        (b"\x89PNG\r\n", "png", 422, ""),
    ],
)
def test_what_cannot_be_used_is_refused_in_words(client, body, kind, status, said):
    answer = ask(client, body, kind)
    assert answer.status_code == status
    assert said in answer.text


def test_a_body_that_is_too_large_is_refused_before_it_is_read(run):
    app = build_app(Predictor(run), hosts=("localhost",), token=None, largest=100)
    client = Client(app)
    assert ask(client, ROW).status_code == 200
    assert ask(client, ROW + "x" * 100).status_code == 413


def test_a_page_of_another_name_reaches_nothing(client):
    for path in ("/health", "/card", "/openapi.json"):
        assert client.get(path, headers={"host": "evil.example"}).status_code == 400
    assert ask(client, headers={"host": "evil.example"}).status_code == 400


@pytest.mark.parametrize(
    "headers",
    [{"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}],
)
def test_a_page_cannot_feed_it_files(client, headers):
    assert ask(client, headers=headers).status_code == 403


def test_no_page_of_its_own_loads_scripts(client):
    assert client.get("/docs").status_code == 404
    assert client.get("/redoc").status_code == 404


def test_without_the_token_only_health_answers(run):
    app = build_app(Predictor(run), hosts=("localhost",), token=TOKEN)
    client = Client(app)
    assert client.get("/health").status_code == 200
    for wrong in ({}, {"Authorization": f"Bearer {TOKEN[:-1]}"}, {"Authorization": TOKEN}):
        assert ask(client, headers=wrong).status_code == 401
        assert client.get("/card", headers=wrong).status_code == 401
    assert ask(client, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_several_at_once_are_each_answered(client):
    rows = [f"age,pressure,sex\n{40 + k},{120 + k},f\n" for k in range(6)]
    alone = [ask(client, row).json()["predictions"] for row in rows]
    found = [None] * len(rows)

    def one(k):
        found[k] = ask(client, rows[k]).json()["predictions"]

    threads = [threading.Thread(target=one, args=(k,)) for k in range(len(rows))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == alone


# --- the command -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "beyond this machine"),
        (["--host", "::"], "beyond this machine"),
        (["--host", "ward.example"], "beyond this machine"),
        (["--host", "192.168.1.2", "--name", "ward"], "beyond this machine"),
        (["--host", "::1"], "beyond this machine"),
        (["--certificate", "c.pem"], "give both or neither"),
        (["--certificate", "short", "--key", "short"], "no certificate and key of one another"),
        (["--token-file", "absent"], "the token cannot be read"),
        (["--token-file", "short"], "32 characters or more"),
    ],
)
def test_the_command_refuses_what_would_let_others_in(run, tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    Path("short").write_text("secret")
    result = CliRunner().invoke(cli.app, ["serve", str(run), *options])
    assert result.exit_code == 1
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_run_that_cannot_be_opened_is_told(tmp_path):
    result = CliRunner().invoke(cli.app, ["serve", str(tmp_path)])
    assert result.exit_code == 1
    assert "no run folder" in result.stderr


def test_the_command_serves_until_it_is_ended(run, free_port, command):
    process = command("serve", str(run), "--port", str(free_port))
    url = f"http://127.0.0.1:{free_port}"
    for _ in range(300):
        try:
            health = json.load(urllib.request.urlopen(f"{url}/health", timeout=5))
            break
        except OSError:
            assert process.poll() is None
            time.sleep(0.2)
    assert health["status"] == "ready"
    question = urllib.request.Request(f"{url}/predict?kind=csv", data=ROW.encode())
    answer = json.load(urllib.request.urlopen(question, timeout=30))
    assert answer["predictions"][0]["answer"] in {"absent", "present"}
    process.terminate()
    assert process.wait(timeout=30) in {0, -15, 143}
