"""What a user can get wrong in sample_diffusion.py, eval_diffusion.py and stat_generate.py; see wrong_cases.py.
Entry point: CASES, as in wrong_cases.py.
"""

import numpy as np
import soundfile
import torch
import wave_models
from conftest import ROOT
from wrong_cases_scoring import words_of
from wrong_inputs import Case, file, folder, no_card

from scoring.embeddings import Table, write_table

# ---------------------------------------------------------------- how the inputs are made


def model(kind=wave_models.unet, change=None, **options):
    """Return a maker of a checkpoint, of a diffusion model by default; change(payload) spoils it."""

    def make(place):
        path = kind(place.folder / f"{kind.__name__}.pt", **options)
        if change:
            payload = torch.load(path, weights_only=True)
            change(payload)
            torch.save(payload, path)
        return path

    return make


def judge(**options):
    return model(wave_models.classifier, **options)


def with_nan(payload):
    name = next(name for name in payload["state_dict"] if name.endswith("in_conv.weight"))
    payload["state_dict"][name][0] = torch.nan


def bare(place):
    """Write the weights alone of a file in the original layout, as before 29 May 2021."""
    payload = torch.load(ROOT / "tests" / "golden" / "diffusion" / "checkpoints" / "tiny_unet.pt", weights_only=True)
    state = {name.removeprefix("predictor."): tensor for name, tensor in payload["state_dict"].items()}
    torch.save(state, place.folder / "bare.pt")
    return place.folder / "bare.pt"


def given(defaults, changes):
    """Return a maker of a command line; None leaves a flag out, True gives it alone."""

    def flags(place):
        made = {name: value for name, value in {**defaults, **changes}.items() if value is not None}
        first = [value(place) for name, value in made.items() if name == "first"]
        rest = {name: [] if value is True else value for name, value in made.items() if name != "first"}
        return [*first, *words_of(place, rest)]

    return flags


def sample(**changes):
    defaults = {
        "checkpoint_path": model(),
        "sample_path": lambda place: place.folder / "s",
        "num_samples": 1,
        "steps": 1,
    }
    return given({**defaults, "device": "cpu"}, changes)


def evaluate(*data, checkpoint=None, **changes):
    def flags(place):
        first = [(checkpoint or model())(place), *(word(place) if callable(word) else word for word in data)]
        return [*first, *given({"device": "cpu", "nDataLoaderThread": 0, "length": 512}, changes)(place)]

    return flags


def stat(**changes):
    defaults = {
        "first": lambda place: place.folder / "s.npz", "checkpoint_path": judge(), "sample_dir": waves(),
        "seconds": 0.1, "nDataLoaderThread": 0, "device": "cpu",
    }  # fmt: skip
    return given(defaults, changes)


def waves(count=3, manifest=None, **files):
    """Return a maker of a folder of samples, with a manifest where that is given, and further files."""

    def make(place):
        found = folder("samples")(place)
        for number in range(count):
            soundfile.write(found / f"{number}.wav", np.full(2000, 0.01 * number), 16000)
        if manifest is not None:
            (found / "manifest.csv").write_text(manifest)
        for name, content in files.items():
            (found / name.replace("_", ".")).write_bytes(content)
        return found

    return make


def table(dim=6):
    def make(place):
        vectors = np.ones((2, dim), np.float32)
        names = np.array([b"anna/1.wav", b"bert/1.wav"])
        write_table(place.folder / "e.npz", Table(names, vectors, np.ones(2, np.float32), {}))
        return place.folder / "e.npz"

    return make


def before(place):
    """Make a folder of samples of another seed."""
    import sample_diffusion

    sample_diffusion.main([str(word) for word in sample(seed=7)(place)])
    return place.folder / "s"


def heard(text="0.wav,anna\n1.wav,bert\n2.wav,anna", real="anna spk0/s1/00000.wav\nbert spk1/s1/00000.wav\n"):
    """Return the flags of a verifier that hears samples of a manifest and a list of real utterances."""
    manifest = f"audio,speaker\n{text}\n" if "," in text else f"audio\n{text}\n"
    return {
        "sample_dir": waves(manifest=manifest), "verifier": model(wave_models.verifier),
        "speakers_list": file("real.txt", real), "speakers_path": lambda place: place.corpus / "wav",
    }  # fmt: skip


VECTOR = {"checkpoint_path": model(cond_dim=6)}
LABEL = {"checkpoint_path": model(labels=True)}
BITS = "different numbers from 0 to 5, for a code of 6 attributes"

CASES = {
    "sample_diffusion.py": [
        Case("a checkpoint that is not there", sample(checkpoint_path="gone.pt"), "gone.pt: no such file"),
        Case("a classifier as diffusion model", sample(checkpoint_path=judge()), "is for the task classifier"),
        Case(
            "a time map that is code", sample(schedule="lambda t: t**2"), "one of linear, square, log_snr, or a number"
        ),
        Case("a sampler that does not exist", sample(sampler="euler"), "ddpm"),
        Case("an option of another sampler", sample(eta=0.5), "--eta is of --sampler ddim, not ddpm"),
        Case(
            "an option of ddpm",
            sample(sigma_large=True, sampler="heun"),
            "--sigma_large is of --sampler ddpm, not heun",
        ),
        Case("a length that the network cannot take", sample(length=1001), "next good ones are 1000 or 1002"),
        Case("no step", sample(steps=0), "--steps 0: must be at least 1"),
        Case("a folder named as a file", sample(sample_path="a.wav"), "with --num_samples it is a folder"),
        Case("a file without a known ending", sample(num_samples=None, sample_path="a.mp3"), "must end in .wav, .flac"),
        Case(
            "a file of another format", sample(num_samples=None, sample_path="a.wav", format="npz"), "must end in .npz"
        ),
        Case("samples of other options in the folder", sample(sample_path=before), "with another seed (7, now 0)"),
        Case("a folder of other things", sample(sample_path=folder("d", "a.txt")), "holds no samples of this script"),
        Case("weights that are not finite", sample(checkpoint_path=model(change=with_nan)), "not finite"),
        Case("weights that do not say their schedule", sample(checkpoint_path=bare), "does not say its schedule"),
        Case(
            "another schedule than the model's", sample(noise_schedule="cos"), "was trained with schedule exp, not cos"
        ),
        Case("another encoding than the model's", sample(encoding="ulaw"), "was trained on linear samples, not ulaw"),
        Case("an average that is not there", sample(ema="0.5"), "holds no average of rate 0.5"),
        Case("a label of a model without", sample(labels="anna"), "was trained without labels"),
        Case("a speaker that does not exist", sample(**LABEL, labels="ana"), "no speaker 'ana', nearest: anna"),
        Case("a label beyond the classes", sample(**LABEL, target_class=3), "there are the labels 0 to 2"),
        Case("a speaker twice over", sample(**LABEL, target_class=1, labels="anna"), "both name the speaker"),
        Case("a guidance that was not trained", sample(**LABEL, guidance_scale=2), "trained without --cond_dropout"),
        Case("a guidance to nothing", sample(guidance_scale=2), "--guidance_scale guides to a label or a vector"),
        Case(
            "a classifier of other speakers", sample(**LABEL, classifier_path=judge(speakers=["x"])), "knows no speaker"
        ),
        Case("a scale without classifier", sample(classifier_scale=2), "--classifier_scale needs --classifier_path"),
        Case(
            "a diffusion model as classifier", sample(classifier_path=model(labels=True)), "is for the task diffusion"
        ),
        Case("a model that needs a vector", sample(**VECTOR), "needs a vector of 6 numbers for each sample"),
        Case("a vector of a model without", sample(cond_bits="1"), "was trained without vectors"),
        Case("two vectors", sample(**VECTOR, cond_bits="1", cond_vector="v.npy"), "both give the vector"),
        Case("bits that are no numbers", sample(**VECTOR, cond_bits="1,x"), "write numbers of attributes"),
        Case("a bit beyond the code", sample(**VECTOR, cond_bits="1,6"), BITS),
        Case("a bit twice", sample(**VECTOR, cond_bits="1,1"), BITS),
        Case(
            "a vector of another size",
            sample(**VECTOR, cond_embeddings=table(5)),
            "vectors of 5 numbers, the model takes 6",
        ),
        Case(
            "a vector file that is not there",
            sample(**VECTOR, cond_vector="v.npy"),
            "--cond_vector v.npy: no such file",
        ),
        Case("a vector file of words", sample(**VECTOR, cond_vector=file("v.txt", "a b")), "v.txt: no vectors"),
        Case(
            "a speaker that the table has not",
            sample(**VECTOR, cond_embeddings=table(), cond_speaker="ana"),
            "no row of",
        ),
        Case(
            "a speaker without table", sample(**VECTOR, cond_speaker="anna"), "--cond_speaker needs --cond_embeddings"
        ),
        Case("a GPU that is not there", sample(device="cuda"), "sees no GPU", no_card),
    ],
    "eval_diffusion.py": [
        Case("data that is not there", evaluate("gone"), "gone: no such folder or list of recordings"),
        Case("a length that the network cannot take", evaluate("tones", length=511), "next good ones are 510 or 512"),
        Case("vectors of a model without", evaluate("tones", cond_embeddings=table()), "was trained without vectors"),
        Case(
            "no vectors",
            evaluate("tones", checkpoint=model(cond_dim=6)),
            "was trained with vectors: give --cond_embeddings",
        ),
        Case(
            "utterances without vector",
            evaluate("tones", checkpoint=model(cond_dim=6), cond_embeddings=table()),
            "no vector of 300Hz/0 (of 30 of 30 utterances)",
        ),
        Case(
            "speakers of another model",
            evaluate("tones", checkpoint=model(labels=True)),
            "speaker 300Hz (of 3) is none",
        ),
    ],
    "stat_generate.py": [
        Case("neither samples nor data", stat(sample_dir=None), "give either --sample_dir or --data_dir"),
        Case("samples and data", stat(data_dir="tones"), "give either --sample_dir or --data_dir"),
        Case("a folder that is not there", stat(sample_dir="gone"), "--sample_dir gone: no such folder"),
        Case("an empty folder", stat(sample_dir=folder("d")), "d: 0 samples, 2 are needed"),
        Case("too few samples", stat(num_samples=4), "samples: 3 samples, 4 are needed"),
        Case("too few windows", stat(sample_dir=None, data_dir="tones", num_samples=31), "there are 30 windows"),
        Case("a sample that cannot be read", stat(sample_dir=waves(bad_wav=b"x")), "bad.wav: cannot be read as audio"),
        Case(
            "an .npz that is no sample", stat(sample_dir=waves(bad_npz=b"x")), "bad.npz: not an .npz file of one sample"
        ),
        Case(
            "another name of the file", stat(first=lambda place: "s.txt"), "the name of a statistics file ends in .npz"
        ),
        Case("a diffusion model as classifier", stat(checkpoint_path=model()), "is for the task diffusion"),
        Case("weights that are not finite", stat(checkpoint_path=judge(change=with_nan)), "not finite"),
        Case(
            "another encoding than the classifier's", stat(encoding="ulaw"), "was trained on linear samples, not ulaw"
        ),
        Case("too short a window", stat(seconds=0.0001), "the classifier needs at least"),
        Case("a verifier without real speech", stat(verifier="v.pt"), "--verifier and --speakers_list go together"),
        Case("samples without manifest", stat(**heard() | {"sample_dir": waves()}), "manifest.csv: no such file"),
        Case("a manifest without speakers", stat(**heard("0.wav\n1.wav")), "no column speaker"),
        Case(
            "a speaker without real speech",
            stat(**heard(real="anna spk0/s1/00000.wav\n")),
            "no utterance of speaker bert",
        ),
        Case("samples of one speaker", stat(**heard("0.wav,anna\n1.wav,anna")), "samples of one speaker, anna"),
        Case("a verifier that is none", stat(**heard() | {"verifier": judge()}), "cannot be rebuilt from what it says"),
    ],
}
