"""Train a VQ-VAE of speech: codes say what is spoken, a label who speaks; and networks that are made from one.

    python train_vqvae.py data/LibriSpeech/train-clean-100 --class_cond --encoder unet128 --save_path exps/vqvae
    python train_vqvae.py more --class_cond --add_speakers --initial_model exps/vqvae/checkpoints/last.pt
    python train_vqvae.py same --class_cond --no_class_prob 0.1 --no_vq_prob 0.1 --initial_model exps/vqvae/...
    python train_vqvae.py same --encoder_predictor exps/vqvae/checkpoints/last.pt   (of the codes: EncoderPrediction.py)

The page in order: flags, training, validation. The run folder --save_path gets args.yaml, metrics.jsonl, tb/,
checkpoints/ and result/. The same command goes on where it was stopped. Flags may be written with hyphens too.
"""

import os
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in trainSpeakerNet.py

import torch

import EncoderPrediction
import TrainingRun
import VQVAENet
import VQVAEStart
import WaveRecognition
import WaveSets
import WaveTraining
from diffusion import objective
from engine import distributed, registry
from engine.args import add_bool, check_ranges, make_parser, parse, stored_args
from engine.log import RunLog, run_main, versions
from engine.state import seed_everything
from models.blocks import labels, vq
from models.blocks.wave_encoders import ENCODERS
from models.WaveVQVAE import PREDICTORS

# what a run cannot change when it goes on
FIXED = (
    *("schedule", "encoding", "window", "speakers", "class_cond", "none_label", "no_class_prob", "no_vq_prob"),
    *("base_channels", "encoder", "cond_mult", "dictionary_size", "predictor", "dropout"),
)
RANGES = {
    "cond_mult": (1, None), "dictionary_size": (1, None), "dead_rate": (1, None), "commitment_coeff": (0, None),
    "revival_coeff": (0, None), "jitter": (0, 1), "dropout": (0, 0.999), "no_class_prob": (0, 0.999),
    "no_vq_prob": (0, 0.999),
}  # fmt: skip
# flags that do nothing beside another one
IDLE = {
    "freeze_vq": ("revival_coeff", "dead_rate"),
    "freeze_encoder": ("commitment_coeff",),
    "revival_coeff": ("dead_rate",),
    "add_speakers": ("freeze_encoder", "freeze_vq", "revival_coeff", "dead_rate", "commitment_coeff", "no_class_prob"),
    "encoder_predictor": (
        *("encoder", "cond_mult", "dictionary_size", "predictor", "dropout", "class_cond", "freeze_encoder"),
        *("freeze_vq", "commitment_coeff", "revival_coeff", "dead_rate", "jitter", "add_speakers", "no_class_prob"),
        "no_vq_prob",
    ),
}

# ---------------------------------------------------------------- flags


def make_flags():
    """Return the parser of the command."""
    parser = make_parser(__doc__.splitlines()[0])
    WaveTraining.add_arguments(parser, VQVAENet.TASK, "WaveVQVAE", "exps/vqvae")
    model = parser.add_argument_group("VQ-VAE; of a VQ-VAE as --initial_model, what is not given is as there")
    model.add_argument("--encoder", choices=tuple(ENCODERS), default="unet", help="from waves to what is quantised")
    model.add_argument("--predictor", choices=tuple(PREDICTORS), default="unet", help="of the noise")
    model.add_argument("--cond_mult", type=int, default=16, help="numbers of a code, in units of --base_channels")
    model.add_argument("--dictionary_size", type=int, default=512, help="number of codes")
    model.add_argument("--dropout", type=float, default=0.0, help="in every block of the predictor unet")
    add_bool(model, "--class_cond", help="tell the predictor who speaks: a label for each speaker")
    codes = parser.add_argument_group("codes")
    add_bool(codes, "--freeze_encoder", help="the encoder does not learn")
    add_bool(codes, "--freeze_vq", help="the codes do not learn")
    codes.add_argument(
        "--commitment_coeff", type=float, default=0.25, help="weight of the loss that keeps latents near their codes"
    )
    codes.add_argument(
        "--dead_rate", type=int, default=100,
        help="batches without use after which a code is replaced by a latent of the batch, far ones most likely",
    )  # fmt: skip
    codes.add_argument(
        "--revival_coeff", type=float, default=0.0,
        help="instead of that: weight of a loss that draws all codes to the latents",
    )  # fmt: skip
    codes.add_argument(
        "--jitter", type=float, default=0.0, help="share of positions that take a neighbour's latent in training"
    )
    more = parser.add_argument_group("networks made from a VQ-VAE")
    add_bool(
        more, "--add_speakers",
        help="the speakers of data_dir are new ones for --initial_model: their labels follow the old ones, and nothing "
        "but these labels learns",
    )  # fmt: skip
    more.add_argument(
        "--no_class_prob", type=float, default=0.0,
        help="share of the labels left out in training, for classifier-free guidance: label 0 is then none, the "
        "speakers' follow from 1",
    )  # fmt: skip
    more.add_argument(
        "--no_vq_prob", type=float, default=0.0, help="share of the sequences of codes left out, likewise"
    )
    more.add_argument(
        "--encoder_predictor", "--vq_vae_path", default="", metavar="FILE",
        help="train a network that tells this VQ-VAE's codes from noised waves, to guide sampling (--save_path is then "
        f"{EncoderPrediction.SAVE_PATH} where none is given)",
    )  # fmt: skip
    WaveRecognition.add_arguments(parser.add_argument_group("with --encoder_predictor"))
    return parser


def choose_network(args) -> str:
    """Set --model to the default of the task; return the task."""
    if not args.encoder_predictor:
        return VQVAENet.TASK
    args.model = "EncoderPredictor" if args.model == "WaveVQVAE" else args.model
    return EncoderPrediction.TASK


def read_flags(argv=None):
    """Return the flags of a command line after all checks that need no data."""
    args, given = parse(
        make_flags(), argv,
        extend=lambda p, first: registry.add_arguments(
            p, WaveTraining.chosen_classes(first, choose_network(first)).values()
        ),
    )  # fmt: skip
    check_ranges(args, {**WaveTraining.RANGES, **WaveRecognition.RANGES, **RANGES})
    task = choose_network(args)
    explicit = {name for name, source in given.items() if source != "config"}
    for name, idle in IDLE.items():
        for other in idle:
            if getattr(args, name) and other in explicit and getattr(args, other) not in (False, 0.0):
                raise ValueError(f"--{other} does nothing with --{name}: leave one out")
    if args.encoder_predictor:
        EncoderPrediction.check(args, given)
        return args
    idle = [name for name in WaveRecognition.RANGES if name in explicit]
    if idle:
        raise ValueError(f"--{idle[0]} works with --encoder_predictor")
    if args.add_speakers and not (args.initial_model and args.class_cond):
        raise ValueError("--add_speakers needs --class_cond and the VQ-VAE as --initial_model")
    if args.no_class_prob and not args.class_cond:
        raise ValueError("--no_class_prob leaves out labels: give --class_cond")
    VQVAEStart.inherit(args, given, VQVAEStart.read(args.initial_model))
    companded = {"conv-mfcc-ulaw": "ulaw", "conv-mfcc-ulaw-v2": "ulaw", "conv-mfcc-linear": "linear"}
    if companded.get(args.encoder, args.encoding) != args.encoding:
        raise ValueError(f"--encoder {args.encoder} is for --encoding {companded[args.encoder]}, not {args.encoding}")
    WaveTraining.check(args, given, task, {flag: (name, value) for flag, name, value in network_options(args)})
    return args


def network_options(args):
    """Return (flag, name, value) of what the network is built with, but for the labels."""
    named = [(flag, name, getattr(args, flag)) for flag, name in VQVAEStart.SIZES.items()]
    return [
        *named,
        ("dead_rate", "dead_rate", args.dead_rate),
        ("class_cond", "num_labels", 1 if args.class_cond else None),
    ]


def main(argv=None):
    """Read the flags and train on as many processes as they say."""
    args = read_flags(argv)
    work = EncoderPrediction.train if args.encoder_predictor else train
    return 0 if args.dry_run else distributed.launch(work, args)


# ---------------------------------------------------------------- training


def train(args):
    """Train on one process or as one rank of several; return the exit code."""
    started = time.time()
    seed_everything(args.seed)  # of the first weights alone: draws of a step are those of its windows
    device = distributed.device_of(args)
    initial = VQVAEStart.read(args.initial_model)
    sets = WaveSets.read_sets(args, args.class_cond)
    VQVAEStart.label_speakers(sets, args, initial)
    net, kwargs = build(args, sets, initial)
    net.to(device)
    seed_everything(args.seed + distributed.rank())
    positions = sets.train.samples // net.encoder.rate if args.jitter else 0
    loader = WaveSets.make_loader(sets, args, device, more=positions)
    log = RunLog(args.save_path, writes=distributed.is_main())
    WaveTraining.describe(net, sets, args, log, device)
    meta = {
        **{name: getattr(args, name) for name in (*VQVAEStart.PROCESS, *VQVAEStart.SIZES, "class_cond")},
        "sample_rate": WaveTraining.SAMPLE_RATE, "window": sets.train.samples, "speakers": list(sets.train.speakers),
        "none_label": net.none_label, "args": stored_args(args), "versions": versions(),
    }  # fmt: skip
    card = {"class": f"models.{args.model}", "kwargs": kwargs, "meta": meta}

    def start():
        return VQVAEStart.take_over(net, initial, args)

    usage = vq.CodeUsage(len(net.vq.dictionary), device)
    trackers = {"": objective.TimeBuckets(device=device), "codes_": usage}
    state, freezer = TrainingRun.prepare(net, args, device, len(loader), card, trackers, FIXED, log, start)
    kept = old_labels(net, initial) if args.add_speakers else {}

    def step(batch):
        samples, label, t, eps, u, _ = batch
        losses, vq_loss, codes = state.parallel(samples, t, eps, label, u)
        WaveTraining.track(trackers[""], t, losses)
        usage.add(codes)
        return losses.mean() + vq_loss, {"noise_loss": losses.mean(), "vq_loss": vq_loss}

    def settle():
        if net.vq.dictionary.requires_grad and not args.revival_coeff:
            revive(net, state, usage)
        for weights in (net.state_dict(), *state.ema.values()):
            for name, rows in kept.items():
                weights[name][: len(rows)].copy_(rows)

    def judge():
        return validate(net, sets, args, device)

    def payload_of(weights):
        payload = VQVAENet.original_payload(net)
        return WaveTraining.original_payload(payload, {"step": state.step, **meta}, weights)

    return WaveTraining.fit(
        state, freezer, loader, step, judge, sets, log, args, started, payload_of, settle=settle
    )  # fmt: skip


def build(args, sets, initial):
    """Return the network for the data, with its losses, and the arguments that it was built with."""
    none_label = VQVAEStart.has_none_label(args, initial)
    options = {name: value for _, name, value in network_options(args)}
    options["num_labels"] = len(sets.train.speakers) + none_label if args.class_cond else None
    cls = registry.load("models", args.model, VQVAENet.TASK)
    kwargs = registry.arguments_of(cls, {**stored_args(args), **options})
    network = cls(**kwargs)
    for part in (network.predictor, network.encoder):
        part.checkpoint_activations = args.grad_checkpoint
    if args.add_speakers:
        learning = labels.train_labels_only(network)
        frozen = [name for name, _ in network.named_parameters() if name not in learning]
    else:
        frozen = ["encoder"] * args.freeze_encoder + ["vq"] * args.freeze_vq
    net = VQVAENet.VQVAENet(
        network, args.schedule, none_label, 0.0 if args.add_speakers else args.no_class_prob, args.no_vq_prob,
        args.jitter, args.commitment_coeff, args.revival_coeff, tuple(frozen),
    )  # fmt: skip
    return net, kwargs


@torch.no_grad()
def revive(net, state, usage):
    """Replace the dead codes, in the averages too, which would come after them slowly."""
    averages = state.ema.values()
    usage.add_revived(vq.revive(net.vq, state.optimizer, [weights["vq.dictionary"] for weights in averages]))
    for weights in averages:
        weights["vq.usage_count"].copy_(net.vq.usage_count)


def old_labels(net, initial):
    """Return {name: rows of the labels that do not learn}: without gradient, weight decay would still pull at them."""
    learning = [name for name, parameter in net.named_parameters() if parameter.requires_grad]
    return {name: net.state_dict()[name][: initial.labels].clone() for name in learning}


# ---------------------------------------------------------------- validation


def validate(net, sets, args, device) -> dict[str, float]:
    """Return the loss over fixed windows with their codes and labels, and the use of the codes; the network must be in
    evaluation mode."""
    counts = torch.zeros(len(net.vq.dictionary), dtype=torch.int64, device=device)

    def losses_of(samples, label, t, eps, vector):
        cond, codes = VQVAENet.condition_of(net, samples)
        counts.add_(torch.bincount(codes.flatten(), minlength=len(counts)))
        return VQVAENet.losses_given(net, samples, t, eps, label, cond)

    figures = WaveSets.fixed_loss(losses_of, sets, args, device)
    usage = {"valid_codes_used": float((counts > 0).sum()), "valid_perplexity": float(vq.perplexity(counts))}
    return {**figures, **usage}


if __name__ == "__main__":
    run_main(main)
