# Two commands do all the set-up: `make demo` trains and evaluates on an embedded corpus, `make test` runs the tests.
# `make demo-attributes` makes binary attributes of the same voices, likelihood ratios, and pages that explain them.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python

VOICES := data/synthetic
SHOWN := exps/demo_attributes

.PHONY: demo demo-attributes test lint clean

$(VENV)/.installed: requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "voxlab needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

demo: $(VENV)/.installed
	$(PY) dataprep.py --synthetic --save_path data --test_speakers 20 --dev_speakers 10
	$(PY) trainSpeakerNet.py --config configs/demo.yaml

demo-attributes: $(VENV)/.installed
	$(PY) dataprep.py --synthetic --save_path data --test_speakers 20 --dev_speakers 10
	$(PY) trainSpeakerNet.py --config configs/attributes/demo_verifier.yaml
	$(PY) extract_embeddings.py --initial_model $(SHOWN)/verifier/checkpoints/best.pt --folder $(VOICES) --out $(SHOWN)/embeddings.npz
	$(PY) train_attributes.py --config configs/attributes/demo.yaml
	$(PY) train_attributes.py --binarize --save_path $(SHOWN)/encoder --embeddings $(SHOWN)/embeddings.npz --out $(SHOWN)/codes.npz
	$(PY) score_attributes.py fit --codes $(SHOWN)/codes.npz --list $(VOICES)/train_list.txt --out $(SHOWN)/models
	$(PY) score_attributes.py test --model $(SHOWN)/models --codes $(SHOWN)/codes.npz --test_list $(VOICES)/veri_test.txt \
	  --calibration_codes $(SHOWN)/codes.npz --calibration_list $(VOICES)/veri_dev.txt \
	  --embeddings $(SHOWN)/embeddings.npz --calibration_embeddings $(SHOWN)/embeddings.npz --save_path $(SHOWN)/llr
	$(PY) score_attributes.py explain --model $(SHOWN)/models/beta.npz --codes $(SHOWN)/codes.npz --calibration $(SHOWN)/llr/calibration_beta.json \
	  --test_list $(VOICES)/veri_test.txt --trial 1 --dev_trials $(VOICES)/veri_dev.txt --audio_path $(VOICES) --save_path $(SHOWN)/comparison
	$(PY) score_attributes.py explain --cards all --codes $(SHOWN)/codes.npz --list $(VOICES)/train_list.txt --audio_path $(VOICES) --save_path $(SHOWN)/cards

# One thread per test process: the processes share the cores.
test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto

lint: $(VENV)/.installed
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

clean:
	rm -rf exps/demo $(SHOWN) $(VOICES)
