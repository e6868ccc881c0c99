"""Train an encoder of embeddings into binary voice attributes, and make the attributes of recordings with it.

    python train_attributes.py --train_embeddings E.npz --train_list L --valid_embeddings V.npz --valid_list M ...
    python train_attributes.py --binarize --save_path exps/attributes --embeddings E.npz --out C.npz

The page in order: flags, training, validation, codes. The run folder --save_path gets args.yaml, metrics.jsonl,
tb/, checkpoints/ and result/. The same command goes on where it was stopped.
"""

import hashlib
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in trainSpeakerNet.py

import numpy as np
import torch

import AttributeNet
import EmbeddingLoader
from audio.metadata import read_metadata
from engine import checkpoint, distributed, foreign, groups, loop, registry, run
from engine.args import add_bool, check_ranges, make_parser, parse, stored_args
from engine.interruption import Interruption
from engine.log import RunLog, run_main, versions
from engine.state import seed_everything
from scoring import plots, vectors
from scoring.codes import Codes, write_codes
from scoring.embeddings import Table, read_table, write_table

# The losses under the names of the published log; others are logged under their own.
TAGS = {"mse": "MSE", "triplet": "Triplet", "arcface": "ArcFace", "sparsity": "Sparsity"}
# Flags of the commands that make codes or export; others are of the training and would do nothing there.
ENCODE_FLAGS = (
    "binarize", "embeddings", "list", "out", "reconstruction", "vectors_to", "vector_format", "export", "initial_model",
    "save_path", "device", "gpu_id", "allow_other_embeddings",
)  # fmt: skip

# ---------------------------------------------------------------- flags


def make_flags():
    """Return the parser of the command."""
    parser = make_parser(__doc__.splitlines()[0])
    network = parser.add_argument_group("network")
    models = ", ".join(registry.names("models", AttributeNet.TASK))
    network.add_argument("--model", default="AttributeEncoder", help=f"one of: {models}")
    network.add_argument("--internal_dim", type=int, default=512, help="binary attributes")
    network.add_argument(
        "--initial_model", default="", help="encoder to start anew from, to binarise with or to export: a file"
    )
    EmbeddingLoader.add_arguments(parser)
    loss = parser.add_argument_group("loss")
    names = ", ".join(AttributeNet.available())
    loss.add_argument(
        "--trainfunc",
        nargs="+",
        default=["mse+triplet"],
        metavar="TERM",
        help=f"sum of losses, e.g. mse+0.1*sparsity; without a factor a loss has its own weight; losses: {names}",
    )
    run.add_arguments(parser)
    parser.set_defaults(max_epoch=64, seed=1234, scheduler="constant", test_interval=1)
    parser.add_argument("--tag", default="", help="a word kept with the run, for tables of many runs")
    add_bool(parser, "--dry_run", help="check the flags and stop")
    parser.add_argument("--save_path", default="exps/attributes", help="run folder")
    codes = parser.add_argument_group("codes of recordings by --initial_model, or by the run in --save_path")
    add_bool(codes, "--binarize", help="write the attributes of --embeddings and stop")
    codes.add_argument("--embeddings", default="", metavar="FILE.npz", help="table of extract_embeddings.py")
    codes.add_argument("--list", default="", metavar="FILE", help="only these recordings (default: the whole table)")
    codes.add_argument("--out", default="", metavar="FILE.npz", help="the table of codes")
    codes.add_argument(
        "--reconstruction",
        default="",
        metavar="FILE.npz",
        help="write the embeddings rebuilt from the codes there, too",
    )
    codes.add_argument(
        "--vectors_to", default="", metavar="FOLDER", help="write a file <name>_ba for each recording there, too"
    )
    codes.add_argument("--vector_format", choices=vectors.FORMATS, default="npy", help="format of these files")
    codes.add_argument(
        "--export", default="", metavar="FILE.pt", help="write the encoder's weights alone, as published ones are"
    )
    distributed.add_arguments(parser)
    return parser


def chosen_classes(args) -> dict:
    """Return {"--model X": class, ...} of what the names choose."""
    chosen = [("models", args.model, AttributeNet.TASK)]
    chosen += [("optimizer", args.optimizer, None), ("scheduler", args.scheduler, None)]
    classes = {f"{registry.FLAG[folder]} {name}": registry.load(folder, name, task) for folder, name, task in chosen}
    losses = AttributeNet.loss_classes(AttributeNet.parse_trainfunc(args.trainfunc))
    return classes | {f"--trainfunc {name}": cls for name, cls in losses.items()}


def read_flags(argv=None):
    """Return the flags of a command line after all checks that need no data."""
    args, given = parse(
        make_flags(), argv, extend=lambda p, first: registry.add_arguments(p, chosen_classes(first).values())
    )
    check_ranges(args, {**run.RANGES, **EmbeddingLoader.RANGES, "internal_dim": (1, None)})
    if args.binarize or args.export:
        check_encoding(args, given)
        return args
    for name in ("embeddings", "list", "out", "reconstruction", "vectors_to", "vector_format"):
        if name in given:
            raise ValueError(f"--{name} works with --binarize")
    EmbeddingLoader.check(args)
    if args.channels_last:
        raise ValueError("--channels_last is for networks of images: leave it out")
    for line in registry.check_taken(given, ("internal_dim", *run.CLASS_FLAGS), chosen_classes(args)):
        print(line)
    return args


def check_encoding(args, given):
    """Refuse flags that lack or exclude each other where codes are made or weights exported."""
    command = "--binarize" if args.binarize else "--export"
    idle = [name for name, source in given.items() if source != "config" and name not in ENCODE_FLAGS]
    if idle:
        raise ValueError(f"--{idle[0]} has no effect with {command}")
    if args.binarize and not args.embeddings:
        raise ValueError("--binarize needs --embeddings: a table of extract_embeddings.py")
    if args.binarize and not args.out.endswith(".npz"):
        raise ValueError(f"--out {args.out or '(missing)'}: the table's name must end in .npz")
    if args.reconstruction and not args.reconstruction.endswith(".npz"):
        raise ValueError(f"--reconstruction {args.reconstruction}: the table's name must end in .npz")
    written = [Path(path).resolve() for path in (args.embeddings, args.out, args.reconstruction) if path]
    if len(set(written)) < len(written):
        raise ValueError("--embeddings, --out and --reconstruction name one file twice")
    if not args.binarize and (args.embeddings or args.out or args.vectors_to or args.list or args.reconstruction):
        raise ValueError("--embeddings, --list, --out, --reconstruction and --vectors_to work with --binarize")
    if args.vector_format != "npy" and not args.vectors_to:
        raise ValueError("--vector_format needs --vectors_to")


def main(argv=None):
    """Read the flags; train on as many processes as they say, or make codes."""
    args = read_flags(argv)
    if args.dry_run:
        return 0
    return make_codes(args) if args.binarize or args.export else distributed.launch(train, args)


# ---------------------------------------------------------------- training


def train(args):
    """Train on one process or as one rank of several; return the exit code."""
    started = time.time()
    seed_everything(args.seed + distributed.rank())
    device = distributed.device_of(args)
    data = EmbeddingLoader.read_set(args.train_embeddings, args.train_list, args, device)
    valid = EmbeddingLoader.read_set(args.valid_embeddings, args.valid_list, args, device) if args.valid_list else None
    if valid:
        EmbeddingLoader.check_same(data.table.meta, data.table.path, valid.table, args)
    if len(data.speakers) < args.classes_per_batch:
        raise ValueError(
            f"--classes_per_batch {args.classes_per_batch}: {args.train_list} has {len(data.speakers)} speakers only"
        )
    input_dim = data.vectors.shape[1]
    cls = registry.load("models", args.model, AttributeNet.TASK)
    kwargs = registry.arguments_of(cls, {**stored_args(args), "input_dim": input_dim})
    network = cls(**kwargs)
    if valid:
        AttributeNet.check_dimension(network, valid.vectors, data.table.path, valid.table.path)
    losses, weights = AttributeNet.build_losses(
        AttributeNet.parse_trainfunc(args.trainfunc), {**vars(args), "nClasses": len(data.speakers)}
    )
    net = AttributeNet.AttributeNet(network, losses, weights).to(device)
    loader = EmbeddingLoader.SetLoader(data, args)
    log = RunLog(args.save_path, writes=distributed.is_main())
    describe(net, data, valid, args, log, device)

    optimizer = run.build_optimizer(net, args)
    freezer = groups.freezer_of(net, args.freeze)
    freezer.set_step(0)
    scheduler, unit = run.build_scheduler(optimizer, args, max(1, len(loader) // args.accumulate))
    meta = {
        "embeddings": data.table.meta,
        "trainfunc": weights,
        "lists": {"train": data.listed, "valid": valid and valid.listed},
        "args": stored_args(args),
        "versions": versions(),
    }
    card = {"class": f"models.{args.model}", "kwargs": kwargs, "meta": meta}
    state = run.prepare(net, optimizer, args, device, scheduler, unit, card)
    if not run.resume(state, log, args) and args.initial_model:
        for line in foreign.load_into(net, args.initial_model):
            log.line(line)
        run.restart_averages(state)
    log.record(args, meta["versions"])

    def step(batch):
        total, parts = state.parallel(*batch)
        return total, scalars("train", total, parts)

    def evaluate():
        values = validate(net, valid, args) if distributed.is_main() else {}
        return distributed.gather_objects(values)[0]

    try:
        code = loop.fit(
            state, loader, step, evaluate if valid else None, log, args, before_step=run.freezing(state, freezer, args)
        )
    except loop.Diverged as error:
        run.end(state, args, started, "diverged", {}, str(error))
        raise
    if not code:
        with Interruption(saved=True):
            figures = finish(net, valid, args, log) if distributed.is_main() else {}
            run.end(state, args, started, "done", figures)
            distributed.gather_objects(None)  # a rank that only waits hears signals too
    return code


def describe(net, data, valid, args, log, device):
    """Print what is trained on what: sizes, losses, batch, lists."""
    for part in (data, valid):
        if part:
            log.line(part.listed)
            log.line(part.table.describe())
    parameters = sum(p.numel() for p in net.__S__.parameters())
    log.line(f"{args.model}: {parameters:,} parameters, {data.vectors.shape[1]} numbers to {args.internal_dim} bits")
    log.line("loss: " + " + ".join(f"{weight:g} * {name}" for name, weight in net.weights.items()))
    world = distributed.world_size()
    log.line(
        f"global batch: {args.classes_per_batch * world} speakers x {args.samples_per_class} recordings x "
        f"{args.accumulate} batches per step on {world} process(es), {device}"
    )
    if valid is None:
        log.line("no --valid_list: no checkpoint is chosen as best, the last one is the result")
        return
    left_out = [name for name, loss in net.__L__.items() if name not in judged(net)]
    for name in left_out:
        log.line(f"{name} is of the training speakers and left out of the validation")
    if len(left_out) == len(net.weights):
        log.line("no loss can be judged on other speakers: no checkpoint is chosen as best; mse would do it")


def scalars(part: str, total, parts: dict) -> dict:
    """Return {tag: value} for the log; part: train or test."""
    return {f"{part}/total_loss": total, **{f"{part}/{TAGS.get(name, name)}": value for name, value in parts.items()}}


# ---------------------------------------------------------------- validation


def judged(net) -> list[str]:
    """Return the losses that can be judged on speakers who were not trained on."""
    return [name for name, loss in net.__L__.items() if not getattr(loss, "NEEDS_TRAIN_CLASSES", False)]


@torch.no_grad()
def validate(net, valid: EmbeddingLoader.LabelledSet, args) -> dict[str, float]:
    """Return the losses over a whole set, and how its attributes behave; the network must be in evaluation mode.

    Losses are means over batches, weighted by their sizes. rate: share of ones; dead and always-on attributes have one
    value in the whole set; variance_left: squared error of the reconstruction over that of the set's mean.
    """
    sums, names = 0, judged(net)
    counts = error = 0
    for rows in EmbeddingLoader.validation_batches(
        valid.labels.cpu().numpy(), args.classes_per_batch, args.samples_per_class
    ):
        rows = torch.from_numpy(rows).to(valid.vectors.device)
        x, labels = valid.vectors[rows], valid.labels[rows]
        reconstruction, code, z = net.__S__(x)
        values = [net.__L__[name](x, labels, code, reconstruction, z) for name in names]
        sums = sums + len(rows) * torch.stack([*values, x.new_zeros(())])
        counts = counts + code.sum(0)
        error = error + (reconstruction - x).square().sum()
    files = len(valid.vectors)
    parts = dict(zip(names, (sums / files).tolist()))
    spread = (valid.vectors - valid.vectors.mean(0)).square().sum()
    behaviour = {
        "test/variance_left": float(error / spread.clamp(min=1e-30)),
        "test/rate": float(counts.mean()) / files,
        "test/dead_attributes": int((counts == 0).sum()),
        "test/always_on_attributes": int((counts == files).sum()),
    }
    if not parts:
        return behaviour
    total = net.total(parts)
    return {**scalars("test", total, parts), **behaviour, "choose": total}


def finish(net, valid, args, log) -> dict[str, float]:
    """Judge the chosen weights and draw the curves of the run; return what result.json holds."""
    folder = Path(args.save_path)
    path = checkpoint.chosen(folder)
    figures = {}
    if valid:
        weights, _ = checkpoint.weights_of(checkpoint.read(path), path)
        checkpoint.load_weights(net, weights, path)
        found = validate(net.eval(), valid, args)
        figures = {name.replace("test/", "val_"): value for name, value in found.items() if name != "choose"}
        log.line(f"{path}: " + ", ".join(f"{name} {value:.6g}" for name, value in figures.items()))
    curves = folder / "result" / "training_curves.png"
    plots.training_curves(curves, folder / "metrics.jsonl")
    log.line(f"training curves {curves}")
    return figures


# ---------------------------------------------------------------- codes


def make_codes(args):
    """Write the codes of --embeddings by an encoder, its files per recording, and its plain weights; return 0."""
    path = args.initial_model or str(checkpoint.chosen(args.save_path))
    network, card = foreign.read_network(path, AttributeNet.TASK)
    if args.binarize:
        table = read_table(args.embeddings)
        table = table.take(read_metadata(args.list).ids) if args.list else table
        AttributeNet.check_dimension(network, table.vectors, path, table.path)
        if card:
            EmbeddingLoader.check_same(card["meta"].get("embeddings", {}), path, table, args)
        else:
            print(f"{path} does not say what embeddings it is for; these are by {table.describe()}")
        binarize(network.to(distributed.device_of(args)), path, table, args)
    if args.export:
        foreign.write_plain(args.export, network)
        print(f"{args.export}: the weights of {path} alone")
    return 0


def binarize(network, path: str, table: Table, args):
    """Write the codes of a table of embeddings, and what the decoder makes of them."""
    bits = AttributeNet.encode(network, table.vectors, distributed.device_of(args))
    maker = {
        "encoder": Path(path).name,
        "encoder_sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12],
    }
    meta = {**maker, "attributes": bits.shape[1], "embeddings": table.meta}
    codes = Codes(table.names, bits, table.seconds, meta, args.out)
    write_codes(args.out, codes)
    print(codes.describe())
    rate = bits.mean(0, dtype=np.float64)
    print(f"rate {rate.mean():.4f}, {np.sum(rate == 0)} dead and {np.sum(rate == 1)} always-on attributes")
    if args.reconstruction:
        remade = AttributeNet.reconstruct(network, table.vectors, distributed.device_of(args))
        rebuilt = Table(table.names, remade, table.seconds, table.meta | maker, args.reconstruction)
        write_table(args.reconstruction, rebuilt)
        print(rebuilt.describe())
    if args.vectors_to:
        stems = vectors.stems([name.decode() for name in table.names], args.vectors_to)
        vectors.write_vectors(stems, np.stack([bits, 1 - bits], axis=2), "ba", args.vector_format)
        print(f"{args.vectors_to}: {len(stems)} files")


if __name__ == "__main__":
    run_main(main)
