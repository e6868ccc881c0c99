# Two commands do all the set-up: `make demo` trains and evaluates on an embedded corpus, `make test` runs the tests.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python

.PHONY: demo test lint clean

$(VENV)/.installed: requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "voxlab needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

demo: $(VENV)/.installed
	$(PY) dataprep.py --synthetic --save_path data --test_speakers 20 --dev_speakers 10
	$(PY) trainSpeakerNet.py --config configs/demo.yaml

# One thread per test process: the processes share the cores.
test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto

lint: $(VENV)/.installed
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

clean:
	rm -rf exps/demo data/synthetic
