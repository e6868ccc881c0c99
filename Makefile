# Two commands do all the set-up: `make demo` trains and evaluates on an embedded corpus, `make test` runs the tests.
# `make demo-attributes` makes binary attributes of the same voices, likelihood ratios, and pages that explain them.
# `make demo-diffusion` trains a network that makes ten of these voices out of noise, and judges what it makes.
# `make demo-autoencoder` makes a few hundred bits a second of these voices, and asks a verifier what is left of them.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python

VOICES := data/synthetic
SHOWN := exps/demo_attributes
MADE := exps/demo_diffusion
SAMPLED := --num_samples 48 --batch_size 16 --sampler dpmpp_2m --steps 25 --time_map square --constrain
JUDGED := --checkpoint_path $(MADE)/classifier/checkpoints/last.pt --seconds 0.256 --batch_size 16

CODED := exps/demo_autoencoder
NETWORKS := $(CODED)/vae/checkpoints/last.pt $(CODED)/vqvae/checkpoints/last.pt
RECORDING := $(VOICES)/spk0005/session0/00000.wav

.PHONY: demo demo-attributes demo-diffusion demo-autoencoder test lint clean

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

demo-diffusion: $(VENV)/.installed
	$(PY) dataprep.py --synthetic --save_path data --test_speakers 20 --dev_speakers 10
	$(PY) dataprep.py --split $(VOICES)/train_list.txt --split_mode different --split_speakers 10 --save_path $(MADE)/voices
	$(PY) dataprep.py --split $(MADE)/voices/full_val.txt --split_ratio 0.15 --save_path $(MADE)/lists
	$(PY) train_diffusion.py --config configs/diffusion/demo.yaml
	$(PY) train_diffusion.py --config configs/diffusion/demo.yaml --set max_steps=1 --set anneal_steps=0 --set save_path=$(MADE)/untrained
	$(PY) train_classifier.py --config configs/diffusion/demo_classifier.yaml
	$(PY) sample_diffusion.py --checkpoint_path $(MADE)/model/checkpoints/last.pt $(SAMPLED) --sheet --sample_path $(MADE)/samples
	$(PY) sample_diffusion.py --checkpoint_path $(MADE)/untrained/checkpoints/last.pt $(SAMPLED) --sample_path $(MADE)/untrained_samples
	$(PY) stat_generate.py $(MADE)/samples.npz $(JUDGED) --sample_dir $(MADE)/samples
	$(PY) stat_generate.py $(MADE)/untrained.npz $(JUDGED) --sample_dir $(MADE)/untrained_samples
	$(PY) stat_generate.py $(MADE)/real.npz $(JUDGED) --data_dir $(MADE)/lists/full_val.txt --data_path $(VOICES) --num_samples 48
	$(PY) stat_compare.py $(MADE)/untrained.npz $(MADE)/real.npz
	$(PY) stat_compare.py $(MADE)/samples.npz $(MADE)/real.npz
	@echo "Look at $(MADE)/samples.png, and at $(MADE)/model/samples for how they came about; listen to $(MADE)/samples/*.wav."
	@echo "Frechet score: distance from held-out speech, lower is better; the first is of an untrained network, the last of the samples."
	@echo "Class score: 1 where no sample is anybody's voice, up to 10 where each is clearly one of the ten. docs/diffusion.md goes on."

# so small a network is twice as fast on one thread
demo-diffusion: export OMP_NUM_THREADS := 1

demo-autoencoder: $(VENV)/.installed
	$(PY) dataprep.py --synthetic --save_path data --test_speakers 20 --dev_speakers 10
	$(PY) trainSpeakerNet.py --config configs/generative/demo_verifier.yaml
	$(PY) train_autoencoder.py --config configs/generative/demo_vae.yaml
	$(PY) train_autoencoder.py --config configs/generative/demo_vqvae.yaml
	$(PY) eval_autoencoder.py $(NETWORKS) --test_list $(VOICES)/veri_test.txt --test_path $(VOICES) \
	  --verifier $(CODED)/verifier/checkpoints/best.pt --trials $(VOICES)/veri_test.txt \
	  --pictures 4 --wavs 4 --save_path $(CODED)/table
	$(PY) code_speech.py $(CODED)/vqvae/checkpoints/last.pt --encode $(RECORDING) --out $(CODED)/speech.codes
	$(PY) code_speech.py $(CODED)/vqvae/checkpoints/last.pt --decode $(CODED)/speech.codes --out $(CODED)/speech.npz \
	  --wav --mean_of $(RECORDING)
	@echo "Look at $(CODED)/table/{vae,vqvae}/pictures, listen to the wavs beside them: both sides are by Griffin-Lim."
	@echo "MSE: squared error of the features, where saying their mean costs their variance; lower is better. ELBO/dim: higher is."
	@echo "EER: how often the verifier errs on reconstructions, beside the originals; the difference is what is lost of the voice."
	@echo "$(CODED)/speech.codes is a recording at 600 bits a second, $(CODED)/speech.wav what comes back. docs/generative.md goes on."

# One thread per test process: the processes share the cores.
test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto

lint: $(VENV)/.installed
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

clean:
	rm -rf exps/demo $(SHOWN) $(MADE) $(CODED) $(VOICES)
