"""What a user can get wrong in train_vqvae.py; test_wrong_input.py runs the cases.
Entry point: CASES, as in wrong_cases.py.
"""

from wave_models import SPEAKERS, recogniser, unet, vqvae
from wrong_cases_diffusion import speech, train, weights_of_nothing
from wrong_inputs import Case


def fit(**changes):
    """Return a maker of the flags of a short training of a VQ-VAE on tones."""
    given = {"model": None, "predictor": "wavegrad", "encoder": "wavegrad", "cond_mult": 2, "dictionary_size": 4}
    return train(**{**given, **changes})


def made_from(maker, **changes):
    """Return the flags of a run that begins with the file that maker(path) writes, whose sizes it takes."""
    sizes = dict.fromkeys(("base_channels", "predictor", "encoder", "cond_mult", "dictionary_size"))
    return fit(**{**sizes, "window_seconds": 0.08, "initial_model": lambda p: maker(p.folder / "x.pt"), **changes})


def predict(maker, **changes):
    """Return the flags of a training of an encoder predictor of the file that maker(path) writes."""
    sizes = {**dict.fromkeys(("predictor", "encoder", "cond_mult", "dictionary_size")), "window_seconds": 0.08}
    return fit(**{**sizes, "encoder_predictor": lambda p: maker(p.folder / "x.pt"), **changes})


def without_labels(path):
    return vqvae(path, labels=False)


def of_three(path):
    """Write a VQ-VAE of speakers of whom one is in the data."""
    return vqvae(path, speakers=["300Hz", *SPEAKERS[1:]])


def of_v(path):
    return unet(path, target="v")


CASES = {
    "train_vqvae.py": [
        Case("no data", fit(data_dir=None), "data_dir is missing"),
        Case("an encoder that does not exist", fit(encoder="unet129"), "invalid choice: 'unet129'"),
        Case("a predictor that does not exist", fit(predictor="unot"), "invalid choice: 'unot'"),
        Case("a network for another task", fit(model="UNet"), "is for the task diffusion"),
        Case(
            "a length that neither rate divides",
            fit(predictor="unet", encoder="conv-mfcc-linear", window_seconds=0.1),
            "1600 samples: the length must be a multiple of 1280; the next good ones are 1280 or 2560",
        ),
        Case("companded samples for an encoder of others", fit(encoder="conv-mfcc-linear", encoding="ulaw"),
             "is for --encoding linear, not ulaw"),
        Case("dropout of a predictor that has none", fit(dropout=0.1), "dropout 0.1: the predictor wavegrad has none"),
        Case("codes of no numbers", fit(cond_mult=0), "--cond_mult 0: must be at least 1"),
        Case("no codes", fit(dictionary_size=0), "--dictionary_size 0: must be at least 1"),
        Case("codes that are dead at once", fit(dead_rate=0), "--dead_rate 0: must be at least 1"),
        Case("more jitter than positions", fit(jitter=1.5), "--jitter 1.5: must be at least 0 and at most 1"),
        Case("frozen codes that are drawn", fit(freeze_vq=True, revival_coeff=0.1),
             "--revival_coeff does nothing with --freeze_vq"),
        Case("frozen codes that die", fit(freeze_vq=True, dead_rate=5), "--dead_rate does nothing with --freeze_vq"),
        Case("a frozen encoder that commits", fit(freeze_encoder=True, commitment_coeff=1),
             "--commitment_coeff does nothing with --freeze_encoder"),
        Case("two ways to revive", fit(revival_coeff=0.1, dead_rate=5), "--dead_rate does nothing with"),
        Case("a curriculum of a VQ-VAE", fit(curriculum_steps=5), "--curriculum_steps works with --encoder_predictor"),
        Case("labels to leave out without any", fit(no_class_prob=0.1), "give --class_cond"),
        Case("all codes left out", fit(no_vq_prob=1), "--no_vq_prob 1.0: must be at least 0 and at most 0.999"),
        Case("speakers added to nothing", fit(class_cond=True, add_speakers=True), "--add_speakers needs --class_cond"),
        Case("speakers added without labels", made_from(vqvae, add_speakers=True), "--add_speakers needs --class_cond"),
        Case("speakers added to a network without",
             made_from(without_labels, class_cond=True, add_speakers=True), "adds to a VQ-VAE with labels"),
        Case("speakers added to a diffusion model", made_from(unet, class_cond=True, add_speakers=True),
             "adds to a VQ-VAE with labels"),
        Case("speakers added that are there", made_from(
            vqvae, class_cond=True, add_speakers=True, data_dir=lambda p: [speech("anna", "new")(p)]),
            "has speaker anna (of 1) already"),
        Case("speakers added to another encoder", made_from(
            vqvae, class_cond=True, add_speakers=True, encoder="unet"), "x.pt has conv-mfcc-linear"),
        Case("speakers added and codes that are drawn", made_from(
            vqvae, class_cond=True, add_speakers=True, revival_coeff=0.1), "does nothing with --add_speakers"),
        Case("speakers beyond those of the file", made_from(of_three, class_cond=True),
             "speaker 500Hz (of 2) is beyond the 3 classes"),
        Case("first weights of another width", made_from(vqvae, base_channels=2), "cannot start this network"),
        Case("first weights that predict something else", made_from(of_v), "predicts v, a VQ-VAE the noise"),
        Case("first weights of no network", fit(initial_model=weights_of_nothing), "no network for the task"),
        Case("first weights that are not there", fit(initial_model="gone.pt"), "gone.pt: no such file"),
        Case("codes of a file that is no VQ-VAE", predict(unet), "is for the task diffusion"),
        Case("codes of an encoder predictor", predict(recogniser), "is for the task encoder_predictor"),
        Case("codes of a VQ-VAE that is not there", fit(encoder_predictor="gone.pt", predictor=None, encoder=None,
             cond_mult=None, dictionary_size=None), "gone.pt: no such file"),
        Case("an encoder for an encoder predictor", predict(vqvae, encoder="unet"),
             "--encoder does nothing with --encoder_predictor"),
        Case("codes of another schedule", predict(vqvae, schedule="cos"), "was trained with schedule exp, not cos"),
        Case("codes of other samples", predict(vqvae, encoding="ulaw"), "was trained on linear samples, not ulaw"),
        Case("positions that do not divide a window", predict(vqvae, window_seconds=0.016),
             "the length must be a multiple of 1280"),
        Case("a curriculum of no length", predict(vqvae, curriculum_start=20), "--curriculum_start works with"),
        Case("held out and given", predict(vqvae, valid_share=0.1, valid_list=["tones"]), "leave one out"),
        Case(
            "a speaker beyond the classes",
            fit(class_cond=True, valid_list=lambda p: [speech("a", "b")(p)]), "beyond the 3 classes trained on",
        ),
    ],
}  # fmt: skip
