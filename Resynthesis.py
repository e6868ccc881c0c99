"""Speech said again through the codes of a VQ-VAE, in its own voice or another: recordings in, recordings out.
Entry points: add_model_arguments, add_arguments, check, find_sources, load, Job, produce; padded.
"""

import hashlib
import math
import os
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import DiffusionNet
import VQVAENet
import WaveSampling
from audio.companding import ENCODINGS, encode
from audio.inputs import read_inputs
from audio.io import SAMPLE_RATE
from audio.lists import check_files, join, speaker_of
from audio.sample_folder import FORMATS, SampleFolder, read_wave
from audio.windows import WINDOW_SECONDS
from diffusion import guidance, samplers
from engine import checkpoint, distributed
from engine.args import add_bool

RANGES = {**WaveSampling.RANGES, "seconds": (0, 86400)}
# neighbouring windows share an eighth of their length, where one is faded into the other
OVERLAP = 8


class Source(NamedTuple):
    """A recording: its path, its name as it was listed, and who speaks, "" where nothing says so."""

    path: str
    name: str
    speaker: str


class Job(NamedTuple):
    """What is to be said again, and by whom: a label counted from 0, or None for no label; `speaker` is its name."""

    source: Source
    label: int | None
    speaker: str


class Model(NamedTuple):
    """The VQ-VAE, its card, the encoder predictor that guides or None, and what a length must be a multiple of."""

    net: VQVAENet.VQVAENet
    card: dict
    recogniser: torch.nn.Module | None
    unit: int


def add_model_arguments(parser):
    """Add the flags that say which network is used, and on what."""
    parser.add_argument("--ema", default=None, metavar="RATE", help="averaged weights to take (none: the last step's)")
    parser.add_argument("--noise_schedule", default="", help="of an old file that does not say: exp or cos")
    parser.add_argument(
        "--encoding", choices=ENCODINGS, default=None, help="of the samples that the network sees (default: as it says)"
    )
    add_none_label(parser)
    parser.add_argument("--data_path", default="", help="prefix of the paths in lists of recordings")
    parser.add_argument(
        "--sample_rate", type=int, choices=(SAMPLE_RATE,), default=SAMPLE_RATE,
        help="of the network in Hz; recordings of any rate are resampled to it",
    )  # fmt: skip


def add_none_label(parser):
    """Add the flag of what an original file does not say."""
    add_bool(parser, "--none_label", help="of an original file: its label 0 stands for no speaker, others are 1 higher")


def add_arguments(parser):
    """Add the flags of re-synthesis."""
    swap = parser.add_argument_group("re-synthesis")
    swap.add_argument(
        "--seconds", type=float, default=WINDOW_SECONDS,
        help="longer recordings are made in windows of so many seconds, faded into each other (0: always in one)",
    )  # fmt: skip
    add_bool(swap, "--no_vq", help="tell the network the encoder's output as it is, not the codes nearest to it")
    add_bool(swap, "--check_vq", help="encode the result again and print the fraction of equal codes")
    swap.add_argument("--format", choices=FORMATS, default="wav", help="of the recordings in a folder")
    WaveSampling.add_sheet(swap)
    guide = parser.add_argument_group("guidance")
    for name, what in (("label", "label"), ("vq", "codes")):
        guide.add_argument(
            f"--guide_{name}_scale", type=float, default=0.0,
            help=f"classifier-free guidance by the {what}: 0 none, 1 twice as far from the answer without",
        )  # fmt: skip
    guide.add_argument("--enc_pred_path", default="", help="encoder predictor, which guides to the codes")
    guide.add_argument("--enc_pred_scale", type=float, default=1.0, help="factor on its gradient")
    guide.add_argument("--enc_pred_ema", default=None, metavar="RATE", help="as --ema, of the encoder predictor")
    WaveSampling.add_guide_at(guide)
    WaveSampling.add_arguments(parser.add_argument_group("sampler"), constrain=True)
    WaveSampling.add_compute(parser)


def check(args):
    """Refuse flags that lack or exclude each other; errors as in WaveSampling.check."""
    WaveSampling.check(args, "enc_pred_path")
    for name in ("enc_pred_scale", "enc_pred_ema"):
        if name in args.given and not args.enc_pred_path:
            raise ValueError(f"--{name} needs --enc_pred_path")


def find_sources(paths: list[str], flag: str, prefix: str, say) -> list[Source]:
    """Return the recordings of audio files, folders, lists of lines `[speaker] file` and CSV files, in their order.

    Raises:
        FileNotFoundError, ValueError: one is missing, unreadable or holds nothing.
    """
    sources = []
    for path in paths:
        if not os.path.exists(path):
            raise FileNotFoundError(f"{flag} {path}: no such file or folder")
        folder = path if os.path.isdir(path) else ""
        try:
            found, root, notes = read_inputs("" if folder else path, folder, prefix)
        except ValueError as error:
            raise ValueError(str(error).replace("--folder", flag, 1)) from None
        speakers = found.speakers or [speaker_of(name) or "" if folder else "" for name in found.audio]
        own = [Source(join(root, audio), name, who) for audio, name, who in zip(found.audio, found.ids, speakers)]
        for line in [*notes, *check_files(f"{flag} {path}", [source.path for source in own])]:
            say(line)
        sources += own
    return sources


def load(args, device, say=print) -> Model:
    """Return the networks of the flags, in evaluation mode; --encoding becomes what they were trained on.

    Raises:
        FileNotFoundError, ValueError: see VQVAENet.load; or an encoder predictor of other codes, or what the network
            was not trained for.
    """
    own = args.ema, args.noise_schedule or None, True if args.none_label else None
    net, card = VQVAENet.load(args.checkpoint_path, device, *own)
    net.requires_grad_(False)
    args.encoding = DiffusionNet.encoding_of(card, args.encoding, args.checkpoint_path)
    path, recogniser, unit = getattr(args, "enc_pred_path", ""), None, net.rate
    if path:
        recogniser, its = DiffusionNet.load_network(path, "encoder_predictor", device, args.enc_pred_ema)
        DiffusionNet.encoding_of(its, args.encoding, path)
        found, wanted = (recogniser.downsample_rate, recogniser.num_latents), (net.encoder.rate, len(net.vq.dictionary))
        for what, has, needs in zip(("a code every {} samples", "{} codes"), found, wanted):
            if has != needs:
                raise ValueError(f"{path} predicts {what.format(has)}, {args.checkpoint_path} has {needs}")
        told = its["meta"].get("schedule") or net.schedule
        if told != net.schedule:
            raise ValueError(f"{path} was trained with schedule {told}, {args.checkpoint_path} with {net.schedule}")
        of = its["meta"].get("vqvae")
        if of and of["sha256"] != checkpoint.file_hash(args.checkpoint_path):
            say(f"warning: {path} was trained on the codes of another file, {of['file']} (sha256 {of['sha256']})")
        recogniser.requires_grad_(False)
        unit = math.lcm(unit, recogniser.rate)
    return Model(net, card, recogniser, unit)


def check_jobs(model: Model, jobs: list[Job], args):
    """Raise ValueError where the network cannot do what the flags want."""
    for label in dict.fromkeys(job.label for job in jobs):
        cond, label = VQVAENet.no_codes(model.net, 1), None if label is None else torch.tensor([label])
        VQVAENet.predict(model.net, cond, label, args.guide_label_scale, args.guide_vq_scale)
    if 0 < args.seconds * SAMPLE_RATE < model.unit:
        raise ValueError(f"--seconds {args.seconds:g}: a window has at least {model.unit} samples")


# ---------------------------------------------------------------- re-synthesis


def padded(wave: np.ndarray, unit: int) -> np.ndarray:
    """Return `wave` (samples,) with zeros up to the next multiple of `unit`."""
    return np.pad(wave, (0, -len(wave) % unit))


def speak(model: Model, jobs: list[Job], args, device, indices: list[int]) -> list[np.ndarray]:
    """Return jobs `indices` as the network sees waves, each (samples,) as long as its source.

    Those of one padded length are made together, with a label or without.
    """
    waves = [encode(read_wave(jobs[index].source.path), args.encoding) for index in indices]
    groups, made = {}, [None] * len(waves)
    for row, wave in enumerate(waves):
        groups.setdefault((-(-len(wave) // model.unit), jobs[indices[row]].label is None), []).append(row)
    for (_, unlabelled), rows in groups.items():
        clean = torch.from_numpy(np.stack([padded(waves[row], model.unit) for row in rows])).to(device)
        label = None if unlabelled else torch.tensor([jobs[indices[row]].label for row in rows])
        seeds = [samplers.sample_seed(args.seed, indices[row]) for row in rows]
        found = say_again(model, clean, label, seeds, args).cpu().numpy()
        for row, wave in zip(rows, found):
            made[row] = wave[: len(waves[row])]
    return made


def say_again(model: Model, clean: torch.Tensor, label: torch.Tensor | None, seeds: list[int], args) -> torch.Tensor:
    """Return what the codes of `clean` (batch, samples) say in the voice of `label` (batch,), one seed per row."""
    net, length = model.net, clean.shape[1]
    cond, codes = VQVAENet.condition_of(net, clean, quantise=not args.no_vq)
    size, starts = windows_of(length, int(args.seconds * SAMPLE_RATE) // model.unit * model.unit, model.unit)
    predicts, guides = [], []
    for start in starts:
        places = slice(start // net.encoder.rate, (start + size) // net.encoder.rate)
        scales = args.guide_label_scale, args.guide_vq_scale
        predicts.append(VQVAENet.predict(net, cond[..., places], label, *scales))
        if model.recogniser is not None:
            logits = WaveSampling.within(model.recogniser, args)
            guides.append(guidance.recogniser_guide(logits, codes[:, places], args.enc_pred_scale))
    noise = samplers.noise_of(seeds, (1, length), clean.device)
    guide = faded(guides, starts, size) if guides else None
    return WaveSampling.run(faded(predicts, starts, size), noise, args, net.schedule, guide)[:, 0].float()


def windows_of(length: int, size: int, unit: int) -> tuple[int, list[int]]:
    """Return the size of the windows of a wave and their first samples, all multiples of `unit`; one where `size` is 0.

    Each shares about an eighth with the next, the last one more.
    """
    if not size or length <= size:
        return length, [0]
    hop = max(size // unit * (OVERLAP - 1) // OVERLAP, 1) * unit
    return size, [*range(0, length - size, hop), length - size]


def faded(functions: list, starts: list[int], size: int):
    """Return a function of x (batch, 1, samples) and t that joins what `functions` say of the windows at `starts`.

    Where windows overlap it is their weighted mean (Bar-Tal et al. 2302.08113), each rising from its edges over an
    eighth of its length: all windows of a wave are made in step, so that none of their joints is heard.
    """
    if len(functions) == 1:
        return functions[0]
    rise = (torch.arange(size) + 1).minimum(size - torch.arange(size)) / max(size // OVERLAP, 1)
    rise = rise.clamp(max=1)

    def call(x, t):
        weight = rise.to(x)
        total, weights = torch.zeros_like(x), x.new_zeros(x.shape[-1])
        for function, start in zip(functions, starts):
            part = slice(start, start + size)
            total[..., part] += weight * function(x[..., part], t)
            weights[part] += weight
        return total / weights

    return call


# ---------------------------------------------------------------- files


def produce(model: Model, jobs: list[Job], target: str, flag: str, args, device, say) -> list[Path]:
    """Make `jobs` into the file `target`, or into the folder of that name; return their files, in order.

    A folder that was begun is finished. Also draws the sheet and looks at the codes again, where the flags say so.

    Args:
        flag: what `target` was given as, for errors.
    """
    check_jobs(model, jobs, args)
    alone = len(jobs) == 1 and bool(Path(target).suffix)
    if alone:
        args.format = WaveSampling.check_file(args, flag, target)
    elif Path(target).suffix.lower().removeprefix(".") in FORMATS:
        raise ValueError(f"{flag} {target}: {len(jobs)} recordings go into a folder, not into a file")
    options = describe(model, jobs, args)
    say(f"{args.checkpoint_path}: {options['model']}; {len(jobs)} recordings to make")
    if args.compile:
        model.net.predictor.compile()
    make = partial(speak, model, jobs, args, device)
    row = partial(row_of, jobs, args, options)
    if alone:
        WaveSampling.write_one(target, make, row(0), args)
        paths = [Path(target)]
        distributed.gather_objects(None)  # the file is there
    else:
        folder = SampleFolder(target, args.format, options, row, flag)
        WaveSampling.write_folder(folder, len(jobs), make, args, say)
        paths = [folder.path(index) for index in range(len(jobs))]
    say(f"written: {target}" + f": {len(jobs)} recordings" * (not alone))
    if args.check_vq:
        equal = equal_codes(model, jobs, paths, args, device)
        say(f"equal codes: {equal.mean():.4f} of all, {equal.min():.4f} in the recording with the fewest")
    if args.sheet and distributed.is_main():
        draw_pairs(target, jobs[: args.sheet], paths)
    return paths


def describe(model: Model, jobs: list[Job], args) -> dict:
    """Return all that the recordings depend on beside their numbers, as plain data."""
    listed = "\n".join(f"{job.source.name} {os.path.getsize(job.source.path)} {job.label}" for job in jobs)
    own = {"list": f"{len(jobs)} recordings and voices, sha256 {hashlib.sha256(listed.encode()).hexdigest()[:12]}"}
    own |= {name: getattr(args, name) for name in ("seconds", "no_vq", "guide_label_scale", "guide_vq_scale")}
    guide = WaveSampling.guide_record(
        args, "enc_pred", args.enc_pred_path, args.enc_pred_scale, enc_pred_ema=args.enc_pred_ema
    )
    return {**WaveSampling.record(args, model.net.schedule), **own, **guide}


def row_of(jobs: list[Job], args, options: dict, index: int) -> dict:
    """Return the row of recording `index` in the table."""
    job = jobs[index]
    return {
        "speaker": job.speaker, "label": "" if job.label is None else job.label, "source": job.source.name,
        "source_speaker": job.source.speaker, "seed": args.seed, "index": index, "sampler": args.sampler,
        "steps": args.steps, "time_map": args.time_map, "checkpoint": options["model"],
    }  # fmt: skip


def equal_codes(model: Model, jobs: list[Job], paths: list[Path], args, device) -> np.ndarray:
    """Return the fraction of codes (jobs,) that the written recordings have in common with their sources."""

    def codes_of(path):
        wave = torch.from_numpy(padded(encode(read_wave(path), args.encoding), model.unit)).to(device)
        return VQVAENet.condition_of(model.net, wave[None])[1][0]

    rank, world = distributed.rank(), distributed.world_size()
    own = {
        number: (codes_of(jobs[number].source.path) == codes_of(paths[number])).float().mean().item()
        for number in range(rank, len(jobs), world)
    }
    found = {number: value for part in distributed.gather_objects(own) for number, value in part.items()}
    return np.array([found[number] for number in range(len(jobs))])


def draw_pairs(target: str, jobs: list[Job], paths: list[Path]):
    """Draw the sources, four in a row, and what was made of each below it."""
    shown, titles, columns = [], [], 4 if len(jobs) > 1 else 1
    for start in range(0, len(jobs), columns):
        row, blank = jobs[start : start + columns], columns - len(jobs[start : start + columns])
        shown += [job.source.path for job in row] + [None] * blank + paths[start : start + len(row)] + [None] * blank
        voices = [job.speaker or ("none" if job.label is None else job.label) for job in row]
        titles += [job.source.name for job in row] + [""] * blank + [f"voice {v}" for v in voices] + [""] * blank
    WaveSampling.draw_sheet(target, shown, titles)
