"""What a user can get wrong in extract_embeddings.py with vector files, CSV files and folders of WeSpeaker.
Entry point: CASES, as in wrong_cases.py; test_wrong_input.py runs the cases.
"""

import json

import torch
import yaml
from wrong_cases_scoring import extract
from wrong_inputs import Case, file, folder

DESCRIBED = {"model": "ResNet18", "model_args": {"feat_dim": 16, "embed_dim": 8, "pooling_func": "TSTP"}}


def tree(meta, *names):
    """Return a maker of a folder of vectors with `meta` as its vectors.json, None for none, and empty files."""

    def make(place):
        found = folder("t", *names)(place)
        if meta is not None:
            (found / "vectors.json").write_text(meta)
        return found

    return make


def wespeaker(config, weights="avg_model.pt"):
    """Return a maker of a folder of WeSpeaker with small weights; config None: without it."""

    def make(place):
        from models.ResNet18 import MainModel

        found = folder("w")(place)
        if config is not None:
            (found / "config.yaml").write_text(config if isinstance(config, str) else yaml.safe_dump(config))
        if weights:
            torch.save(MainModel(nOut=8, n_mels=16, width=4).state_dict(), found / weights)
        return found

    return make


def arguments(**changes):
    return {**DESCRIBED, "model_args": {**DESCRIBED["model_args"], **changes}}


def csv(text):
    return {"list": file("l.csv", text), "path": None}


CASES = {
    "extract_embeddings.py": [
        Case(
            "ids given twice in a CSV",
            extract(**csv("id,audio\na,1\nb,2\na,3\n")),
            "l.csv, line 4: id a is given twice",
        ),
        Case("a CSV without audio", extract(**csv("id,speaker\na,s\n")), "l.csv: no audio of a (column audio or path)"),
        Case("a CSV with a gap in audio", extract(**csv("id,audio\na,1\nb,\n")), "l.csv: no audio of b"),
        Case("a CSV with a row too long", extract(**csv("id,audio\na,1,x\n")), "l.csv, line 2: expected 2 columns"),
        Case("a CSV with an open quote", extract(**csv('id,audio\n"a,1\n')), "l.csv, line 2: no columns separated by"),
        Case("audio that is not read", extract(**csv("id,audio\na,1.m4a\n")), "1.m4a, cannot be read: convert them"),
        Case(
            "a folder of such audio",
            extract(list=None, path=None, folder=folder("d", "a.m4a")),
            "1 .m4a cannot be read",
        ),
        Case("a file that is not there", extract(list="gone.wav", path=None), "gone.wav: no such file"),
        Case(
            "a file as folder", extract(list=None, path=None, folder=file("a.wav", "")), "is a file; give it as --list"
        ),
        Case("a prefix of a folder", extract(list=None, folder=folder("d", "a.wav")), "prefix of the files in a list"),
        Case("a format without vectors", extract(vector_format="txt"), "--vector_format needs --vectors_to"),
        Case("a format that does not exist", extract(vectors_to="t", vector_format="mat"), "--vector_format"),
        Case(
            "vectors of several lengths",
            extract(vectors_to="t", max_seconds=[1, 2]),
            "takes one number in --max_seconds",
        ),
        Case(
            "names that share a vector file",
            extract(list=file("l.txt", "a/x.wav\na/x.flac\n"), vectors_to="t"),
            "a/x.flac and a/x.wav would share the vector file t/a/x",
        ),
        Case(
            "names that lead out of the tree",
            extract(list=file("l.txt", "../x.wav\n"), vectors_to="t"),
            "../x.wav: leads out of the tree of vectors t",
        ),
        Case(
            "vectors beside audio that is not there",
            extract(path="/nowhere", vectors_to="beside"),
            "--vectors_to beside: /nowhere/spk0",
        ),
        Case(
            "vectors by another checkpoint",
            extract(vectors_to=tree(json.dumps({"checkpoint": "other.pt"}))),
            "the vectors there were made with another checkpoint (other.pt, now last.pt)",
        ),
        Case(
            "vectors of unknown origin",
            extract(vectors_to=tree(None, "spk0/s1/00000_emb.npy")),
            "00000_emb.npy: nothing says what made it",
        ),
        Case("a damaged note on vectors", extract(vectors_to=tree("{")), "vectors.json: no JSON object; remove it"),
        Case(
            "anew, among vectors of another checkpoint",
            extract(vectors_to=tree("{}", "spk9/s1/00000_emb.txt"), force=True),
            "holds vectors of other recordings, not made like these",
        ),
        Case("a folder in the way of the tree", extract(vectors_to=file("t", "")), "t"),
        Case(
            "a folder without weights", extract(initial_model=wespeaker(DESCRIBED, "")), "a folder without avg_model.pt"
        ),
        Case("a folder without config", extract(initial_model=wespeaker(None)), "w/config.yaml: no such file"),
        Case("a config that is no YAML", extract(initial_model=wespeaker("a: [")), "w/config.yaml: not valid YAML"),
        Case("a config of nothing", extract(initial_model=wespeaker("- 1")), "w/config.yaml: not a mapping with model"),
        Case(
            "a network of WeSpeaker that is not known",
            extract(initial_model=wespeaker({**DESCRIBED, "model": "ResNet43"})),
            "w/config.yaml: model: 'ResNet43', nearest: ",
        ),
        Case(
            "weights of another network",
            extract(initial_model=wespeaker({**DESCRIBED, "model": "ResNet34"})),
            "holds the weights of another network",
        ),
        Case(
            "weights of another size",
            extract(initial_model=wespeaker(arguments(embed_dim=256))),
            "embed_dim 256 (there 8)",
        ),
        Case(
            "an unknown argument",
            extract(initial_model=wespeaker(arguments(depth=3))),
            "model_args: 'depth' is unknown",
        ),
        Case(
            "features of another step",
            extract(initial_model=wespeaker({**DESCRIBED, "dataset_args": {"fbank_args": {"frame_shift": 12}}})),
            "fbank_args: frame_shift: 12, but 10 is needed here",
        ),
    ]
}
