"""What a user can get wrong in train_autoencoder.py; test_wrong_input.py runs the cases.
Entry point: CASES, as in wrong_cases.py.
"""

import json

from wrong_cases_data import words
from wrong_inputs import Case, file, train

import train_autoencoder
from audio.log_mel import LogMel
from audio.mel_cache import write_cache
from audio.wave_sources import find_recordings

SIZES = {"stem_channels": 4, "stem_kernel": 3, "repeats": [1], "channels": 4, "kernels": 3, "strides": [2]}
PLANE = {**SIZES, "kernels": [3], "channels": [4]}


def options(**changes):
    """Return options of a backbone as a flag takes them."""
    return json.dumps({name: value for name, value in {**SIZES, **changes}.items() if value is not None})


def fit(**changes):
    """Return a maker of the flags of a short training on the tiny corpus; None leaves one out."""

    def flags(place):
        given = {
            "model": "VQVAE", "encoder_options": options(), "latent_channels": 8, "groups": 2, "codewords": 8,
            "train_list": place.corpus / "train.txt", "train_path": place.corpus / "wav", "chunk_frames": "40",
            "least_utterances": 2, "train_share": 0.75, "batch_size": 2, "max_steps": 1, "warmup_steps": 0,
            "nDataLoaderThread": 0, "device": "cpu", "save_path": place.folder / "run", **changes,
        }  # fmt: skip
        found = []
        for name, value in given.items():
            value = value(place) if callable(value) else value
            values = value if isinstance(value, list) else [value]
            found += [] if value is None else [f"--{name}", *([] if value is True else values)]
        return found

    return flags


def vae(**changes):
    return fit(**{"model": "VAE", "groups": None, "codewords": None, **changes})


def cached(**changes):
    return fit(**{"train_list": None, "train_path": None, **changes})


def silence(name):
    """Return a maker of a list that names recordings which are not there."""
    return file(name, "".join(f"a a/{number}.wav\n" for number in range(9)))


def cache(dither):
    """Return a maker of a cache of the tiny corpus."""

    def make(place):
        found = find_recordings(str(place.corpus / "train.txt"), str(place.corpus / "wav"))
        list(write_cache(place.folder / "mel", found.list, LogMel(dither=dither), say=lambda line: None))
        return place.folder / "mel"

    return make


def trained(**changes):
    """Return a maker of the checkpoint of a run of one step."""

    def make(place):
        words = list(map(str, fit(save_path=place.folder / "first", **changes)(place)))
        assert train_autoencoder.main(words) == 0
        return place.folder / "first" / "checkpoints" / "last.pt"

    return make


def of_a_verifier(place):
    return place.trained / "checkpoints" / "last.pt"


CASES = {
    "train_autoencoder.py": [
        Case("a network that does not exist", fit(model="VQVEA"), "--model VQVEA: not found, nearest: VQVAE"),
        Case("a network for another task", fit(model="UNet"), "is for the task diffusion"),
        Case("a backbone that does not exist", fit(encoder="resnet3d"), "--encoder resnet3d: not found, nearest"),
        Case("a decoder that does not exist", fit(decoder="lstm"), "--decoder lstm: not found"),
        Case("an option that does not exist", fit(encoder_options=options(stem_chanels=4)),
             "options of encoder resnet1d: there is no stem_chanels, nearest: stem_channels"),
        Case("an option of another backbone", fit(encoder_options=options(heads=2)), "there is no heads"),
        Case("an option that is missing", fit(encoder_options=options(strides=None)), "argument: 'strides'"),
        Case("no options at all", fit(encoder_options=None), "options of encoder resnet1d"),
        Case("options that make no network", fit(encoder_options=options(channels=-4)),
             "channels -4 must be a whole number of at least 1"),
        Case("options that are no mapping", fit(encoder_options="deep"), "write names with values, e.g. a=1,b=[2,3]"),
        Case("options in options", fit(encoder_options="a={b: 1}"), "nested mappings and lists are not allowed"),
        Case("options with code", fit(encoder_options="{a: !!python/object/apply:os.getcwd []}"),
             "could not determine a constructor"),
        Case("a mapping for another flag", fit(config=file("c.yaml", "lr: {a: 1}\n")), "nested mappings"),
        Case("networks of one axis and of two", fit(decoder="dc2d", decoder_options=json.dumps(PLANE)),
             "spans 1 axes, decoder dc2d 2"),
        Case("strides that do not give the frames back", fit(decoder_options=options(strides=[1])),
             "shortens 2 times, decoder resnet1d lengthens 1"),
        Case("groups that do not divide the latents", fit(groups=3), "8 latent channels are no multiple of 3 groups"),
        Case("a codebook larger than the first batch", fit(codewords=512),
             "a codebook of 512 codewords cannot start from the 40 positions of the first batch"),
        Case("no codewords", fit(codewords=0), "--codewords 0: must be at least 1"),
        Case("codewords of a VAE", vae(codewords=8), "--codewords has no effect"),
        Case("a posterior of a VQ-VAE", fit(posterior="diagonal"), "--posterior has no effect"),
        Case("a warm-up of a constant", fit(kl_warmup_steps=5), "--kl_warmup_steps has no effect"),
        Case("a likelihood that does not exist", fit(likelihood="laplace"), "invalid choice: 'laplace'"),
        Case("codewords that never move", fit(decay=1.5), "--decay 1.5: must be at least 0 and at most 1"),
        Case("limits of the latents that cross", vae(least_std=2), "--least_std 2.0: must be at least 0 and at most 1"),
        Case("chunks longer than all utterances", fit(chunk_frames="400"), "no utterance is left to train on"),
        Case("chunks that no utterance fills", fit(chunk_frames="400", longer_than_frames=0),
             "no utterance has 400 frames, the longest has"),
        Case("the most before the least", fit(chunk_frames=[40, 20]), "40 20: one length, or the least and the most"),
        Case("speakers with too few utterances", fit(least_utterances=8), "8 speakers with fewer than 8 longer ones"),
        Case("nothing left to validate on", fit(train_share=0.95), "leaves none to validate on"),
        Case("a list of no recordings", fit(train_list=silence("x.txt")), "x.txt: none of 9 recordings can be read"),
        Case("a list that is not there", fit(train_list="gone.txt"), "gone.txt: no such folder or list"),
        Case("a list to validate on of no recordings", fit(valid_list=silence("v.txt"), train_share=None),
             "v.txt: none of 9 recordings"),
        Case("a prefix of nothing", fit(valid_path="x"), "--valid_path works with --valid_list"),
        Case("noise without folders", fit(denoising=True), "--musan_path"),
        Case("noise without rooms", fit(denoising=True, noise_kinds="reverb", rir_path="rooms"),
             "--rir_path: rooms does not exist"),
        Case("kinds of noise without denoising", fit(noise_kinds="music"), "--noise_kinds works with --denoising"),
        Case("noisy versions of a cache", fit(denoising=True, mel_cache="mel"), "leave --mel_cache out"),
        Case("a cache that is not there", cached(mel_cache="mel"), "mel: holds no cache of features"),
        Case("a cache of other features", cached(mel_cache=cache(0.0)),
             "write the cache anew, or train with its options"),
        Case("waves to validate a cache", fit(mel_cache="mel", valid_list="v.txt"), "give --valid_mel_cache"),
        Case("a list beside a cache", fit(mel_cache="mel"), "--train_list does nothing with --mel_cache"),
        Case("a share beside a list to validate on", fit(valid_list="v.txt"),
             "--train_share does nothing with --valid_list"),
        Case("two ways to say the batch", fit(accumulate=2, effective_batch=8), "give one of them"),
        Case("more batches a step than an epoch has", fit(accumulate=500), "fewer than --accumulate 500"),
        Case("a schedule above its rate", fit(lr=1e-6), "--final_lr 1e-05 is above --lr 1e-06"),
        Case("first weights of another width", fit(initial_model=trained(), latent_channels=4), "does not fit"),
        Case("first weights of a verifier", fit(initial_model=of_a_verifier), "is for the task speaker"),
        Case("a run of another network", fit(save_path=lambda p: trained()(p).parents[1], groups=4),
             "was trained with groups 2, this command says 4"),
        Case("images", fit(channels_last=True), "--channels_last does nothing here"),
    ],
    "dataprep.py": [
        Case("a cache of a list that is not there", words("--mel_cache", "gone.txt"), "gone.txt: no such f"),
        Case("a cache of no recordings", words("--mel_cache", silence("x.txt")), "x.txt: none of 9 recordings"),
        Case("a cache of a type that is not kept", words("--mel_cache", silence("x.txt"), "--mel_type", "int8"),
             "invalid choice: 'int8'"),
        Case("a cache with less than no dither", words("--mel_cache", silence("x.txt"), "--mel_dither", -1),
             "--mel_dither -1.0: must be at least 0"),
    ],
    "Names and flags": [
        Case("a verifier without channels", train(model="LResNet34", width=0), "--width 0: must be at least 1"),
    ],
}  # fmt: skip
