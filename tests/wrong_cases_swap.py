"""What a user can get wrong in sample_vqvae.py, eval_vqvae.py and voice_swap.py; see wrong_cases.py.
Entry point: CASES, as in wrong_cases.py.
"""

import wave_models
from wrong_cases_sampling import evaluate, given, model
from wrong_inputs import Case, file, folder, no_card


def vqvae(**options):
    return model(wave_models.vqvae, **options)


def recogniser(**options):
    return model(wave_models.recogniser, **options)


def wave(place):
    return place.corpus / "wav" / "spk0" / "s1" / "00000.wav"


def again(**changes):
    """Return a maker of the flags of a re-synthesis; first is the checkpoint, second the output."""
    made = {"input_file": wave, "label": "anna", "steps": 1, "device": "cpu", **changes}
    first, out = made.pop("first", None) or vqvae(), made.pop("out", "a.wav")
    return lambda place: [first(place), place.folder / out, *given({}, made)(place)]


def swap(**changes):
    made = {"source": wave, "to": "anna", "out": "b.wav", "steps": 1, "device": "cpu", **changes}
    first = made.pop("first", None) or vqvae()
    if made["out"]:
        made["out"] = lambda place, name=made["out"]: place.folder / name
    return lambda place: [first(place), *given({}, made)(place)]


def search(**changes):
    none = dict.fromkeys(("source", "to", "out", "steps"))
    return swap(**{**none, "search": True, "input_file": wave, **changes})


def of_speaker(speaker):
    """Return a maker of a list with one recording of a speaker."""
    return lambda place: file("l.txt", f"{speaker} {wave(place)}\n")(place)


def before(place):
    """Make a folder of re-syntheses by another label."""
    import sample_vqvae

    flags = again(out="again", label="carl")(place)
    sample_vqvae.main([str(word) for word in flags])


def made_before(place):
    before(place)
    return again(out="again")(place)


# ---------------------------------------------------------------- the cases

CASES = {
    "sample_vqvae.py": [
        Case("nothing to say again", again(input_file=None), "--input_file is missing"),
        Case("a file that is not there", again(input_file="gone.wav"), "--input_file gone.wav: no such file or folder"),
        Case("a folder without audio", again(input_file=folder("d", "a.txt")), "d: holds no .wav"),
        Case("a file that is no audio", again(input_file=file("x.wav", b"x")), "x.wav: cannot be read as audio"),
        Case("an ending that no file has here", again(out="a.mp3"), "must end in .wav, .flac, .npz"),
        Case("another format than the file's", again(format="flac"), "one sample's file must end in .flac"),
        Case(
            "two recordings for one file",
            again(input_file=lambda place: [wave(place), wave(place)], out="a.wav"),
            "2 recordings go into a folder",
        ),
        Case("a folder of another label", made_before, "give another output_file"),
        Case("a speaker that the network does not know", again(label="ana"), "no speaker 'ana', nearest: anna"),
        Case("a label beyond the classes", again(label=3), "labels 0 to 2"),
        Case("nothing says whose voice", again(label=None), "nothing says who speaks: give --label"),
        Case("a list of another speaker", again(label=None, input_file=of_speaker("carla")), "nearest: carl"),
        Case("a label for a network without", again(first=vqvae(labels=False)), "leave out --label"),
        Case("a plain diffusion model", again(first=model()), "is for the task diffusion"),
        Case("a schedule that is code", again(schedule="lambda t: t**2"), "time map 'lambda t: t**2'"),
        Case("a schedule of noise that is code", again(noise_schedule="__import__('os')"), "one of exp, cos"),
        Case("another schedule than trained with", again(noise_schedule="cos"), "was trained with schedule exp"),
        Case("another encoding than trained on", again(encoding="ulaw"), "was trained on linear samples, not ulaw"),
        Case("another rate than the network's", again(sample_rate=8000), "argument --sample_rate"),
        Case("an option of another sampler", again(eta=0.5), "--eta is of --sampler ddim"),
        Case("a window of no position", again(seconds=0.01), "a window has at least 320 samples"),
        Case("guidance by labels, never left out", again(guide_label_scale=1), "trained without --no_class_prob"),
        Case("guidance by codes, never left out", again(guide_vq_scale=1), "trained without --no_vq_prob"),
        Case(
            "guidance to no label",
            again(first=vqvae(none_label=True), label=None, guide_label_scale=1),
            "needs label to guide to",
        ),
        Case("a label for none that is not there", again(none_label=True), "without a label for no speaker"),
        Case("a scale without predictor", again(enc_pred_scale=2), "--enc_pred_scale needs --enc_pred_path"),
        Case("a place to guide at, but no guide", again(guide_at="x"), "--guide_at needs --enc_pred_path"),
        Case("a predictor of other codes", again(enc_pred_path=recogniser(codes=9)), "predicts 9 codes"),
        Case("a predictor of another rate", again(enc_pred_path=recogniser(rate=256)), "a code every 256 samples"),
        Case("a predictor of another schedule", again(enc_pred_path=recogniser(schedule="cos")), "with schedule cos"),
        Case("a VQ-VAE as predictor", again(enc_pred_path=vqvae()), "is for the task vqvae"),
        Case("a GPU that is not there", again(device="cuda"), "sees no GPU", no_card),
    ],
    "eval_vqvae.py": [
        Case(
            "data that is not there", evaluate("gone", checkpoint=vqvae(), length=640), "gone: no such folder or list"
        ),
        Case(
            "a length that the network cannot take",
            evaluate("tones", checkpoint=vqvae(), length=1000),
            "next good ones are 960 or 1280",
        ),
        Case(
            "speakers of another model",
            evaluate("tones", checkpoint=vqvae(), length=640),
            "speaker 300Hz (of 3) is none of the 3",
        ),
        Case("a plain diffusion model", evaluate("tones"), "is for the task diffusion"),
    ],
    "voice_swap.py": [
        Case("no source", swap(source=None), "--source is missing"),
        Case("no voice", swap(to=None), "--to is missing"),
        Case("no place for the result", swap(out=None), "--out is missing"),
        Case("a voice that is not there", swap(to="berta"), "no speaker 'berta'"),
        Case("a list of a speaker that is no voice", swap(to=of_speaker("carla")), "speaker 'carla' is no voice"),
        Case("a list without speakers", swap(to=file("l.txt", "a.wav\n")), "l.txt: 1 of 1 files looked at"),
        Case("a network without voices", swap(first=vqvae(labels=False)), "it has one voice"),
        Case("two voices for one file", swap(to=["anna", "carl"]), "--out"),
        Case("a search without recording", search(input_file=None), "--input_file is missing for --search"),
        Case("a search in a file that is not there", search(input_file="gone.wav"), "gone.wav: cannot be read"),
        Case("a search with a sampler", search(eta=0.1, sampler="ddim"), "is not of --search"),
        Case("the table of a search that is none", search(out="t.wav"), "is a table and ends in .csv"),
        Case("a search among no labels", search(first=vqvae(labels=False)), "it has no voices to search"),
        Case("top voices, but no search", swap(top_k=3), "--top_k is of --search"),
        Case("times of a search that is none", swap(num_timesteps=3), "--num_timesteps is of a voice search"),
        Case("real speech, but no verifier", swap(speakers_list="l.txt"), "--speakers_list needs --verifier"),
        Case(
            "a verifier that knows no real speech",
            swap(verifier=model(wave_models.verifier)),
            "no real speech of voice anna",
        ),
        Case("a verifier of .npz", swap(verifier="v.pt", out="b.npz"), "--verifier reads audio"),
        Case("a VQ-VAE as verifier", swap(verifier=vqvae()), "cannot be rebuilt from what it says"),
    ],
}
