"""dataprep.py: lists of any tree, the synthetic corpus made in parts, and wrong input in one clear line."""

import json
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import soundfile
from conftest import ROOT

from audio.augment import Augmenter
from audio.lists import read_train_list, read_trial_list, speaker_of
from corpora.synthetic import Parameters, plan, write
from corpora.trials import Utterance, draw_trials, find_utterances, make_lists, split_speakers


def tree(folder, paths):
    """Make empty files; the lists look at names only."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return folder


def people(speakers=20, sessions=3, each=3):
    return [
        Utterance(f"s{a:02d}", f"x{b}", f"s{a:02d}/x{b}/{c}.wav")
        for a in range(speakers)
        for b in range(sessions)
        for c in range(each)
    ]


def run(*arguments):
    command = [sys.executable, "dataprep.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


# ---------------------------------------------------------------- lists


def test_trees_with_and_without_sessions_are_found_in_order(tmp_path):
    tree(
        tmp_path,
        ["b/1.flac", "a/s/2.WAV", "a/s/1.ogg", "a/s/deep/3.wav", "a/s/notes.txt", ".hidden/x.wav", "a/._1.wav"],
    )
    assert find_utterances(tmp_path) == [
        Utterance("a", "s", "a/s/1.ogg"), Utterance("a", "s", "a/s/2.WAV"), Utterance("a", "s/deep", "a/s/deep/3.wav"),
        Utterance("b", "", "b/1.flac"),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["a/s/1 2.wav", "a b/1.wav", "a/s\t/1.wav", "a/s\u00a0/1.wav", "a/1\n.wav"])
def test_white_space_in_a_name_is_an_error_that_names_the_file(tmp_path, name):
    with pytest.raises(ValueError, match="white space") as caught:
        find_utterances(tree(tmp_path, [name]))
    assert repr(name) in str(caught.value) and "\n" not in str(caught.value)


def test_white_space_above_the_corpus_is_no_matter(tmp_path):
    assert find_utterances(tree(tmp_path / "my data", ["a/1.wav"]))[0].path == "a/1.wav"


def test_folders_without_audio_or_speakers_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        find_utterances(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="holds no .wav"):
        find_utterances(tree(tmp_path, ["a/readme.txt"]))
    with pytest.raises(ValueError, match="loose.wav: lies in no speaker's folder"):
        find_utterances(tree(tmp_path, ["a/1.wav", "loose.wav"]))


def test_no_speaker_has_two_uses_and_single_utterances_train():
    utterances = sorted(people(20) + [Utterance("lone", "", "lone/1.wav")])
    split = split_speakers(utterances, 5, None, seed=0)
    names = [{u.speaker for u in part} for part in split]
    assert [len(part) for part in names] == [14, 2, 5]
    assert len(set.union(*names)) == 21 and "lone" in names[0]
    assert sorted(sum(split, [])) == utterances
    assert split == split_speakers(utterances, 5, None, seed=0)
    assert split != split_speakers(utterances, 5, None, seed=1)
    assert not split_speakers(utterances, 5, 0, seed=0).dev


def test_too_few_speakers_is_an_error_with_all_numbers():
    with pytest.raises(ValueError, match="5 speakers, 5 of them .* 2 test and 2 dev"):
        split_speakers(people(5), None, None, 0)
    assert len(split_speakers(people(6), None, None, 0).train) == 2 * 9
    single = [Utterance(f"s{i}", "", f"s{i}/1.wav") for i in range(30)]
    with pytest.raises(ValueError, match="30 speakers, 0 of them with two utterances"):
        split_speakers(single, None, None, 0)
    for count in (1, -2):
        with pytest.raises(ValueError, match="--dev_speakers"):
            split_speakers(people(), 2, count, 0)


@pytest.mark.parametrize("per_speaker", [2, 20, 1000])
@pytest.mark.parametrize("cross", [True, False])
def test_trials_are_balanced_distinct_and_right(per_speaker, cross):
    utterances = people(6)
    trials = draw_trials(utterances, per_speaker, cross, seed=3)
    of = {u.path: u for u in utterances}
    counts = Counter(label for label, _, _ in trials)
    # 27 pairs of a speaker's 9 utterances cross sessions, 36 are there in all
    assert counts[0] == counts[1] == 6 * min(per_speaker // 2, 27 if cross else 36)
    assert all(a != b and label == (of[a].speaker == of[b].speaker) for label, a, b in trials)
    assert len({frozenset((a, b)) for _, a, b in trials}) == len(trials)
    crossing = [of[a].session != of[b].session for label, a, b in trials if label]
    assert all(crossing) if cross else per_speaker == 2 or not all(crossing)
    assert trials == draw_trials(utterances, per_speaker, cross, seed=3)
    opened = Counter(of[a].speaker for _, a, _ in trials)
    assert max(opened.values()) <= per_speaker


def test_balance_holds_where_impostors_are_few_or_sessions_are_none():
    many = [Utterance("a", "", f"a/{i}.wav") for i in range(12)]
    trials = draw_trials(many + [Utterance("b", "", "b/0.wav"), Utterance("b", "", "b/1.wav")], 1000, True, 0)
    labels = [label for label, _, _ in trials]
    assert sum(labels) * 2 == len(labels) > 20
    assert len({frozenset(pair) for _, *pair in trials}) == len(trials)


def test_lists_are_read_back_by_the_trainer_and_older_ones_kept(tmp_path):
    tree(tmp_path, [u.path for u in people(8)] + ["lone/1.wav"])
    (tmp_path / "veri_test.txt").write_text("made by hand\n")
    lines = make_lists(tmp_path, test_speakers=2, dev_speakers=2, trials_per_speaker=10, seed=1)
    train = read_train_list(tmp_path / "train_list.txt", str(tmp_path))
    test, dev = (read_trial_list(tmp_path / f"veri_{name}.txt") for name in ("test", "dev"))
    assert (
        "a single utterance, who can only train: 1, e.g. lone" in lines[0] and "37 utterances of 5 speakers" in lines[1]
    )
    assert "20 trials, 10 targets (10 across sessions), of 2 speakers" in lines[2]
    assert len(train.paths) == 37 and all((tmp_path / name).is_file() for name in test.names)
    assert test.labels.mean() == 0.5 and len(test.pairs) == 20
    held_out = [{speaker_of(name) for name in part.names} for part in (test, dev)]
    assert not held_out[0] & held_out[1] and not set.union(*held_out) & set(train.speakers)
    assert (tmp_path / "veri_test.txt.bak").read_text() == "made by hand\n"
    before = (tmp_path / "veri_test.txt").read_bytes()
    make_lists(tmp_path, test_speakers=2, dev_speakers=2, trials_per_speaker=10, seed=1)
    assert (tmp_path / "veri_test.txt").read_bytes() == before
    assert (tmp_path / "veri_test.txt.bak").read_text() == "made by hand\n"


# ---------------------------------------------------------------- synthetic corpus


def make(folder, **changes):
    parameters = Parameters(**{"speakers": 6, "sessions": 2, "utterances": 1, "seconds": 0.5, "seed": 2, **changes})
    return sum(write(job) for job in plan(parameters, folder))


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.wav")}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make(folder)
    return folder


def test_corpus_is_16_bit_at_16_khz_and_does_not_clip(corpus):
    files = sorted((corpus / "synthetic").rglob("*.wav"))
    assert len(files) == 12 and files[0].relative_to(corpus).as_posix() == "synthetic/spk0000/session0/00000.wav"
    for path in files + sorted((corpus / "synthetic_noise").rglob("*.wav")):
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
        assert 0.01 < np.abs(soundfile.read(path)[0]).max() < 0.96


def test_a_corpus_is_resumed_file_by_file(corpus, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(corpus, folder)
    before = contents(folder)
    lost = [folder / "synthetic/spk0003/session1/00000.wav", folder / "synthetic_noise/music/synthetic/part1/00002.wav"]
    for path in lost:
        path.unlink()
        path.with_suffix(".tmp").write_bytes(b"killed while writing")
    assert make(folder) == 2
    assert contents(folder) == before and not list(folder.rglob("*.tmp"))
    assert plan(Parameters(6, 2, 1, 0.5, 2), folder) == []


def test_part_of_a_corpus_is_the_same_as_in_the_whole(corpus, tmp_path):
    make(tmp_path, speakers=2, sessions=1)
    whole = contents(corpus / "synthetic")
    part = contents(tmp_path / "synthetic")
    assert len(part) == 2 and all(whole[name] == data for name, data in part.items())


def test_a_folder_made_with_others_is_refused(corpus, tmp_path):
    with pytest.raises(ValueError, match="seed 2 there, 3 wanted"):
        make(corpus, seed=3)
    (tmp_path / "synthetic").mkdir()
    (tmp_path / "synthetic" / "own.wav").touch()
    with pytest.raises(ValueError, match="no corpus.json"):
        make(tmp_path)
    card = tmp_path / "damaged" / "synthetic" / "corpus.json"
    card.parent.mkdir(parents=True)
    card.write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        make(tmp_path / "damaged")


@pytest.mark.parametrize("change", [{"speakers": 0}, {"seconds": 0.1}, {"seed": -1}])
def test_parameters_out_of_range_are_errors_before_anything_is_written(tmp_path, change):
    with pytest.raises(ValueError, match=f"--{next(iter(change))}"):
        make(tmp_path, **change)
    assert not list(tmp_path.iterdir())


def test_noise_and_rooms_suffice_for_augmentation(corpus):
    augment = Augmenter(str(corpus / "synthetic_noise"), str(corpus / "synthetic_rooms"), 8000, 1e-13, probability=1)
    wave = (0.1 * np.random.default_rng(0).standard_normal(8000)).astype(np.float32)
    for seed in range(12):
        augmented = augment(wave, np.random.default_rng(seed))
        assert np.isfinite(augmented).all() and not np.array_equal(augmented, wave)


# ---------------------------------------------------------------- the script


def test_script_makes_corpus_and_lists_in_one_go(tmp_path):
    sizes = ("--speakers", 7, "--sessions", 2, "--utterances", 1, "--seconds", 0.5, "--workers", 2)
    done = run("--synthetic", "--make_lists", tmp_path / "synthetic", "--save_path", tmp_path, *sizes)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("train_list.txt: 6 utterances of 3 speakers") == 2
    assert json.loads((tmp_path / "synthetic" / "corpus.json").read_text())["speakers"] == 7
    assert read_trial_list(tmp_path / "synthetic" / "veri_dev.txt").labels.tolist() == [1, 0, 1, 0]


def test_no_stage_is_one_line_and_exit_code_2():
    done = run("--save_path", "nowhere")
    assert done.returncode == 2 and done.stderr.startswith("error: no stage given: --synthetic or --make_lists FOLDER")
    assert done.stderr.count("\n") == 1
