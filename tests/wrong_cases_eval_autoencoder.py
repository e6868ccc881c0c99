"""What a user can get wrong in eval_autoencoder.py and code_speech.py; test_wrong_input.py runs the cases.
Entry point: CASES, as in wrong_cases.py.
"""

import numpy as np
import wave_models
from feature_models import autoencoder, verifier
from wrong_inputs import Case, file

import code_speech

RECORDING = "spk0/s1/00000.wav"


def words(place, checkpoints, given):
    """Return a command line; a function among the values is called with the place."""
    made = {name: value(place) if callable(value) else value for name, value in given.items()}
    lists = ((name, value if isinstance(value, list) else [value]) for name, value in made.items() if value is not None)
    return [*checkpoints, *(word for name, values in lists for word in (f"--{name}", *values))]


def measure(model="VAE", maker=autoencoder, **changes):
    """Return a maker of the flags of an evaluation of a network that `maker` writes."""

    def flags(place):
        path = maker(place.folder / "x.pt", model) if maker is autoencoder else maker(place.folder / "x.pt")
        given = {
            "test_list": place.corpus / "trials.txt", "test_path": place.corpus / "wav", "nDataLoaderThread": 0,
            "save_path": place.folder / "out", "device": "cpu",
        }  # fmt: skip
        return words(place, [path], {**given, **changes})

    return flags


def code(model="VQVAE", maker=autoencoder, **given):
    """Return a maker of the flags of code_speech.py."""

    def flags(place):
        path = maker(place.folder / "x.pt", model) if maker is autoencoder else maker(place.folder / "x.pt")
        return words(place, [path], {"device": "cpu", **given})

    return flags


def judge(**options):
    return lambda place: verifier(place.folder / "verifier.pt", **options)


def recording(place):
    return place.corpus / "wav" / RECORDING


def trials_of(place):
    return place.corpus / "trials.txt"


def codes_of(**options):
    """Return a maker of codes by another network."""

    def make(place):
        other = autoencoder(place.folder / "other.pt", "VQVAE", **options)
        target = place.folder / "x.codes"
        code_speech.main([str(w) for w in (other, "--encode", recording(place), "--out", target, "--device", "cpu")])
        return target

    return make


def latents_of_nothing(place):
    np.savez(place.folder / "l.npz", a=np.zeros(3))
    return place.folder / "l.npz"


def wave_vqvae(path):
    return wave_models.vqvae(path)


def wave_verifier(place):
    return wave_models.verifier(place.folder / "verifier.pt")


NO_AUDIO = file("list.txt", "spk0 spk0/gone.wav\n")
CASES = {
    "eval_autoencoder.py": [
        Case("no list", measure(test_list=None), "--test_list is required"),
        Case("a list that is not there", measure(test_list="gone.txt"), "gone.txt: no such file"),
        Case("a list without audio", measure(test_list=NO_AUDIO), "1 of 1 files looked at cannot be used"),
        Case("a waveform model", measure(maker=wave_vqvae), "is for the task vqvae"),
        Case("a checkpoint that is not there", measure(maker=lambda path: path.with_name("gone.pt")), "no such file"),
        Case("a network that does not say its features",
             measure(maker=lambda path: autoencoder(path, meta={"front_end": None})), "it has no front_end"),
        Case("averaged weights that are not there", measure(ema=0.5), "0.5"),
        Case("a verifier without trials", measure(verifier=judge()), "--verifier needs --trials"),
        Case("trials without a verifier", measure(trials=trials_of), "--trials needs --verifier"),
        Case("a verifier with other mels", measure(verifier=judge(bins=20), trials=trials_of),
             "was trained on other features than"),
        Case("a verifier of waves", measure(verifier=wave_verifier, trials=trials_of),
             "does not take the log-mel features of autoencoders"),
        Case("a verifier that is not there", measure(verifier="gone.pt", trials=trials_of), "gone.pt: no such file"),
        Case("trials without labels",
             measure(verifier=judge(), trials=file("t.txt", f"{RECORDING} {RECORDING}\n")), "has no labels"),
        Case("trials of targets alone",
             measure(verifier=judge(), trials=file("t.txt", f"1 {RECORDING} {RECORDING}\n")), "holds no impostor"),
        Case("sampled latents of an AE", measure("AE", sample_latents=True), "none of these networks is a VAE"),
        Case("pieces that are nearly all overlap", measure(longest_seconds=5), "must be 0 or at least 10"),
        Case("ratios without noise", measure(snr_db=[5]), "--snr_db needs --noisy"),
        Case("noise that is not there", measure(noisy=True, musan_path="gone"), "--musan_path"),
        Case("noise of no known kind", measure(noisy=True, noise_kinds=["rain"]), "invalid choice: 'rain'"),
        Case("a ratio of no sense", measure(noisy=True, snr_db=[500]), "--snr_db 500.0: must be from -100 to 100"),
        Case("mixed precision", measure(mixedprec=True), "--mixedprec is of training"),
        Case("fewer pictures than none", measure(pictures=-1), "--pictures -1: must be at least 0"),
        Case("a folder that is a file", measure(save_path=file("out", "x")), "choose another --save_path"),
    ],
    "code_speech.py": [
        Case("nothing to do", code(), "give one of --encode, --decode and --sample, not none"),
        Case("two things to do", code(encode=recording, sample=1, out="x"), "not encode and sample"),
        Case("nowhere to write", code(encode=recording), "--out is required"),
        Case("a recording that is not there", code(encode="gone.wav", out="x.codes"), "gone.wav: no such file"),
        Case("codes of a VAE", code("VAE", encode=recording, out="x.codes"), "has latents and no codes"),
        Case("a waveform model", code(maker=wave_vqvae, encode=recording, out="x.codes"), "is for the task vqvae"),
        Case("codes that are not there", code(decode=["gone.codes"], out="x.npz"), "gone.codes: no such file"),
        Case("codes of another network", code(decode=codes_of(codewords=4), out="x.npz"), "codes of the model"),
        Case("codes that are none", code(decode=file("a.codes", "hello"), out="x.npz"), "does not begin with VXC1"),
        Case("codes for a VAE", code("VAE", decode=codes_of(), out="x.npz"), "codes need a VQ-VAE"),
        Case("latents that are none", code(decode=latents_of_nothing, out="x.npz"), "not an .npz file of the latents"),
        Case("a folder without codes", code(decode=lambda p: p.folder / "", out="x"), "holds no .codes or .npz file"),
        Case("samples of an AE", code("AE", sample=1, out="x"), "an AE has no prior"),
        Case("a prior of codes for a VAE", code("VAE", sample=1, prior="empirical", out="x"),
             "--prior is that of codes"),
        Case("no samples", code(sample=0, out="x"), "--sample 0: must be at least 1"),
        Case("a wave without a mean", code(sample=1, wav=True, out="x"), "--wav needs --mean_of"),
        Case("a wave of what is encoded", code(encode=recording, wav=True, mean_of=recording, out="x.codes"),
             "leave it out of --encode"),
    ],
}  # fmt: skip
