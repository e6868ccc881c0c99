"""What a user can get wrong in train_attributes.py; test_wrong_input.py runs the cases.
Entry point: CASES, as in wrong_cases.py.
"""

import json

import numpy as np
from wrong_cases_scoring import best, table, train_of, words_of
from wrong_inputs import Case, file, lines_of, no_card

from engine import checkpoint, foreign, registry
from scoring.embeddings import read_table, write_table

# ---------------------------------------------------------------- how the inputs are made


def train(**changes):
    """Return a maker of the flags of a short training on random embeddings of 8 speakers; None leaves a flag out."""

    def flags(place):
        given = {
            "train_embeddings": table("e.npz"), "train_list": train_of, "valid_embeddings": table("v.npz"),
            "valid_list": train_of, "save_path": place.folder / "run", "internal_dim": 8, "classes_per_batch": 4,
            "samples_per_class": 2, "max_epoch": 1, "device": "cpu", **changes,
        }  # fmt: skip
        return words_of(place, {name: value for name, value in given.items() if value is not None})

    return flags


def codes(**changes):
    """Return a maker of the flags that make codes of random embeddings; None leaves a flag out."""

    def flags(place):
        given = {"initial_model": encoder(), "embeddings": table("e.npz"), "out": place.folder / "c.npz", **changes}
        return ["--binarize", *words_of(place, {name: value for name, value in given.items() if value is not None})]

    return flags


def encoder(dim=8, **meta):
    """Return a maker of a checkpoint of an encoder of embeddings of `dim` numbers, made by the verifier of `meta`."""

    def make(place):
        kwargs = {"input_dim": dim, "internal_dim": 4}
        network = registry.load("models", "AttributeEncoder", "attributes")(**kwargs)
        payload = {
            "class": "models.AttributeEncoder", "kwargs": kwargs, "meta": {"embeddings": meta},
            "state_dict": {f"__S__.{name}": tensor for name, tensor in network.state_dict().items()},
        }  # fmt: skip
        checkpoint.write(place.folder / "enc.pt", payload)
        return place.folder / "enc.pt"

    return make


def plain_encoder(place):
    """Write the weights of an encoder of embeddings of 5 numbers alone."""
    network, _ = foreign.read_network(encoder(5)(place), "attributes")
    foreign.write_plain(place.folder / "plain.pt", network)
    return place.folder / "plain.pt"


def made_by(name, **meta):
    """Return a maker of a table that says what made its embeddings."""

    def make(place):
        stored = read_table(table(name)(place))
        stored.meta.update(meta)
        write_table(place.folder / name, stored)
        return place.folder / name

    return make


def old_codes(place):
    """Write a code table where a table of embeddings is expected."""
    np.savez(place.folder / "old.npz", names=np.array([b"a"]), packed=np.zeros((1, 1), np.uint8),
             attributes=np.array(8), seconds=np.ones(1, np.float32), meta=np.array(json.dumps({})))  # fmt: skip
    return place.folder / "old.npz"


def without_speakers(lines):
    return [line.split()[1] for line in lines]


OTHER = {"checkpoint": "other.pt", "sha256": "ba9876543210", "wav_scale": 1.0}

# ---------------------------------------------------------------- the cases

CASES = {
    "train_attributes.py": [
        Case("nothing to train on", train(train_embeddings=None, train_list=None), "--train_list are required"),
        Case("embeddings without list", train(train_list=None), "--train_embeddings and --train_list need each other"),
        Case("a list to validate without embeddings", train(valid_embeddings=None), "--valid_list need each other"),
        Case("embeddings that are not there", train(train_embeddings="gone.npz"), "gone.npz: no such file"),
        Case("codes as embeddings", train(train_embeddings=old_codes), "old.npz: not a file of this kind"),
        Case("a list that is not there", train(train_list="gone.txt"), "gone.txt: no such file"),
        Case(
            "a list without speakers",
            train(train_list=lines_of("train.txt", without_speakers)),
            "train.txt: no column speaker",
        ),
        Case(
            "a CSV without speakers",
            train(train_list=file("l.csv", "id,audio\na,a.wav\n")),
            "l.csv: no column speaker, which is needed here",
        ),
        Case("a recording twice", train(train_list=lines_of("train.txt", lambda x: [*x, x[3]])), "is given twice"),
        Case("a list of other recordings", train(train_embeddings=table("e.npz", leave_out=3)), "no embedding of spk0"),
        Case("embeddings that are NaN", train(train_embeddings=table("e.npz", broken=True)), "that are not finite"),
        Case(
            "embeddings of another verifier to validate on",
            train(valid_embeddings=made_by("v.npz", **OTHER)),
            "v.npz by other.pt (sha256 ba9876543210) at wav_scale 1.0: extract both alike",
        ),
        Case(
            "embeddings of another size to validate on",
            train(valid_embeddings=table("v.npz", dim=5)),
            "v.npz: embeddings of 5 numbers",
        ),
        Case(
            "tables of two sizes",
            train(train_embeddings=lambda place: [table("e.npz")(place), table("f.npz", dim=5)(place)]),
            "f.npz: embeddings of 5 numbers",
        ),
        Case(
            "a table twice",
            train(train_embeddings=lambda place: [table("e.npz")(place), table("f.npz")(place)]),
            "f.npz: spk0/s1/00000.wav is in an earlier table too",
        ),
        Case("more classes than speakers", train(classes_per_batch=9), "--classes_per_batch 9: "),
        Case("no class", train(classes_per_batch=0), "--classes_per_batch 0: must be at least 1"),
        Case("no sample", train(samples_per_class=0), "--samples_per_class 0: must be at least 1"),
        Case(
            "one recording in a batch",
            train(classes_per_batch=1, samples_per_class=1),
            "BatchNorm needs two recordings",
        ),
        Case("triplets without a pair", train(samples_per_class=1), "triplet needs two recordings of a speaker in a b"),
        Case("another batch size", train(batch_size=9), "--batch_size 9: a batch is --classes_per_batch 4 x"),
        Case("no attribute", train(internal_dim=0), "--internal_dim 0: must be at least 1"),
        Case("a sampler that does not exist", train(sampler="random"), "--sampler"),
        Case("a loss that does not exist", train(trainfunc="mse+triplett"), "no loss 'triplett', nearest: triplet"),
        Case("a loss of speaker networks", train(trainfunc="softmax"), "--trainfunc softmax: no loss 'softmax'"),
        Case("a loss twice", train(trainfunc="mse+2*mse"), "--trainfunc mse+2*mse: mse stands there twice"),
        Case("a weight that is a word", train(trainfunc="a*mse"), "--trainfunc a*mse: 'a' is no weight above 0"),
        Case("a weight of nothing", train(trainfunc="0*mse"), "--trainfunc 0*mse: '0' is no weight above 0"),
        Case("a sum without its last term", train(trainfunc="mse+"), "--trainfunc mse+: no loss ''"),
        Case("a flag of another loss", train(trainfunc="mse", triplet_margin=1), "unknown argument --triplet_margin"),
        Case("a speaker network", train(model="ECAPA"), "--model ECAPA is for the task speaker"),
        Case("a network that does not exist", train(model="AttributeEncodr"), "nearest: AttributeEncoder"),
        Case("a flag of another optimizer", train(momentum=0.5), "--momentum has no effect"),
        Case("images", train(channels_last=True), "--channels_last is for networks of images"),
        Case("codes without their command", train(out="c.npz"), "--out works with --binarize"),
        Case("text as weights to start from", train(initial_model=file("x.pt", "text")), "x.pt: "),
        Case("weights of another size to start from", train(initial_model=plain_encoder), "does not fit this network"),
        Case("no card", train(device="cuda"), "sees no GPU; use --device cpu", patch=no_card),
        Case("codes of nothing", codes(embeddings=None), "--binarize needs --embeddings"),
        Case("codes to nowhere", codes(out=None), "--out (missing): the table's name must end in .npz"),
        Case("codes by no encoder", codes(initial_model=None, save_path="gone"), "gone holds no checkpoint"),
        Case("rebuilt embeddings without codes", train(reconstruction="r.npz"), "--reconstruction works with"),
        Case("rebuilt embeddings to no table", codes(reconstruction="r.txt"), "--reconstruction r.txt: the table"),
        Case(
            "rebuilt embeddings over the codes",
            codes(reconstruction=lambda place: place.folder / "c.npz"),
            "--out and --reconstruction name one file twice",
        ),
        Case("codes and training", codes(train_list="l.txt"), "--train_list has no effect with --binarize"),
        Case("a format for no files", codes(vector_format="txt"), "--vector_format needs --vectors_to"),
        Case("codes by a verifier", codes(initial_model=best), "cannot be rebuilt from what it says of itself"),
        Case("codes by an encoder of other sizes", codes(initial_model=plain_encoder), "plain.pt takes 5: embed with"),
        Case("codes of codes", codes(embeddings=old_codes), "old.npz: not a file of this kind"),
        Case(
            "codes of the embeddings of another verifier",
            codes(initial_model=encoder(**OTHER)),
            "by other.pt (sha256 ba9876543210) at wav_scale 1.0",
        ),
        Case(
            "codes at another sample scale",
            codes(
                initial_model=encoder(sha256="1", wav_scale=32768.0),
                embeddings=made_by("e.npz", sha256="1", wav_scale=1.0),
            ),
            "at wav_scale 32768.0",
        ),
        Case("codes of recordings that the table lacks", codes(list=file("l.txt", "z.wav\n")), "embedding of z.wav"),
        Case("an export with a table", lambda place: ["--export", "x.pt", "--out", "c.npz"], "work with --binarize"),
    ],
}
