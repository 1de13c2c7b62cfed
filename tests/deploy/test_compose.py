"""The compose files: hardened, and consistent with images, settings and runbook."""

import importlib.util
import shutil
import subprocess

import pytest

from wardround_server.enrolment.settings import ListenSettings

ROLES = ("server", "site")
# Keys of the Compose Specification that are used here; whatever else stands in a file is a slip.
SERVICE = {
    "image": str,
    "build": {"context": str, "dockerfile": str, "args": [str]},
    "init": bool,
    "restart": str,
    "stop_grace_period": str,
    "user": str,
    "read_only": bool,
    "cap_drop": [str],
    "security_opt": [str],
    "pids_limit": int,
    "mem_limit": str,
    "ulimits": {"core": int},
    "environment": {"TZ": str, "HTTPS_PROXY": str},
    "tmpfs": [str],
    "ports": [str],
    "volumes": [object],
    "healthcheck": {
        "test": [str],
        "interval": str,
        "timeout": str,
        "start_period": str,
        "retries": int,
    },
    "logging": {"driver": str},
    "deploy": {
        "resources": {
            "reservations": {"devices": [{"driver": str, "count": int, "capabilities": [str]}]}
        }
    },
}
BIND = {
    "type": str,
    "source": str,
    "target": str,
    "read_only": bool,
    "bind": {"create_host_path": bool},
}


def fits(value, form, where):
    """Assert that a value has only keys of the form, each of the kind that it says."""
    if isinstance(form, dict):
        assert isinstance(value, dict), where
        assert value.keys() <= form.keys(), (where, value.keys() - form.keys())
        for key, one in value.items():
            fits(one, form[key], f"{where}.{key}")
    elif isinstance(form, list):
        assert isinstance(value, list), where
        for one in value:
            fits(one, form[0], where)
    else:
        assert isinstance(value, form), where


@pytest.fixture(params=ROLES)
def role(request):
    return request.param


@pytest.fixture
def service(role, deploy, documents):
    (content,) = documents(deploy / role / "compose.yaml")
    assert content.keys() == {"name", "services", "volumes"}
    assert content["name"] == f"wardround-{role}"
    assert content["volumes"] == {"home": None}
    ((name, found),) = content["services"].items()
    assert name == role
    return found


def test_every_key_is_one_of_the_specification(service):
    fits(service, SERVICE, "service")
    for volume in service["volumes"]:
        assert isinstance(volume, str) or fits(volume, BIND, "volume") is None


def test_it_is_locked_down(service):
    assert service["user"] == "10001:10001"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["ulimits"] == {"core": 0}
    assert not {"privileged", "network_mode", "cap_add", "pid", "ipc"} & service.keys()


def test_the_only_port_is_the_public_one_of_the_server(role, service):
    port = ListenSettings().port
    assert service.get("ports", []) == ([f"{port}:{port}"] if role == "server" else [])


def test_folders_are_where_everything_else_expects_them(role, service):
    assert f"home:/var/lib/wardround-{role}" in service["volumes"]
    bound = {one["target"]: one for one in service["volumes"] if isinstance(one, dict)}
    assert bound.keys() == (
        {"/srv/exchange"} if role == "server" else {"/srv/exchange", "/srv/data"}
    )
    for one in bound.values():
        assert one["bind"]["create_host_path"] is False
    if role == "site":
        assert bound["/srv/data"]["read_only"] is True


def test_the_daemon_is_given_the_time_to_end(service):
    assert int(service["stop_grace_period"].removesuffix("s")) > 20


def test_its_health_is_checked_without_a_shell(service):
    form, program, option, module = service["healthcheck"]["test"]
    assert (form, program, option) == ("CMD", "python", "-m")
    assert importlib.util.find_spec(module) is not None


def test_the_image_is_built_from_what_is_here(role, service, deploy):
    build, folder = service["build"], deploy / role
    context = (folder / build["context"]).resolve()
    assert context == deploy.parent.resolve()
    assert (context / build["dockerfile"]).is_file()
    assert f"--tag {service['image']} " in (context / build["dockerfile"]).read_text(
        encoding="utf-8"
    )


def test_with_a_gpu_nothing_but_image_and_device_is_different(deploy, documents):
    (content,) = documents(deploy / "site" / "compose.gpu.yaml")
    assert content.keys() == {"services"}
    service = content["services"]["site"]
    fits(service, SERVICE, "service")
    assert service.keys() == {"image", "build", "deploy"}
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    file = deploy.parent / service["build"]["dockerfile"]
    assert f"--tag {service['image']} " in file.read_text(encoding="utf-8")


def has_compose():
    docker = shutil.which("docker")
    if docker is None:
        return False
    asked = subprocess.run([docker, "compose", "version"], capture_output=True, check=False)
    return asked.returncode == 0


@pytest.mark.skipif(not has_compose(), reason="docker compose is not here")
@pytest.mark.parametrize(
    "files",
    [
        ["server/compose.yaml"],
        ["site/compose.yaml"],
        ["site/compose.yaml", "site/compose.gpu.yaml"],
    ],
)
def test_compose_itself_accepts_them(deploy, files):
    named = [word for one in files for word in ("--file", str(deploy / one))]
    said = subprocess.run(
        ["docker", "compose", *named, "config", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr
