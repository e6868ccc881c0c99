"""Samples drawn while a diffusion model trains, from the same noise every time: what it can do by now.
Entry points: add_arguments, check, draw.
"""

from functools import partial
from pathlib import Path

import torch
from matplotlib.image import imread

import DiffusionNet
from audio.io import SAMPLE_RATE
from audio.sample_folder import read_wave, write_wave
from diffusion import samplers, schedules
from engine import distributed
from engine.state import averaged_weights
from scoring.spectrograms import spectrogram_sheet

RANGES = {"sample_interval_steps": (0, None), "sample_count": (1, 64)}
SAMPLER, TIME_MAP, STEPS = "dpmpp_2m", "square", 25  # good enough to see by, at a quarter of what 100 steps cost


def add_arguments(group):
    """Add the flags of samples drawn in the middle of training."""
    group.add_argument(
        "--sample_interval_steps", type=int, default=0,
        help="draw samples by the averaged weights every so many optimiser steps, into samples/ of the run folder: "
        f"a sheet of spectrograms and WAV files ({STEPS} steps of DPM-Solver++; 0: never)",
    )  # fmt: skip
    group.add_argument(
        "--sample_count",
        type=int,
        default=4,
        help="samples of --sample_interval_steps; labels and vectors spread over all",
    )


def check(args, given: dict):
    """Refuse a number of samples that are never drawn (a ValueError says so)."""
    if "sample_count" in given and not args.sample_interval_steps:
        raise ValueError("--sample_count is of --sample_interval_steps: give that too")


def draw(state, sets, args, log):
    """Draw --sample_count samples of the diffusion model state.module where the step is one of --sample_interval_steps.

    The run goes on as if nothing had been: weights, training mode and random generators are as before. Rank 0 draws,
    the others wait.
    """
    if not args.sample_interval_steps or state.step % args.sample_interval_steps:
        return
    if distributed.is_main():
        state.module.eval()
        with averaged_weights(state):
            waves, titles = make(state, sets, args.sample_count)
        state.module.train()
        keep(waves, titles, state, args, log)
    distributed.gather_objects(None)


def make(state, sets, count: int):
    """Return `count` waves (count, samples) as the network sees them and what each is of, by seeds 0, 1, ..."""
    net, device = state.module, state.device
    rows = torch.arange(count)
    label = vector = None
    titles = [f"sample {row}" for row in rows.tolist()]
    if net.speakers is not None:
        label = rows * net.speakers // count
        titles = [str(sets.train.speakers[speaker]) for speaker in label.tolist()]
    if net.cond_dim is not None:
        utterances = rows * len(sets.vectors[0]) // count
        vector, names = sets.vectors[0][utterances], sets.train.names()
        titles = [names[utterance] for utterance in utterances.tolist()] if label is None else titles
    noise = samplers.noise_of(list(range(count)), (1, sets.train.samples), device)
    predict = DiffusionNet.predict(net, label, vector)

    def noise_in(x, t):
        with torch.autocast(device.type, state.autocast or torch.bfloat16, enabled=state.autocast is not None):
            return predict(x, t)

    times = schedules.time_grid(TIME_MAP, STEPS, net.schedule)
    signal = partial(schedules.alpha_bar, net.schedule)
    x = samplers.SAMPLERS[SAMPLER](noise_in, noise(), times, signal, noise, constrain=True)
    return x[:, 0].float().cpu().numpy(), titles


def keep(waves, titles: list[str], state, args, log):
    """Write the waves and their spectrograms into the run folder and TensorBoard, or say why not."""
    folder, step = Path(args.save_path) / "samples", state.step
    paths = [folder / f"step_{step:07d}_{row}.wav" for row in range(len(waves))]
    try:
        for path, wave in zip(paths, waves):
            write_wave(path, wave, args.encoding)
    except ValueError as error:  # a model that diverges is told of by its loss; this must not end the run
        log.say(f"no samples at step {step}: {error}")
        return
    heard, sheet = [read_wave(path) for path in paths], folder / f"step_{step:07d}.png"
    spectrogram_sheet(sheet, heard, titles)
    log.picture("samples", imread(sheet), step)
    for row, wave in enumerate(heard):
        log.sound(f"sample {row}", wave, SAMPLE_RATE, step)
    log.say(f"samples at step {step}: {sheet}")
