"""The images: what goes into them, as whom they run, and that everything they name is there."""

import importlib.util
import json
import re
import tomllib
from fnmatch import fnmatch

import pytest

IMAGES = {
    "server/Dockerfile": "wardround-server",
    "site/Dockerfile": "wardround-site",
    "site/Dockerfile.cuda": "wardround-site",
}
SECRET = re.compile(r"secret|token|passw|credential|_key\b|\.key\b|\.pem\b", re.IGNORECASE)


def instructions(text):
    """(instruction, arguments) of a Dockerfile, continued lines joined, comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    found = [line.split(None, 1) for line in joined.splitlines() if line.strip()]
    return [(one[0].upper(), one[1].strip()) for one in found]


@pytest.fixture(params=IMAGES)
def image(request, deploy):
    """File, the command that it is about, and its instructions."""
    file = deploy / request.param
    return file, IMAGES[request.param], instructions(file.read_text(encoding="utf-8"))


def last(found, wanted):
    return [arguments for instruction, arguments in found if instruction == wanted][-1]


def final_stage(found):
    begin = max(i for i, (instruction, _) in enumerate(found) if instruction == "FROM")
    return found[begin:]


def test_every_base_is_pinned_by_a_tag(image):
    stages = {"scratch"}
    for arguments in (one for instruction, one in image[2] if instruction == "FROM"):
        base, *name = re.split(r"\s+AS\s+", arguments)
        assert base in stages or re.fullmatch(r"[a-z/]+:\d+\.\d+[\w.-]*", base), base
        stages |= set(name)


def test_it_runs_as_nobody_special(image):
    _, _, found = image
    assert [one for instruction, one in found if instruction == "USER"] == ["10001:10001"]
    after = [one for one, _ in found[found.index(("USER", "10001:10001")) :]]
    assert not {"RUN", "COPY", "ADD"} & set(after)


def test_no_shell_is_needed_to_run_it(image):
    _, command, found = image
    assert json.loads(last(found, "ENTRYPOINT")) == [command]
    assert json.loads(last(found, "CMD")) == ["start"]
    check = last(found, "HEALTHCHECK").partition("CMD ")[2]
    program, option, module = json.loads(check)
    assert (program, option) == ("python", "-m")
    assert importlib.util.find_spec(module) is not None


def test_its_home_is_the_volume(image):
    _, command, found = image
    home = f"/var/lib/{command}"
    assert json.loads(last(found, "VOLUME")) == [home]
    assert f"{command.upper().replace('-', '_')}_HOME={home}" in last(found, "ENV")
    (made,) = [one for instruction, one in found if instruction == "RUN" and "useradd" in one]
    assert f"--owner 10001 --group 10001 --mode 0700 {home}" in made
    assert "--uid 10001 --gid 10001" in made


def test_only_the_server_exposes_a_port(image):
    _, command, found = image
    exposed = [one for instruction, one in found if instruction == "EXPOSE"]
    assert exposed == (["9092"] if command == "wardround-server" else [])


def test_nothing_secret_and_nothing_from_a_network_address_is_in_it(image):
    file, _, found = image
    assert "ADD" not in {instruction for instruction, _ in found}
    for instruction, arguments in found:
        if instruction in {"ARG", "ENV", "COPY"}:
            assert not SECRET.search(arguments), arguments
    assert "://" not in file.read_text(encoding="utf-8")


def copied(found):
    """What is copied from the project's folder."""
    lines = [one.split() for instruction, one in found if instruction == "COPY"]
    return [source for line in lines if not line[0].startswith("--from") for source in line[:-1]]


def admitted(file):
    """Patterns that the ignore file of a Dockerfile lets in."""
    ignored = file.with_name(f"{file.name}.dockerignore").read_text(encoding="utf-8")
    lines = [line for line in ignored.splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    return [line[1:] for line in lines if line.startswith("!")]


def test_what_is_copied_is_there_and_let_in(image, root):
    file, _, found = image
    patterns = admitted(file)
    assert all((root / pattern).exists() for pattern in patterns)
    for source in copied(found):
        assert (root / source).exists(), source
        assert any(fnmatch(pattern, f"{source}*") for pattern in patterns), source


def test_no_home_data_or_history_is_let_in(image):
    for pattern in admitted(image[0]):
        assert pattern.split("/")[0] in set(copied(image[2]))
        assert not fnmatch(pattern, "*[*?]*")


def test_everything_that_the_wheel_is_built_from_is_copied(image, root):
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = [
        *wheel["packages"],
        *wheel["force-include"],
        project["project"]["readme"],
        *project["project"]["license-files"],
        "constraints.txt",
    ]
    assert set(needed) <= set(admitted(image[0]))
    assert image[1] in project["project"]["scripts"]


def test_versions_are_those_that_were_tested(image):
    _, _, found = image
    assert "PIP_CONSTRAINT=/src/constraints.txt" in [
        word for instruction, one in found if instruction == "ENV" for word in one.split()
    ]
    cuda = "torch.version.cuda" in " ".join(one for _, one in found)
    assert cuda, "nobody looks which torch it has"


@pytest.mark.parametrize("role", ["server", "site"])
def test_the_image_of_the_software_has_its_version(role, root, deploy):
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    version = project["project"]["version"]
    files = [
        one
        for one in (deploy / role).rglob("*")
        if one.is_file() and "image:" in one.read_text(encoding="utf-8")
    ]
    named = {
        tag
        for one in files
        for tag in re.findall(r"(wardround-[a-z-]+:\S+)", one.read_text(encoding="utf-8"))
    }
    assert named
    assert {tag.rpartition(":")[2] for tag in named} == {version}


def test_the_gpus_image_has_the_same_interpreter(deploy):
    """Ubuntu brings another Python than the one that the software is tested with."""
    found = instructions((deploy / "site" / "Dockerfile.cuda").read_text(encoding="utf-8"))
    stage = final_stage(found)
    assert ("COPY", "--from=build /usr/local /usr/local") in stage
    assert not any("python3" in one for one in last(stage[:3], "RUN").split())
