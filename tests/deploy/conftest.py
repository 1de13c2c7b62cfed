"""What the tests of deploy/ read it with."""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


class StrictLoader(yaml.SafeLoader):
    """YAML in which no key comes twice: the one that is read last would win in silence."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"comes twice: {sorted(twice)}", node.start_mark
            )
        return super().construct_mapping(node, deep)


def read_yaml(file):
    """Every document of a file."""
    with file.open(encoding="utf-8") as opened:
        return list(yaml.load_all(opened, StrictLoader))


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture(scope="session")
def deploy():
    return ROOT / "deploy"


@pytest.fixture(scope="session")
def documents():
    """Reads every document of a YAML file, strictly."""
    return read_yaml
