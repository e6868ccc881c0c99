"""What a user can get wrong, case by case: how it is made, and what the one line of the error must contain.
test_wrong_input.py runs CASES; the table of docs/wrong_input.md is what they print.
"""

from pathlib import Path

import numpy as np
from wrong_inputs import (
    Case,
    at,
    audio,
    cut,
    file,
    folder,
    judge,
    lines_of,
    no_card,
    no_permission,
    no_space,
    one_card,
    saved,
    scores_of,
    train,
    trials_of,
    tune,
    with_nan,
)

NOISE = 0.1 * np.random.default_rng(0).standard_normal(14400)
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 6000000\n"
BAD = "spk3/s1/00002.wav"

# ---------------------------------------------------------------- the cases, by heading: a script's, or the trainer's

CASES = {
    "Names and flags": [
        Case("a flag that does not exist", train(learning_rat=1), "unknown argument --learning_rat"),
        Case("a flag misspelt", train(batch_sise=8), "nearest: --batch_size"),
        Case("no network", train(model=""), "--model is required, one of: "),
        Case("a network that does not exist", train(model="ResNetSE34l"), "nearest: ResNetSE34L"),
        Case("a path as the name of a network", train(model="../engine/args"), "--model ../engine/args: not found"),
        Case("a loss that does not exist", train(trainfunc="aamsoftmx"), "nearest: aamsoftmax"),
        Case("an optimizer that does not exist", train(optimizer="adamm"), "nearest: adam"),
        Case("a schedule that does not exist", train(scheduler="step"), "nearest: steplr"),
        Case("a flag that no chosen class takes", train(hard_rank=3), "--hard_rank has no effect"),
        Case("a word for a number", train(lr="fast"), "--lr"),
        Case("a number that is none", train(lr="nan"), "--lr nan: nan is not a finite number"),
        Case("a fraction for a whole number", train(seed=1.5), "--seed"),
        Case("neither yes nor no", train(augment="maybe"), "neither True/1/yes"),
        Case("a word that is no choice", train(sampler="random"), "--sampler"),
        Case("a batch of nothing", train(batch_size=0), "--batch_size 0: must be at least 1"),
        Case("no batch a step", train(accumulate=0), "--accumulate 0: must be at least 1"),
        Case("no epoch", train(max_epoch=0), "--max_epoch 0: must be at least 1"),
        Case("no filter", train(n_mels=0), "--n_mels 0: must be at least 1"),
        Case("a prior of one", train(dcf_p_target=1), "--dcf_p_target 1.0: must be at least 1e-09 and at most"),
        Case(
            "masks without end", train(time_masks=10000000), "--time_masks 10000000: must be at least 0 and at most 100"
        ),
        Case("more bad files than there can be", train(max_bad_files=101), "--max_bad_files 101.0: must be"),
        Case("an average that keeps more than all", train(ema=1.5), "--ema 1.5"),
        Case("evaluations before the first step", train(test_interval_steps=-1), "--test_interval_steps -1: must be"),
        Case("no cycle", train(scheduler="cyclic", cycles=0), "--cycles 0: must be at least 1"),
        Case("a cohort of one", train(cohort_size=1), "--cohort_size 1: must be at least 2"),
        Case("a part that no parameter is of", train(freeze="convv=5"), "--freeze: no parameter is called convv"),
        Case("a part without a factor", train(lr_groups="conv"), "--lr_groups conv: every part needs a factor"),
        Case("a word for a number of steps", train(freeze="conv=soon"), "'conv=soon' is no PART=NUMBER"),
        Case("two last learning rates", train(scheduler="exp_decay", final_lr=1e-6, final_lr_ratio=0.1), "give one"),
        Case(
            "stages that are not the whole",
            train(scheduler="tri_stage", set="tri_stage_ratios=0.1 0.1 0.1"),
            "--tri_stage_ratios 0.1 0.1 0.1: three shares with the sum 1 are needed",
        ),
        Case("two stages", train(set="tri_stage_ratios=0.5 0.5", scheduler="tri_stage"), "three shares with the sum"),
        Case("a size of wav2vec 2.0 that does not exist", train(model="Wav2Vec2", size="huge"), "--size"),
        Case(
            "a pooling that does not exist",
            train(model="Wav2Vec2", size="tiny", pooling="median"),
            "encoder_type 'median'",
        ),
        Case("a front end that does not exist", train(model="ECAPA", front_end="mel"), "--front_end"),
    ],
    "Config files": [
        Case("no such file", train(config="gone.yaml"), "--config gone.yaml: no such file"),
        Case("a folder", train(config=folder("configs")), "configs: a folder, not a YAML file"),
        Case("an unknown key", train(config=file("c.yaml", "lrr: 1\n")), "c.yaml: unknown key 'lrr', nearest: lr"),
        Case("a value of the wrong type", train(config=file("c.yaml", "lr: fast\n")), "c.yaml: lr: 'fast' is no float"),
        Case("a list for one value", train(config=file("c.yaml", "lr: [1, 2]\n")), "lr: one value is needed"),
        Case("no value", train(config=file("c.yaml", "lr:\n")), "c.yaml: lr: a value is needed"),
        Case("a key given twice", train(config=file("c.yaml", "lr: 1\nlr: 2\n")), "'lr': given twice, line 2"),
        Case("nested keys", train(config=file("c.yaml", "optimizer: {lr: 1}\n")), "nested"),
        Case("no YAML", train(config=file("c.yaml", "lr: [1\n")), "c.yaml: not valid YAML"),
        Case("a list instead of keys", train(config=file("c.yaml", "- lr\n")), "a config is a mapping"),
        Case("code", train(config=file("c.yaml", "lr: !!python/name:os.system\n")), "not valid YAML"),
        Case("a checkpoint as config", train(config=file("c.yaml", b"\x80\x02ctorch")), "c.yaml: not valid YAML"),
        Case("megabytes", train(config=file("c.yaml", "#" * 2**21)), "2097152 bytes are too many for a config"),
        Case("`--set` without a value", train(set="lr"), "write it as key=value"),
        Case("`--set` of an unknown key", train(set="lrr=1"), "--set: unknown key 'lrr', nearest: lr"),
    ],
    "Options that do not go together": [
        Case("score normalisation without a cohort", train(score_norm="s-norm"), "give --enroll_training_data too"),
        Case("configs to check in a run", train(check_configs="c.yaml"), "--check_configs works with --dry_run"),
        Case("a metric loss with single utterances", train(trainfunc="angleproto"), "--nPerSpeaker 1"),
        Case("pairs from shuffled utterances", train(sampler="shuffle", nPerSpeaker=2), "needs --sampler speakers"),
        Case("the last batch of speakers", train(keep_last=True), "--keep_last works with --sampler shuffle"),
        Case("more speakers a batch than there are", train(batch_size=9), "a batch needs 9 different speakers"),
        Case("more utterances a batch than there are", train(batch_size=40, sampler="shuffle"), "32 utterances"),
        Case("more accumulated batches than an epoch has", train(accumulate=99), "fewer than --accumulate 99"),
        Case("a speaker beyond the head", train(nClasses=5), "give --nClasses 8"),
        Case("speed factors out of range", train(speed_perturb="0.9,3"), "different factors from 0.5 to 2"),
        Case("speed factors that are words", train(speed_perturb="fast"), "--speed_perturb fast"),
        Case("`--augment` without MUSAN", train(augment=True, musan_path=at("gone")), "--musan_path"),
        Case("a MUSAN folder that is empty", train(augment=True, musan_path=folder("musan")), "--musan_path"),
        Case("more cycles than steps", train(scheduler="cyclic", max_steps=3), "3 steps are too few"),
        Case(
            "fewest masks above most", train(spec_augment=True, time_masks_least=3), "--time_masks_least 3 is more than"
        ),
        Case("masks before norm but no masks", train(spec_augment_before_norm=True), "give that too"),
        Case(
            "masks before a norm that there is not",
            train(spec_augment=True, spec_augment_before_norm=True),
            "--spec_augment_before_norm: models/Tiny.py lacks raw_features()",
        ),
        Case("a further test list that is missing", train(additional_test_sets="gone.txt"), "gone.txt: no such file"),
        Case("statistics over cards on the CPU", train(sync_bn=True), "--sync_bn works over several CUDA processes"),
        Case("no card", train(device="cuda"), "sees no GPU; use --device cpu", patch=no_card),
        Case("a device that does not exist", train(device="tpu9"), "--device tpu9"),
        Case("fewer cards than processes", train(distributed=True, nproc=4, device=""), "only 1 GPUs", patch=one_card),
    ],
    "Lists": [
        Case("no train list", train(train_list="gone.txt"), "gone.txt: no such file"),
        Case("an empty train list", train(train_list=file("t.txt", "")), "t.txt: holds no utterance"),
        Case("a line of one word", train(train_list=file("t.txt", "a a/1.wav\n\na\n")), "t.txt, line 3: expected `sp"),
        Case("a path with a blank", train(train_list=file("t.txt", "a a/1 2.wav\n")), "t.txt, line 1: expected `sp"),
        Case("a line of a megabyte", train(train_list=file("t.txt", "x" * 2**20)), "t.txt, line 1: expected `sp"),
        Case("audio as a list", train(train_list=file("t.txt", b"RIFF\xff\xfe\0\0WAVE")), "t.txt: not a text file"),
        Case("UTF-16", train(train_list=file("t.txt", "a a/1.wav\n".encode("utf-16"))), "t.txt: not a text file"),
        Case(
            "an utterance of two speakers",
            train(train_list=lines_of("train.txt", lambda lines: [*lines, "spk0 spk1/s1/00000.wav"])),
            "spk1/s1/00000.wav is listed for two speakers",
        ),
        Case("the wrong folder", train(train_path="/nowhere"), "32 of 32 files looked at cannot be used"),
        Case("no trial list", train(test_list="gone.txt"), "gone.txt: no such file"),
        Case(
            "a trial list partly with labels",
            train(test_list=lines_of("trials.txt", lambda lines: [*lines, "spk0/s1/00000.wav spk1/s1/00000.wav"])),
            "trials.txt, line 49: some lines have a label and some have none",
        ),
        Case(
            "a label that is neither 0 nor 1",
            train(test_list=lines_of("trials.txt", lambda lines: [*lines, "2" + lines[0][1:]])),
            "trials.txt, line 49: expected `label file file`",
        ),
        Case("a train list as trial list", train(test_list=file("t.txt", "a/1.wav\n")), "t.txt, line 1: expected"),
        Case(
            "trials of one kind only",
            judge(
                lambda place: place.trained / "checkpoints" / "last.pt",
                test_list=lines_of("trials.txt", lambda lines: [line for line in lines if line.startswith("1")]),
            ),
            "holds no impostor trial (label 0) among 24",
        ),
    ],
    "Audio": [
        Case("a missing file of the trials", train(test_path=audio(None)), f"{BAD}: cannot be read"),
        Case("a file of length zero", train(test_path=audio(b"")), f"{BAD}: cannot be read"),
        Case("a header without samples", train(test_path=audio((NOISE[:0], 16000))), f"{BAD}: holds no samples"),
        Case("text", train(test_path=audio(b"not audio")), f"{BAD}: cannot be read"),
        Case("a copy that stopped in the header", train(test_path=audio(b"RIFF\x24\0\0\0WAVEfm")), BAD),
        Case("a FLAC file cut in the middle", train(test_path=cut(BAD, 4000)), BAD),
        Case("samples that are NaN", train(test_path=audio((NOISE * np.nan, 16000))), f"{BAD}: holds samples that are"),
        Case("a sampling rate of 100 Hz", train(test_path=audio((NOISE, 100))), f"{BAD}: its sampling rate is 100 Hz"),
        Case(
            "an unreadable file in the train list",
            train(train_path=audio(b"no")),
            "train_list: 1 of 32 files looked at",
        ),
        Case(
            "unreadable files that the look at the headers missed",
            train(train_path=audio(b"no"), check_files=1, max_epoch=9),
            "bad_files.txt",
        ),
    ],
    "Checkpoints": [
        Case("none to start from", train(initial_model="gone.pt"), "checkpoint gone.pt: no such file"),
        Case(
            "none to evaluate", lambda place: ["--eval", *train()(place)], "holds no checkpoint: give --initial_model"
        ),
        Case("a text file", judge(file("x.pt", "not a checkpoint\n")), "x.pt: not a checkpoint of plain tensors"),
        Case("an empty file", judge(file("x.pt", "")), "x.pt: damaged or not a checkpoint"),
        Case("a Git-LFS pointer", judge(file("x.pt", POINTER)), "x.pt is a Git-LFS pointer of"),
        Case("an audio file", judge(file("x.safetensors", b"RIFF" * 99)), "x.safetensors: damaged or not a checkpoint"),
        Case("with a pickled object", judge(saved(lambda p: {**p, "meta": Path("x")})), "one with code, which is not"),
        Case(
            "without weights", judge(saved(lambda p: {"epoch": 3})), "x.pt: no known checkpoint layout (keys: 'epoch')"
        ),
        Case(
            "with NaN among the weights", judge(saved(with_nan)), "x.pt: holds numbers that are not finite, in __S__.f"
        ),
        Case(
            "of a network that does not exist",
            judge(saved(lambda p: {**p, "class": "models.Tinny"})),
            "--model Tinny: not found, nearest: Tiny",
        ),
        Case("of something else", judge(saved(lambda p: {**p, "class": "os.system"})), "os.system: no class by name"),
        Case(
            "of another network than asked for",
            judge(lambda place: place.trained / "checkpoints" / "last.pt", model="VGGVox"),
            "holds models.Tiny, not --model VGGVox",
        ),
        Case(
            "without a cohort, which a normalisation needs",
            judge(lambda place: place.trained / "checkpoints" / "last.pt", score_norm="as-norm"),
            "last.pt holds no cohort: train with --enroll_training_data",
        ),
        Case(
            "of a network that nothing names", judge(saved(lambda p: p["state_dict"])), "does not say what network it"
        ),
        Case(
            "of torchaudio for another network", train(initial_model="torchaudio:X"), "has no weights of this network"
        ),
        Case(
            "of torchaudio that does not exist",
            train(model="Wav2Vec2", size="tiny", initial_model="torchaudio:WAV2VEC2_SMALL"),
            "WAV2VEC2_SMALL",
        ),
        Case(
            "of another network to start from",
            train(initial_model=lambda place: place.trained / "checkpoints" / "last.pt", nOut=16),
            "last.pt does not fit this network",
        ),
        Case(
            "a head that must be kept and is of another size",
            train(initial_model=lambda place: place.trained / "checkpoints" / "last.pt", keep_head=True, nClasses=9),
            "the head must fit to be kept",
        ),
    ],
    "Run folders": [
        Case("a file in the way", train(save_path=file("taken", "")), "choose another --save_path"),
        Case(
            "no permission to write",
            train(),
            "run/result: cannot be made (no permission to write)",
            patch=no_permission,
        ),
        Case("a full disk", train(), "No space left on device", patch=no_space),
        Case(
            "`--resume never` on a used folder", train(save_path=lambda place: place.trained, resume="never"), "--res"
        ),
        Case(
            "another network in a used folder",
            train(save_path=lambda place: place.trained, model="FastECAPA"),
            "this run is of models.FastECAPA; choose another --save_path",
        ),
    ],
    "tuneThreshold.py": [
        Case("no score file", tune(at("gone.txt")), "gone.txt: no such file"),
        Case("an empty score file", tune(file("s.txt", "\n")), "s.txt: no scores in 1 lines"),
        Case("a line too long", tune(file("s.txt", "1 0.5\n0 0.1 a b\n")), "s.txt, line 2: 4 words"),
        Case("a score that is a word", tune(file("s.txt", "1 high\n")), "s.txt, line 1: score 'high'"),
        Case("a score that is NaN", tune(file("s.txt", "1 1\n0 nan\n")), "line 2: score 'nan' is not"),
        Case("a label that is a word", tune(file("s.txt", "same 0.3\n")), "label 'same' is neither"),
        Case("labels of one kind", tune(file("s.txt", "1 0.3\n1 0.4\n")), "no impostor among 2 trials"),
        Case("file names without their list", tune(scores_of), "need their trials, --test_list"),
        Case(
            "scores of other trials",
            tune(file("s.txt", "0.3 a/1.wav b/1.wav\n"), test_list=trials_of),
            "s.txt, line 1: a/1.wav b/1.wav is no trial of",
        ),
        Case(
            "fewer scores than trials",
            tune(scores_of, test_list=lines_of("trials.txt", lambda lines: [*lines, "1 a/1.wav a/2.wav"])),
            "no score for trial 49",
        ),
        Case("a prior that is no probability", tune(file("s.txt", "1 1\n0 0\n"), dcf_p_target=2), "p_target"),
        Case(
            "a file in the way",
            tune(file("s.txt", "1 1\n0 0\n"), save_path=file("taken", "")),
            "choose another --save_path",
        ),
    ],
    "dataprep.py": [
        Case("nothing to do", lambda place: [], "no stage given"),
        Case("no such folder", lambda place: ["--make_lists", place.folder / "gone"], "gone: no such f"),
        Case("an empty folder", lambda place: ["--make_lists", folder("own")(place)], "own: holds no .wav"),
        Case(
            "a file outside the speakers' folders",
            lambda place: ["--make_lists", folder("own", "a.wav")(place)],
            "a.wav: lies in no speaker's folder",
        ),
        Case(
            "a blank in a name",
            lambda place: ["--make_lists", folder("own", "a/my file.wav")(place)],
            "has white space",
        ),
        Case(
            "two speakers",
            lambda place: ["--make_lists", folder("own", "a/1.wav", "a/2.wav", "b/1.wav")(place)],
            "see --test_speakers and --dev_speakers",
        ),
        Case(
            "a list of one speaker",
            lambda place: ["--make_lists", place.corpus / "wav", "--test_speakers", 1],
            "--test_speakers 1: trials of different speakers need at least 2",
        ),
    ],
}
