"""A speaker network with its loss: what training, evaluation, extraction and scoring call.
Entry points: SpeakerNet, load(path), embed_files, score_list, report.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

import DatasetLoader
from audio.features import spec_augment
from audio.lists import TrialList, join
from engine import checkpoint, distributed, registry
from engine.args import add_bool
from scoring import intervals, metrics, plots, trials

# Numbers that make sense, see engine.args.check_ranges.
RANGES = {
    "nOut": (1, None), "n_mels": (1, None), "sinc_stride": (1, None), "wav_scale": (1e-6, 1e9),
    "eval_frames": (0, 10**6), "num_eval": (1, None), "eval_batch_files": (1, None), "dcf_p_target": (1e-9, 1 - 1e-9),
    "dcf_c_miss": (1e-9, None), "dcf_c_fa": (1e-9, None), "bootstrap": (0, None),
}  # fmt: skip


def add_arguments(parser):
    """Add the flags that say what the network is and how it is evaluated."""
    network = parser.add_argument_group("network")
    network.add_argument("--model", default="", help=f"one of: {', '.join(registry.names('models', 'speaker'))}")
    network.add_argument(
        "--encoder_type", "--pooling", default="SAP", help="pooling over time: SAP, ASP, TAP, MAX or ECA"
    )
    network.add_argument("--nOut", type=int, default=512, help="size of the embedding")
    network.add_argument("--n_mels", type=int, default=40, help="mel bands")
    add_bool(network, "--log_input", help="logarithm of the mel power")
    network.add_argument("--sinc_stride", type=int, default=10, help="stride of RawNet3's filters in samples")
    network.add_argument(
        "--wav_scale", type=float, default=None, help="factor on waves in [-1, 1] before the network (default: its own)"
    )
    network.add_argument("--initial_model", default="", help="weights to start anew from, or to evaluate")
    add_bool(network, "--allow_partial", help="take what fits of --initial_model's network and report the rest")
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
    evaluation.add_argument("--eer_method", choices=("nearest", "interpolated", "midpoint", "hull"), default="nearest",
                            help="how the EER is read off")  # fmt: skip
    evaluation.add_argument("--dcf_p_target", type=float, default=0.05, help="minDCF: prior of a target")
    evaluation.add_argument("--dcf_c_miss", type=float, default=1.0, help="minDCF: cost of a miss")
    evaluation.add_argument("--dcf_c_fa", type=float, default=1.0, help="minDCF: cost of a false alarm")
    evaluation.add_argument(
        "--bootstrap", type=int, default=1000, help="draws of speakers for the 95 %% interval (0: none)"
    )
    evaluation.add_argument("--scores_file", default="", help="file for the scores (default: in the run folder)")


class SpeakerNet(nn.Module):
    """Network (`__S__`) and loss (`__L__`); the only place where waves are multiplied by `wav_scale`.

    Args:
        masks: arguments of audio.features.spec_augment, applied to the features while training; None for none.
    """

    def __init__(
        self, network: nn.Module, loss: nn.Module | None = None, wav_scale: float = 32768.0, masks: dict | None = None
    ):
        super().__init__()
        self.__S__ = network
        self.__L__ = loss
        self.wav_scale, self.masks = wav_scale, masks
        if masks and not hasattr(network, "features"):
            raise ValueError(
                f"--spec_augment needs a network with features() and embed(); {type(network).__module__} has neither"
            )

    def embed(self, wave: torch.Tensor) -> torch.Tensor:
        """Return the embeddings (batch, dim) of `wave` (batch, samples) in [-1, 1]."""
        wave = wave * self.wav_scale
        if not (self.training and self.masks):
            return self.__S__(wave)
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


def load(path: str | Path, device: str | torch.device = "cpu") -> SpeakerNet:
    """Return the network of one of our checkpoints, ready to embed; no flags are needed.

    Raises:
        ValueError: the file is damaged, or a foreign checkpoint, which does not say what network it is of.
    """
    weights, card = checkpoint.weights_of(checkpoint.read(path), path)
    if not card:
        raise ValueError(f"{path} does not say what network it is of: evaluate it with --model and its options")
    return from_card(weights, card, path).to(device).eval()


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
def embed_files(net: SpeakerNet, paths: list[str], args, device: torch.device, quiet: bool = False) -> Embeddings:
    """Embed the evaluation crops of all files, shared out over the ranks; every rank gets the whole table.

    Crops of one length are embedded together, whole files (eval_frames 0) one by one, so that no embedding depends on
    the neighbours of its file.
    """
    net.eval()
    rank, world = distributed.rank(), distributed.world_size()
    own = paths[rank::world]
    loader = DatasetLoader.eval_loader(
        own, args.eval_frames, args.num_eval, args.nDataLoaderThread, args.eval_batch_files
    )
    vectors, counts = [], []
    progress = tqdm(
        total=len(own), desc="embeddings", unit="file", disable=True if quiet or rank > 0 else None, leave=False
    )
    for crops in loader:
        files, each, samples = crops.shape
        wave = crops.reshape(-1, samples).to(device, non_blocking=True)
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


def score_list(
    net: SpeakerNet, trial_list: TrialList, root: str, args, device: torch.device, normalise: bool
) -> np.ndarray | None:
    """Return the scores (trials,) of a trial list on rank 0, None on the others; higher means more alike.

    `normalise`: bring every embedding to unit length first, as losses on cosines want it.
    """
    paths = [join(root, name) for name in trial_list.names]
    table = embed_files(net, paths, args, device)
    if not distributed.is_main():
        return None
    vectors = torch.nn.functional.normalize(table.vectors, dim=1) if normalise else table.vectors
    return trials.score_trials(vectors, table.offsets, trial_list.pairs, args.score_mode, device)


def rates(scores: np.ndarray, trial_list: TrialList, args) -> dict[str, float]:
    """Return {"veer": EER in percent, "mindcf": minDCF} of scores on a labelled list."""
    eer, _ = metrics.eer(scores, trial_list.labels, args.eer_method)
    dcf, _ = metrics.min_dcf(scores, trial_list.labels, args.dcf_p_target, args.dcf_c_miss, args.dcf_c_fa)
    return {"veer": float(eer), "mindcf": float(dcf)}


def report(
    scores: np.ndarray, trial_list: TrialList, args, folder: Path, normalise: bool, log, suffix: str = ""
) -> dict[str, float]:
    """Print EER, minDCF, interval and protocol of scores on a list, write the scores file, DET curve and histogram.

    A list without labels gives the scores file only. `suffix` is added to the names of the files.
    """
    stem = Path(trial_list.name).stem + suffix
    target = Path(args.scores_file) if args.scores_file and not suffix else folder / "result" / f"scores_{stem}.txt"
    target.parent.mkdir(parents=True, exist_ok=True)
    trials.write_scores(target, scores, trial_list.pairs, trial_list.names)
    log.line(trial_list.describe())
    if trial_list.labels is None:
        log.line(f"the list has no labels: no error rates; scores in {target}")
        return {}
    values = rates(scores, trial_list, args)
    log.line(f"EER {values['veer']:2.4f} MinDCF {values['mindcf']:.5f}")
    if args.bootstrap:
        interval = intervals.bootstrap_interval(
            scores,
            trial_list.labels,
            trial_list.sides(),
            metric=lambda counts: metrics.eer_of(counts, args.eer_method)[0],
            replicates=args.bootstrap,
            seed=args.seed,
        )
        log.line(f"EER 95 % interval {interval.low:.2f} to {interval.high:.2f} % ({interval})")
        values |= {"eer_low": float(interval.low), "eer_high": float(interval.high)}
    line = trials.protocol_line(
        f"{Path(trial_list.name).name} (sha256 {trial_list.hash})",
        len(scores),
        len(trial_list.names),
        args.num_eval,
        args.eval_frames,
        args.score_mode,
        normalise,
        eer_method=args.eer_method,
    )
    costs = f"minDCF p_target {args.dcf_p_target:g}, c_miss {args.dcf_c_miss:g}, c_fa {args.dcf_c_fa:g}"
    log.line(f"{line}, {costs}, float32")
    det, histogram = folder / "result" / f"det_{stem}.png", folder / "result" / f"histogram_{stem}.png"
    plots.det_plot(det, {stem: (scores, trial_list.labels)}, args.dcf_p_target, args.dcf_c_miss, args.dcf_c_fa)
    plots.score_histogram(histogram, scores, trial_list.labels)
    log.line(f"scores {target}; DET curve {det}; histogram {histogram}")
    return values
