"""What `wardround_shared.privacy` offers, and what importing it costs."""

import subprocess
import sys

import pytest

from wardround_shared import privacy


def test_every_name_is_there():
    for name in privacy.__all__:
        assert getattr(privacy, name).__name__ == name


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="gdp"):
        _ = privacy.gdp


def test_opacus_is_imported_only_when_it_is_needed():
    program = (
        "import sys; from wardround_shared.privacy import SystemNoise, SampledGaussian; "
        "sys.exit('opacus' in sys.modules)"
    )
    path = ":".join(p for p in sys.path if p)
    subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONPATH": path})
