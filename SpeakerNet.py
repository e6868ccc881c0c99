"""A speaker network with its loss: what training, evaluation, extraction and scoring call.
Entry points: SpeakerNet, build_network, load, load_any (by flags too), embed_files, score_files, evaluate_list, enroll.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

import DatasetLoader
from audio.lists import TrainList, TrialList, join
from audio.masks import spec_augment
from engine import checkpoint, distributed, foreign, registry, result
from engine.args import add_bool, stored_args
from scoring import embeddings, norms, report, trials

NETWORK_FLAGS = {"encoder_type", "nOut", "n_mels", "log_input", "sinc_stride", "allow_partial"}
# Numbers that make sense, see engine.args.check_ranges.
RANGES = {
    "nOut": (1, None), "n_mels": (1, None), "sinc_stride": (1, None), "wav_scale": (1e-6, 1e9),
    "eval_frames": (0, 10**6), "num_eval": (1, None), "eval_batch_files": (1, None), "cohort_size": (2, None),
    **report.RANGES,
}  # fmt: skip


def add_network_arguments(parser):
    """Add the flags that say what the network is."""
    network = parser.add_argument_group("network")
    network.add_argument("--model", default="", help=f"one of: {', '.join(registry.names('models', 'speaker'))}")
    network.add_argument(
        "--encoder_type",
        "--pooling",
        default="SAP",
        help="pooling over time: SAP, ASP, TAP, MAX, ECA, or one of the network's own",
    )
    network.add_argument("--nOut", type=int, default=512, help="size of the embedding")
    network.add_argument("--n_mels", type=int, default=40, help="mel bands")
    add_bool(network, "--log_input", help="logarithm of the mel power")
    network.add_argument("--sinc_stride", type=int, default=10, help="stride of RawNet3's filters in samples")
    network.add_argument(
        "--wav_scale", type=float, default=None, help="factor on waves in [-1, 1] before the network (default: its own)"
    )
    network.add_argument(
        "--initial_model",
        default="",
        help="weights to start anew from, or to evaluate: a file (published layouts are known by their keys), a folder "
        "of WeSpeaker (config.yaml, avg_model.pt), or torchaudio:WAV2VEC2_BASE and so on, which torchaudio downloads",
    )
    add_bool(network, "--allow_partial", help="take what fits of --initial_model's network and report the rest")


def add_arguments(parser):
    """Add the flags that say what the network is and how it is evaluated."""
    add_network_arguments(parser)
    evaluation = parser.add_argument_group("evaluation")
    evaluation.add_argument(
        "--test_list", default="data/veri_test.txt", help="lines `label path path`, 1: same speaker"
    )
    evaluation.add_argument("--test_path", default="data/voxceleb1", help="prefix of the paths in --test_list")
    evaluation.add_argument("--eval_frames", type=int, default=300, help="crop in frames of 10 ms (0: each file whole)")
    evaluation.add_argument("--num_eval", type=int, default=10, help="crops per file")
    evaluation.add_argument("--eval_batch_files", type=int, default=4, help="files embedded together")
    evaluation.add_argument(
        "--score_mode",
        choices=("distance", "cosine", "cosine_of_mean"),
        default="distance",
        help="distance: minus the mean distance over all pairs of crops; cosine: their mean cosine",
    )
    report.add_arguments(evaluation)
    evaluation.add_argument(
        "--score_norm",
        choices=norms.METHODS,
        default="none",
        help="normalise the scores of test lists by the cohort in the checkpoint (--enroll_training_data)",
    )
    evaluation.add_argument(
        "--cohort_size",
        type=int,
        default=None,
        help="nearest speakers of the cohort (default: 300 of as-norm, else all)",
    )
    add_bool(
        evaluation,
        "--post_process_scores",
        help="test lists: the EER centred by the cohort, at unit length, after s-norm, and after all of these, too",
    )
    evaluation.add_argument("--scores_file", default="", help="file for the scores (default: in the run folder)")


class SpeakerNet(nn.Module):
    """Network (`__S__`) and loss (`__L__`); the only place where waves are multiplied by `wav_scale`.

    Args:
        masks: arguments of audio.masks.spec_augment, applied to the features while training; None for none.
        masks_first: apply them before the features are normalised, and not after.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: nn.Module | None = None,
        wav_scale: float = 32768.0,
        masks: dict | None = None,
        masks_first: bool = False,
    ):
        super().__init__()
        self.__S__ = network
        self.__L__ = loss
        self.wav_scale, self.masks, self.masks_first = wav_scale, masks, masks_first
        needed = ("raw_features", "normalise") if masks_first else ("features", "embed")
        if masks and not all(hasattr(network, name) for name in needed):
            flag = "--spec_augment_before_norm" if masks_first else "--spec_augment"
            raise ValueError(f"{flag}: models/{type(network).__module__.rpartition('.')[2]}.py lacks {needed[0]}()")

    def embed(self, wave: torch.Tensor) -> torch.Tensor:
        """Return the embeddings (batch, dim) of `wave` (batch, samples) in [-1, 1]."""
        wave = wave * self.wav_scale
        if not (self.training and self.masks):
            return self.__S__(wave)
        if self.masks_first:
            return self.__S__.embed(self.__S__.normalise(spec_augment(self.__S__.raw_features(wave), **self.masks)))
        return self.__S__.embed(spec_augment(self.__S__.features(wave), **self.masks))

    def forward(self, wave: torch.Tensor, label: torch.Tensor | None = None):
        """Return embeddings of `wave` (batch, samples), or with labels (speakers,) the loss and accuracy in percent of
        `wave` (speakers, nPerSpeaker, samples)."""
        if label is None:
            return self.embed(wave)
        speakers, each, samples = wave.shape
        # All first utterances come first, then all second ones: the order of the original trainer.
        embedding = self.embed(wave.transpose(0, 1).reshape(-1, samples))
        embedding = embedding.reshape(each, speakers, -1).transpose(0, 1)
        return self.__L__(embedding if each > 1 else embedding.squeeze(1), label)


# ---------------------------------------------------------------- networks from flags and from files


def build_network(args):
    """Return the network that the flags describe, and its card for checkpoints; args.nOut becomes what it gives."""
    cls = registry.load("models", args.model, "speaker")
    kwargs = registry.arguments_of(cls, stored_args(args))
    args.wav_scale = getattr(cls, "WAV_SCALE", 32768.0) if args.wav_scale is None else args.wav_scale
    network = cls(**kwargs)
    args.nOut = getattr(network, "embedding_size", args.nOut)
    return network, {"class": f"models.{args.model}", "kwargs": kwargs}


def load(path: str | Path, device: str | torch.device = "cpu", wav_scale: float | None = None) -> SpeakerNet:
    """Return the network of a checkpoint, ready to embed; no flags are needed for ours, for folders of WeSpeaker, and
    for published layouts that say by their names and shapes what network they are of.

    Args:
        wav_scale: of a published one, where it is not to be the network's own.

    Raises:
        ValueError: the file is damaged, or it does not say what network it is of.
    """
    if Path(path).is_dir():
        found = foreign.read_folder(path, "speaker")
    else:
        weights, card = checkpoint.weights_of(checkpoint.read(path), path)
        if card:
            return from_card(weights, card, path).to(device).eval()
        found = foreign.recognise(weights, "speaker")
    if found is None:
        raise ValueError(f"{path} does not say what network it is of: evaluate it with --model and its options")
    network, renamed = found
    net = SpeakerNet(network, wav_scale=network.WAV_SCALE if wav_scale is None else wav_scale)
    checkpoint.load_weights(net, renamed, path, may_lack=foreign.may_lack(network))
    return net.to(device).eval()


def load_any(path: str | Path, args, device: str | torch.device, say=print) -> tuple[SpeakerNet, dict]:
    """Return the network of a checkpoint and its card: ours, a published layout, or one that the flags describe.

    The card is empty for all but ours. Flags that contradict a checkpoint of ours are ignored with a line.

    Raises:
        ValueError: the file is damaged, is of another network than --model, or does not fit it.
    """
    if not str(path).startswith(foreign.PIPELINE):
        weights, card = ({}, {}) if Path(path).is_dir() else checkpoint.weights_of(checkpoint.read(path), path)
        if card:
            return _load_ours(weights, card, path, args, say).to(device).eval(), card
        if not args.model:
            for name in NETWORK_FLAGS & set(args.given):
                say(f"warning: --{name} ignored, {path} says itself what network it is of")
            return load(path, device, args.wav_scale), {}
    network, _ = build_network(args)
    net = SpeakerNet(network, wav_scale=args.wav_scale)
    for line in foreign.load_into(net, path, allow_partial=args.allow_partial):
        say(line)
    return net.to(device).eval(), {}


def _load_ours(weights, card, path, args, say):
    if args.model and f"models.{args.model}" != card["class"]:
        raise ValueError(f"{path} holds {card['class']}, not --model {args.model}: leave --model out")
    stored = {"wav_scale": card["meta"].get("wav_scale"), **card["kwargs"]}
    for name, value in stored.items():
        if name in args.given and getattr(args, name, value) != value:
            say(f"warning: --{name} {getattr(args, name)} ignored, {path} was trained with {value}")
    say(f"{card['class']} with its arguments from {path}")
    return from_card(weights, card, path)


def from_card(weights: dict, card: dict, path: str | Path) -> SpeakerNet:
    """Build the network that a checkpoint's card describes and put the weights in; the loss is left out."""
    folder, _, name = card["class"].partition(".")
    try:
        network = registry.load(folder, name, task="speaker")(**card["kwargs"])
        net = SpeakerNet(network, wav_scale=float(card["meta"]["wav_scale"]))
    except (ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} cannot be rebuilt from what it says of itself ({card['class']}): {reason}") from None
    checkpoint.load_weights(net, {n: t for n, t in weights.items() if n.startswith("__S__.")}, path)
    return net


# ---------------------------------------------------------------- embeddings and scores


def flops(net: SpeakerNet, samples: int, device: torch.device) -> int:
    """Return the floating-point operations of embedding one crop (a multiply-add counts two)."""
    from torch.utils.flop_counter import FlopCounterMode

    training = net.training
    net.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net.embed(torch.zeros(1, samples, device=device))
    net.train(training)
    return counter.get_total_flops()


@dataclass
class Embeddings:
    """`vectors` (crops of all files, dim) float32 on the CPU; file i owns rows offsets[i] to offsets[i + 1]."""

    vectors: torch.Tensor
    offsets: np.ndarray


@torch.no_grad()
def embed_files(
    net: SpeakerNet, paths: list[str], args, device: torch.device, crops: tuple[int, int] | None = None
) -> Embeddings:
    """Embed the evaluation crops of all files, shared out over the ranks; every rank gets the whole table.

    Crops of one length are embedded together, whole files (0 frames) one by one, so that no embedding depends on the
    neighbours of its file.

    Args:
        crops: frames of 10 ms and number of crops per file; None: --eval_frames and --num_eval.
    """
    net.eval()
    rank, world = distributed.rank(), distributed.world_size()
    own = paths[rank::world]
    frames, count = crops or (args.eval_frames, args.num_eval)
    loader = DatasetLoader.eval_loader(own, frames, count, args.nDataLoaderThread, args.eval_batch_files)
    vectors, counts = [], []
    progress = tqdm(total=len(own), desc="embeddings", unit="file", disable=True if rank > 0 else None, leave=False)
    for batch in loader:
        files, each, samples = batch.shape
        wave = batch.reshape(-1, samples).to(device, non_blocking=True)
        vectors.append(net(wave).float().cpu())
        counts += [each] * files
        progress.update(files)
    progress.close()
    dim = vectors[0].shape[1] if vectors else 0
    parts = distributed.gather_objects((torch.cat(vectors).numpy() if vectors else np.empty((0, dim)), counts))
    return _interleave(parts, len(paths))


def _interleave(parts, files):
    """Put the files of all ranks, dealt out one by one, back in their order."""
    counts = np.zeros(files, dtype=np.int64)
    for rank, (_, each) in enumerate(parts):
        counts[rank :: len(parts)] = each
    offsets = np.concatenate([[0], np.cumsum(counts)])
    table = np.empty((offsets[-1], max(p.shape[1] for p, _ in parts)), dtype=np.float32)
    for rank, (rows, each) in enumerate(parts):
        starts = offsets[:-1][rank :: len(parts)]
        position = (
            np.arange(len(rows)) - np.repeat(np.cumsum(each) - each, each) if len(rows) else np.empty(0, np.int64)
        )
        table[np.repeat(starts, each) + position] = rows
    return Embeddings(torch.from_numpy(table), offsets)


def score_files(table: Embeddings, trial_list: TrialList, args, device: torch.device, normalise: bool) -> np.ndarray:
    """Return the scores (trials,) of a trial list from the embeddings of its files; higher means more alike.

    `normalise`: bring every embedding to unit length first, as losses on cosines want it.
    """
    vectors = torch.nn.functional.normalize(table.vectors, dim=1) if normalise else table.vectors
    return trials.score_trials(vectors, table.offsets, trial_list.pairs, args.score_mode, device)


def embed_list(net: SpeakerNet, trial_list: TrialList, root: str, args, device, crops=None) -> Embeddings:
    """Embed the files of a trial list; see embed_files."""
    return embed_files(net, [join(root, name) for name in trial_list.names], args, device, crops)


def file_means(table: Embeddings) -> torch.Tensor:
    """Return the mean embedding of every file, (files, dim)."""
    counts = torch.from_numpy(np.diff(table.offsets))
    owner = torch.repeat_interleave(torch.arange(len(counts)), counts)
    return torch.zeros(len(counts), table.vectors.shape[1]).index_add_(0, owner, table.vectors) / counts[:, None]


def enroll(net: SpeakerNet, utterances: TrainList, args, device: torch.device, crops: tuple[int, int]) -> dict:
    """Return the cohort that the training speakers make, as plain data for a checkpoint.

    Returns:
        "embeddings" (speakers, dim), the mean raw embedding of each speaker with at least two files; "mean" and "std"
        (dim,) over these speakers, unbiased; "speakers", their names.

    Raises:
        ValueError: fewer than two speakers have two files.
    """
    table = embed_files(net, [utterances.path(i) for i in range(len(utterances.paths))], args, device, crops)
    means, kept = embeddings.speaker_means(file_means(table).numpy(), utterances.labels)
    if len(kept) < 2:
        raise ValueError(f"{utterances.name}: a cohort needs two speakers with two utterances, it has {len(kept)}")
    means = torch.from_numpy(means)
    std, mean = torch.std_mean(means, dim=0)
    return {"embeddings": means, "mean": mean, "std": std, "speakers": [utterances.speakers[i] for i in kept.tolist()]}


def evaluate_list(
    net: SpeakerNet, test: TrialList, args, device: torch.device, normalise: bool, log, cohort: dict | None, suffix=""
) -> tuple[dict, dict]:
    """Score a test list and report it, also normalised by a cohort where that is asked for; on rank 0 only.

    Returns:
        the figures that report() gives, and the entries of result.json; both empty on other ranks and without labels.

    Raises:
        ValueError: an embedding is not finite.
    """
    table = embed_list(net, test, args.test_path, args, device)
    if not distributed.is_main():
        return {}, {}
    scores = score_files(table, test, args, device, normalise)
    values = report.report(scores, test, args, Path(args.save_path), normalise, log, suffix)
    if not values or suffix:
        return values, {}
    name = result.set_name(test.name)
    entries = report.figures(scores, test.labels, args.eer_method, name)
    if cohort is not None:
        vectors, speakers = file_means(table).numpy(), cohort["embeddings"].numpy()
        for step, treated in _treatments(vectors, test.pairs, speakers, args).items():
            found = report.figures(treated, test.labels, args.eer_method, f"{name}_{step}")
            log.line(f"{step}: EER {100 * found[f'test_eer_{name}_{step}']:.4f} %, {len(speakers)} training speakers")
            target = Path(args.save_path) / "result" / f"scores_{Path(test.name).stem}_{step}.txt"
            trials.write_scores(target, treated, test.pairs, test.names)
            entries |= found
    return values, entries


def _treatments(vectors, pairs, speakers, args):
    """Return {name: cosine scores} after --score_norm and the four treatments of --post_process_scores."""
    found = {}
    if args.score_norm != "none":
        top = norms.cohort_size(args.score_norm, args.cohort_size, len(speakers))
        name = f"{args.score_norm.replace('-', '_')}{f'_top{top}' if top else ''}"
        found[name] = norms.score_and_normalise(vectors, pairs, speakers, args.score_norm, top)
    if args.post_process_scores:
        found |= norms.post_processed(vectors, pairs, speakers)
        found.pop("plain")
    return found
