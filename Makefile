# The same targets in CI and at the desk. Only Python 3.11+, make and a C compiler are needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# A file per installed set: made again only when what it depends on changes.
RUNTIME := $(VENV)/.runtime-installed
CHECKS := $(VENV)/.checks-installed

.PHONY: demo test test-faults check types imports unit clean

demo: $(RUNTIME)
	$(BIN)/wardround simulate

test: check types imports unit

check: $(CHECKS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(CHECKS)
	$(BIN)/mypy

imports: $(CHECKS)
	PYTHONPATH=server:client:shared:simulations $(BIN)/lint-imports

unit: $(CHECKS)
	$(BIN)/python -m pytest -n 2 --dist loadfile

# Daemons killed at every step, a line cut for a minute: about two hours. WARDROUND_FAULT_SEED=N
# draws other steps.
test-faults: $(CHECKS)
	WARDROUND_LONG_TESTS=1 $(BIN)/python -m pytest -n 2 --dist loadfile tests/end_to_end/daemons

$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(RUNTIME): $(VENV)/.created pyproject.toml constraints.txt
	$(INSTALL) -e '.[codecs,nifti]'
	touch $@

$(CHECKS): $(RUNTIME)
	$(INSTALL) -e '.[codecs,dicom,explain,nifti,onnx,ray,dev]'
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache runs
