"""Training of an encoder predictor: from noised waves to the codes that a VQ-VAE gives the clean ones (train_vqvae.py).
Entry points: check, train.
"""

import time
from pathlib import Path

import torch

import DiffusionNet
import TrainingRun
import VQVAENet
import WaveRecognition
import WaveSets
import WaveTraining
from engine import checkpoint, distributed, registry
from engine.args import stored_args
from engine.log import RunLog, versions
from engine.state import seed_everything
from models.blocks import original

TASK, SAVE_PATH = "encoder_predictor", "exps/encoder_predictor"
FIXED = ("schedule", "encoding", "window", "base_channels", "vqvae")


def check(args, given: dict):
    """Refuse flags that do not go together; take schedule and encoding of the VQ-VAE, and a run folder of its own.

    Args:
        given: as engine.args.parse returns it.

    Raises:
        FileNotFoundError, ValueError: which, and what to do; or the file is no VQ-VAE.
    """
    WaveRecognition.check(args, given)
    if "save_path" not in given:
        args.save_path = SAVE_PATH
    net, card = VQVAENet.load(args.encoder_predictor, schedule=args.schedule if "schedule" in given else None)
    encoding = args.encoding if "encoding" in given else None
    args.schedule = net.schedule
    args.encoding = DiffusionNet.encoding_of(card, encoding, args.encoder_predictor)
    options = {"base_channels": ("base_channels", args.base_channels)}
    options |= {name: (name, value) for name, value in sizes(net).items()}
    WaveTraining.check(args, given, TASK, options)


def sizes(net: VQVAENet.VQVAENet) -> dict[str, int]:
    """Return what the VQ-VAE says of its codes, by the names of models.EncoderPredictor."""
    return {"downsample_rate": net.encoder.rate, "num_latents": len(net.vq.dictionary)}


def train(args):
    """Train on one process or as one rank of several; return the exit code."""
    started = time.time()
    seed_everything(args.seed)  # of the first weights alone: draws of a step are those of its windows
    device = distributed.device_of(args)
    vqvae, _ = VQVAENet.load(args.encoder_predictor, device)
    sets = WaveSets.read_sets(args, labelled=False, share=args.valid_share)
    cls = registry.load("models", args.model, TASK)
    kwargs = registry.arguments_of(cls, {**stored_args(args), **sizes(vqvae)})
    net = cls(**kwargs).to(device)
    net.unet.checkpoint_activations = args.grad_checkpoint
    loader = WaveSets.make_loader(sets, args, device)
    log = RunLog(args.save_path, writes=distributed.is_main())
    WaveTraining.describe(net, sets, args, log, device)
    source = {"file": Path(args.encoder_predictor).name, "sha256": checkpoint.file_hash(args.encoder_predictor)}
    meta = {
        "schedule": args.schedule, "encoding": args.encoding, "sample_rate": WaveTraining.SAMPLE_RATE,
        "window": sets.train.samples, "base_channels": args.base_channels, "vqvae": source,
        "args": stored_args(args), "versions": versions(),
    }  # fmt: skip
    card = {"class": f"models.{args.model}", "kwargs": kwargs, "meta": meta}

    def start():
        return WaveTraining.start_from(
            net, args.initial_model, weights_to_start, lambda weights: original.copy_matching(net, weights)
        )

    def codes_of(samples, label):
        with torch.autocast(device.type, enabled=False):  # in less precision they would be others
            return VQVAENet.condition_of(vqvae, samples)[1]

    trackers = WaveRecognition.trackers(device)
    state, freezer = TrainingRun.prepare(net, args, device, len(loader), card, trackers, FIXED, log, start)
    step = WaveRecognition.step_of(state, args, codes_of)

    def judge():
        return WaveRecognition.validate(net, sets, args, device, codes_of)

    def payload_of(weights):
        return WaveTraining.original_payload(net.to_original(), {"step": state.step, **meta}, weights)

    return WaveTraining.fit(state, freezer, loader, step, judge, sets, log, args, started, payload_of)


def weights_to_start(path):
    """Return the weights of an encoder predictor of any layout."""
    return DiffusionNet.load_network(path, TASK)[0].state_dict()
