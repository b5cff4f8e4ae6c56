# make setup   a virtual environment in .venv with everything at the locked versions; quick when current
# make demo    setup, then every song of jobs/
# make test    setup, then all tests
# make check   setup, then format, lint, types and what bandit knows to be unsafe
# make docs    setup, then the site of documents into build/site (SERVE=1 shows it while you write)
# make audit   known faults of the locked packages, from a database on the network (needs pip-audit)
# make bench   setup, then every figure of benchmarks/ (minutes; on an otherwise quiet machine)
# make lock    requirements*.lock anew from pyproject.toml (needs uv; UPGRADE=1 takes newer versions)
# make clean   remove .venv and caches, keep outputs/
#
# make setup PYTHON=/usr/bin/python3.12      with this Python
# make setup EXTRA=mulan                     with what the published models' style encoder needs, 0.5 GB more
# make setup TORCH_INDEX=URL                 torch from another index, such as PyTorch's own for CPU only

PY := .venv/bin/python
CODE := runner diffrhythm training benchmarks

.PHONY: help setup demo test check docs audit bench lock clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile

setup:
	@PYTHON='$(PYTHON)' TORCH_INDEX='$(TORCH_INDEX)' EXTRA='$(EXTRA)' scripts/setup.sh

demo: setup
	.venv/bin/runner batch jobs/*.yaml

test: setup
	$(PY) -m pytest -q $(ARGS)

check: setup
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -m bandit --quiet --recursive --configfile pyproject.toml $(CODE)

docs: setup
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs $(if $(SERVE),serve,build --quiet)

# Not part of check: it asks a database on the network, which may be out of reach.
audit: setup
	@command -v pip-audit >/dev/null || { echo 'audit: no pip-audit here, so nothing was audited;' \
		'install it (pipx install pip-audit), then run make audit again'; exit 1; }
	@set -e; for lock in requirements.lock requirements-mulan.lock; do \
		pip-audit --strict --require-hashes --disable-pip --requirement $$lock || { \
		echo "audit: $$lock: see above: packages with known faults, or that nobody could be asked about"; exit 1; }; done

bench: setup
	@set -e; for name in cli_start parent_cost first_step freeze_to_kill beat_cost batch_overhead; do \
		$(PY) -m benchmarks.$$name; done

COMPILE = uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --quiet $(if $(UPGRADE),--upgrade)

lock:
	$(COMPILE) -o requirements.lock
	@: what the extra needs beyond that, at versions that agree with it
	cat requirements.lock requirements-mulan.lock >.mulan.lock
	$(COMPILE) --extra mulan --constraint requirements.lock -o .mulan.lock
	awk 'FNR == NR { known[$$1]; next } /^[^ ]/ { extra = !($$1 in known) } extra' \
		requirements.lock .mulan.lock >requirements-mulan.lock
	rm .mulan.lock

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find runner diffrhythm training tests benchmarks jobs -name __pycache__ -type d -prune -exec rm -rf {} +
