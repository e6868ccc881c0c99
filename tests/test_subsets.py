"""Splits, subsets, trials and published lists: the invariants of the stored cases, determinism, wrong input."""

import gzip
import json
import shlex
import sys
import time
from collections import Counter

import numpy as np
import pytest
from conftest import DATA, ROOT
from golden_recipes import golden_dir

import dataprep
from corpora import id_lists, meta, pairs, subsets
from engine.args import check_ranges, parse

FACTS = json.loads((golden_dir("lowresource") / "data_invariants.json").read_text())
TINY = DATA / "voxceleb2_tiny"
published = pytest.mark.skipif(not TINY.is_dir(), reason="needs $VOXLAB_DATA/voxceleb2_tiny")


def write(path, files):
    path.write_text("".join(f"{file.split('/')[0]} {file}\n" for file in files))
    return subsets.read_corpus(path)


def made_up(path, speakers=30, seed=0, shuffled=0):
    """Write a list of speakers with 3 to 9 recordings of 1 to 30 files, and a table of their sexes."""
    draw = np.random.default_rng(seed)
    files = []
    for speaker in range(speakers):
        for recording in range(draw.integers(3, 10)):
            count = draw.integers(1, 31)
            files += [f"id{speaker:03d}/v{recording}/{number:05d}.wav" for number in range(count)]
    table = "id ,gender \n" + "".join(f"id{speaker:03d} ,{'mf'[speaker % 2]} \n" for speaker in range(speakers))
    path.with_suffix(".csv").write_text(table)
    return write(path, np.random.default_rng(shuffled).permutation(files).tolist() if shuffled else files)


@pytest.fixture
def corpus(tmp_path):
    return made_up(tmp_path / "all.txt")


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    """Return a function that runs dataprep.py into the folder of the test."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["dataprep.py", "--save_path", *map(str, (tmp_path, *words))])
        dataprep.main()

    return run


def by_recording(corpus, mask):
    return Counter(corpus.recordings[i][1].split("/")[1] for i in corpus.recording[mask].tolist())


# ---------------------------------------------------------------- rules


@pytest.mark.parametrize("case", FACTS["many_subsets"]["expected_files_per_recording"], ids=str)
def test_many_speakers_takes_from_the_recordings_by_turns(tmp_path, case):
    files = [f"s/{name}/{i}.wav" for name, count in case["recordings"].items() for i in range(count)]
    corpus = write(tmp_path / "l.txt", files)
    for seed in range(3):
        found = by_recording(corpus, subsets.many_speakers(corpus, case["files_per_speaker"],
                                                           case["files_per_recording"], seed))  # fmt: skip
        sizes = Counter((case["recordings"][name], count) for name, count in found.items())
        assert sizes == Counter((case["recordings"][name], count) for name, count in case["result"].items())


def test_which_files_are_taken_is_random_and_depends_on_the_seed_alone(tmp_path, corpus):
    again = made_up(tmp_path / "again.txt", shuffled=3)
    assert again.paths == corpus.paths
    for choose in (
        lambda c, seed: subsets.many_speakers(c, 8, 3, seed),
        lambda c, seed: subsets.split_equal(c, 0.1, seed),
    ):
        assert (choose(corpus, 5) == choose(again, 5)).all() and (choose(corpus, 5) != choose(corpus, 6)).any()
    drawn = sum(subsets.many_speakers(corpus, 8, 8, seed).astype(int) for seed in range(40))
    largest = np.bincount(corpus.recording).argmax()
    assert (drawn[corpus.recording == largest] > 0).mean() > 0.9


def test_the_validation_split_keeps_its_invariants(corpus):
    sizes = np.bincount(corpus.recording)
    for ratio in (0.01, 0.2, 0.95):
        mask = subsets.split_equal(corpus, ratio, 1337)
        share = np.bincount(corpus.recording, mask) / sizes
        assert set(share.tolist()) <= {0.0, 1.0}  # whole recordings
        for speaker in range(len(corpus.speakers)):
            own = np.unique(corpus.recording[corpus.speaker == speaker])
            gone, total = sizes[own[share[own] == 1]], sizes[own].sum()
            assert 0 < len(gone) < len(own)
            assert gone.sum() / total > ratio or len(own) - len(gone) == 1
            # without the one moved last the share was not reached: some order of the moves must allow that
            assert any((gone.sum() - last) / total <= ratio for last in gone)


def test_the_smallest_of_three_recordings_goes(tmp_path):
    files = [f"s/{name}/{i}.wav" for name, count in (("a", 5), ("b", 9), ("c", 7)) for i in range(count)]
    corpus = write(tmp_path / "l.txt", files)
    assert all(by_recording(corpus, subsets.split_equal(corpus, 0.01, seed)) == {"a": 5} for seed in range(9))
    assert by_recording(corpus, subsets.split_equal(corpus, 0.3, 0)) == {"a": 5, "c": 7}


def test_few_speakers_have_most_files_and_ties_go_by_name(tmp_path):
    counts = {"d": 5, "a": 3, "c": 3, "b": 3, "e": 2, "f": 9}
    corpus = write(tmp_path / "l.txt", [f"{name}/v/{i}.wav" for name, count in counts.items() for i in range(count)])
    sexes = dict.fromkeys("abcd", "f") | dict.fromkeys("ef", "m")
    mask = subsets.few_speakers(corpus, sexes, 2)
    assert {corpus.speakers[i] for i in corpus.speaker[mask]} == {"a", "d", "e", "f"} and mask.sum() == 19
    with pytest.raises(ValueError, match="--speakers_per_sex 3: .* has 2 of sex m"):
        subsets.few_speakers(corpus, sexes, 3)
    with pytest.raises(ValueError, match="the sex of 1 speakers .* e.g. f"):
        subsets.few_speakers(corpus, {k: v for k, v in sexes.items() if k != "f"}, 1)


def test_what_cannot_be_split_or_chosen_is_one_line(tmp_path):
    corpus = write(tmp_path / "l.txt", ["a/v/1.wav", "a/w/1.wav", "b/v/1.wav", "b/v/2.wav"])
    with pytest.raises(ValueError, match="speaker b has a single recording .b/v."):
        subsets.split_equal(corpus, 0.01, 0)
    with pytest.raises(ValueError, match="--files_per_speaker 8: 2 speakers .* e.g. a with 2"):
        subsets.many_speakers(corpus, 8, 1, 0)
    with pytest.raises(ValueError, match="--split_speakers 2: .* has 2 speakers"):
        subsets.split_last(corpus, 2)
    assert subsets.split_last(corpus, 1).tolist() == [False, False, True, True]
    with pytest.raises(ValueError, match="a/v/1.wav is listed more than once"):
        write(tmp_path / "l.txt", ["a/v/1.wav", "a/v/1.wav"])


def test_long_lists_take_seconds(tmp_path):
    counts = np.random.default_rng(0).multinomial(273_000, np.ones(5994) / 5994)  # a quarter of VoxCeleb2
    with open(tmp_path / "l.txt", "w") as file:
        for speaker, count in enumerate(counts.tolist()):
            file.writelines(f"id{speaker:05d} id{speaker:05d}/{i // 8:011x}/{i:05d}.wav\n" for i in range(count))
    started = time.process_time()
    corpus = subsets.read_corpus(tmp_path / "l.txt")
    held_out = subsets.split_equal(corpus, 0.01, 1)
    chosen = subsets.many_speakers(corpus, 8, 1, 1)
    text = subsets.list_text(corpus, ~held_out)
    seconds = time.process_time() - started
    assert chosen.sum() == 8 * 5994 and text.count("\n") == (~held_out).sum()
    assert seconds < 5, f"{seconds:.1f} s"  # 0.8 s on one core


# ---------------------------------------------------------------- trials


@pytest.mark.parametrize("count, same_sex, other", [(400, True, False), (401, False, True), (1000, True, True)])
def test_trials_keep_their_invariants(corpus, tmp_path, count, same_sex, other):
    sexes = meta.read_sexes(tmp_path / "all.csv")
    drawn = pairs.draw_pairs(corpus, count, 7, sexes if same_sex else None, other)
    lines = [line.split() for line in pairs.trials_text(corpus, *drawn).splitlines()]
    assert [int(label) for label, _, _ in lines] == [i % 2 for i in range(count)]
    assert len({frozenset(pair) for _, *pair in lines}) == count and all(a != b for _, a, b in lines)
    speakers = [(a.split("/")[0], b.split("/")[0]) for _, a, b in lines]
    assert all((a == b) == (label == "1") for (a, b), (label, *_) in zip(speakers, lines))
    positives = Counter(a for (a, _), (label, *_) in zip(speakers, lines) if label == "1")
    assert max(positives.values()) - min(positives.values()) <= 1 and len(positives) == 30
    # the last of the sorted speakers begins
    assert [a for (a, _), (label, *_) in zip(speakers, lines) if label == "1"][:2] == ["id029", "id028"]
    if other:
        assert all(a.split("/")[1] != b.split("/")[1] for label, a, b in lines if label == "1")
    seen = Counter(name for pair, (label, *_) in zip(speakers, lines) if label == "0" for name in pair)
    assert len(seen) == 30
    if same_sex:
        assert all(sexes[a] == sexes[b] for a, b in speakers)
    assert drawn == pairs.draw_pairs(corpus, count, 7, sexes if same_sex else None, other)
    assert drawn != pairs.draw_pairs(corpus, count, 8, sexes if same_sex else None, other)


def test_speakers_of_negatives_are_drawn_by_their_weights(tmp_path):
    corpus = write(tmp_path / "l.txt", [f"{speaker}/v/{i}" for speaker in "abc" for i in range(9)])
    new = 0
    for seed in range(1000):
        (one, other), (third, _) = pairs.draw_pairs(corpus, 4, seed)[1]
        new += corpus.speaker[third] not in corpus.speaker[[one, other]]
    # after one pair its speakers have weight 2 and the third one 3; four standard deviations
    assert abs(new / 1000 - 3 / 7) < 0.063


def test_speakers_without_new_pairs_leave_and_too_few_pairs_are_an_error(tmp_path):
    corpus = write(tmp_path / "l.txt", ["a/v/1", "a/v/2", "b/v/1", "b/v/2", "b/v/3", "b/w/4"])
    positives, negatives = pairs.draw_pairs(corpus, 14, 0)
    assert len(positives) == 7 and sum(corpus.speaker[a] == 1 for a, _ in positives) == 6 and len(negatives) == 7
    with pytest.raises(ValueError, match="has 7 pairs of one speaker, 8 are wanted"):
        pairs.draw_pairs(corpus, 16, 0)
    with pytest.raises(ValueError, match="3 pairs of one speaker from different recordings"):
        pairs.draw_pairs(corpus, 16, 0, diff_recording=True)
    with pytest.raises(ValueError, match="no two speakers of the same sex"):
        pairs.draw_pairs(corpus, 4, 0, {"a": "f", "b": "m"})
    corpus = write(tmp_path / "l.txt", ["a/1", "a/2", "a/3", "b/1", "b/2", "b/3"])
    with pytest.raises(ValueError, match="too few pairs of different speakers: 9 were found"):
        pairs._negatives(corpus, [np.arange(3), np.arange(3, 6)], 10, np.zeros(2), np.random.default_rng(0))


# ---------------------------------------------------------------- published lists


@published
def test_published_lists_have_the_stored_counts(tmp_path, prepare, capsys):
    prepare("--subset_list", *sorted(TINY.glob("*.txt.gz")))
    printed = capsys.readouterr().out
    names = ("few_train", "few_val", "many_low_train", "many_high_train", "many_val")
    found = {f"tiny_{name}": subsets.read_corpus(tmp_path / f"tiny_{name}.txt") for name in names}
    few, many = FACTS["few_subset_on_voxceleb2"], FACTS["many_subsets_on_voxceleb2"]
    for name, facts in (("few", few), ("many_low", many["low"]), ("many_high", many["high"])):
        train = found[f"tiny_{name}_train"]
        assert len(train.paths) == facts["train_files"] and len(train.speakers) == facts["speakers"]
        assert len(train.recordings) == facts["recordings"]
        assert set(np.bincount(train.speaker)) == {facts["files_per_speaker"]}
        val = found["tiny_few_val" if name == "few" else "tiny_many_val"]
        contents = [id_lists.contents_of(corpus.name) for corpus in (train, val)]
        assert f"{len(train.speakers)} common speakers" in subsets.check_disjoint(contents)[0]
    assert len(found["tiny_few_val"].paths) == few["val_files"]
    assert len(found["tiny_few_val"].recordings) == few["val_recordings"]
    assert set(found["tiny_few_val"].paths) <= set(found["tiny_many_val"].paths)
    per_speaker = np.bincount(found["tiny_many_val"].speaker)
    assert len(found["tiny_many_val"].recordings) == many["val_recordings"]
    facts = many["val_files_per_speaker"]
    assert (per_speaker.min(), np.median(per_speaker), per_speaker.max()) == tuple(facts.values())
    for name in ("val_trials", "val_trials_tiny_few"):
        facts = FACTS["trial_lists"][name]
        line = f"{facts['lines']} trials, {facts['positive']} targets, of {facts['unique_files']} files"
        assert f"{name}.txt: {line}" in printed
        lines = (tmp_path / f"{name}.txt").read_text().splitlines()
        assert len(lines) == facts["lines"] and sum(line[0] == "1" for line in lines) == facts["positive"]
        assert len({word for line in lines for word in line.split()[1:]}) == facts["unique_files"]
    # a rule applied to its own result takes all of it: what was published keeps the rule
    low = found["tiny_many_low_train"]
    assert subsets.many_speakers(low, 8, 8, 0).all()


def test_lists_by_identifier_are_read_plain_and_compressed(tmp_path):
    plain, packed = tmp_path / "ids.txt", tmp_path / "trials.txt.gz"
    plain.write_text("b/v/2\na/v/1\n\n")
    packed.write_bytes(gzip.compress(b"1 a/v/1.wav a/v/2\r\n0 a/v/1 b/v/1.wav\n"))
    assert id_lists.convert(plain) == ("b b/v/2.wav\na a/v/1.wav\n", "2 utterances of 2 speakers")
    assert id_lists.convert(plain, ".flac")[0].startswith("b b/v/2.flac\n")
    text, line = id_lists.convert(packed)
    assert text == "1 a/v/1.wav a/v/2.wav\n0 a/v/1.wav b/v/1.wav\n" and line == "2 trials, 1 targets, of 3 files"
    assert id_lists.name_of(packed) == "trials.txt" == id_lists.name_of("x/trials")


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"", "ids: holds no line"),
        (b"a/v/1\na/v/1 b\n", "ids, line 2: expected `speaker/recording/utterance`, found 'a/v/1 b'"),
        (b"a/v/1\n\na/v/1\n", "a/v/1.wav is listed more than once"),
        (b"a/v/1\n1\n", "ids, line 2: '1' names no speaker"),
        (b"1 a/v/1 b/v/1\n", "ids, line 1: label 1 contradicts its speakers a and b"),
        (b"0 a/v/1 b/v/1\n\n0 a/v/1 a/v/2\n", "ids, line 3: label 0 contradicts"),
        (b"2 a/v/1 b/v/1\n", "ids, line 1: label '2' is neither"),
        (b"a b\n", "ids, line 1: expected `speaker"),
        (b"\xff\xfe", "ids: not a text file"),
    ],
)
def test_a_malformed_list_by_identifier_names_its_line(tmp_path, content, expected):
    (tmp_path / "ids").write_bytes(content)
    with pytest.raises(ValueError) as error:
        id_lists.convert(tmp_path / "ids")
    assert expected in str(error.value)


def test_a_damaged_gzip_file_and_unknown_utterances_are_errors(tmp_path, corpus, prepare):
    (tmp_path / "ids.gz").write_bytes(gzip.compress(b"a/v/1\n" * 999)[:20])
    with pytest.raises(ValueError, match="ids.gz: not a whole gzip file"):
        id_lists.convert(tmp_path / "ids.gz")
    (tmp_path / "ids.txt").write_text("id000/v0/00000\nid999/v0/00000\n")
    with pytest.raises(ValueError, match="1 of 2 utterances are not in the list they are chosen from, e.g. id999"):
        prepare("--subset_list", tmp_path / "ids.txt", "--subset_from", tmp_path / "all.txt")


# ---------------------------------------------------------------- stages


def test_the_stages_make_split_subsets_and_trials_that_fit_together(corpus, tmp_path, prepare, capsys):
    meta_flag = ("--speaker_meta", tmp_path / "all.csv")
    prepare("--split", tmp_path / "all.txt", "--split_ratio", 0.05, "--seed", 1337)
    names = "tiny_few,tiny_many_low,tiny_many_high"
    prepare("--subset", names, "--speakers_per_sex", 4, *meta_flag)
    prepare("--draw_trials", tmp_path / "tiny_few_val.txt", "--num_pairs", 20, *meta_flag)
    train, val = (set(subsets.read_corpus(tmp_path / f"full_{part}.txt").paths) for part in ("train", "val"))
    assert train | val == set(corpus.paths) and not train & val
    for name, speakers in (("tiny_few", 8), ("tiny_many_low", 30), ("tiny_many_high", 30)):
        own, own_val = (subsets.read_corpus(tmp_path / f"{name}_{part}.txt") for part in ("train", "val"))
        assert own.speakers == own_val.speakers and len(own.speakers) == speakers
        assert set(own.paths) <= train and set(own_val.paths) <= val
    low, high = (subsets.read_corpus(tmp_path / f"tiny_many_{name}_train.txt") for name in ("low", "high"))
    assert len(low.paths) == len(high.paths) == 240 and len(low.recordings) < len(high.recordings)
    assert len((tmp_path / "tiny_few_val_trials.txt").read_text().splitlines()) == 20
    capsys.readouterr()
    prepare("--check_disjoint", tmp_path / "full_train.txt", tmp_path / "full_val.txt", "--subset", "tiny_many_low")
    assert "no common utterance or recording, 30 common speakers" in capsys.readouterr().out


def test_a_split_by_a_published_list_holds_out_just_that(corpus, tmp_path, prepare):
    chosen = corpus.paths[::7]
    ids = "".join(path.removesuffix(".wav") + chr(10) for path in chosen)
    (tmp_path / "val.txt.gz").write_bytes(gzip.compress(ids.encode()))
    prepare("--split", tmp_path / "all.txt", "--split_list", tmp_path / "val.txt.gz")
    train, val = (subsets.read_corpus(tmp_path / f"full_{part}.txt").paths for part in ("train", "val"))
    assert val == chosen and sorted(train + val) == corpus.paths


def test_every_command_of_the_page_parses():
    page = (ROOT / "docs" / "data.md").read_text()
    commands = [line for line in page.splitlines() if line.startswith("python ") and "dataprep.py" in line]
    assert len(commands) > 15
    for command in commands:
        args, _ = parse(dataprep.make_flags(), shlex.split(command)[2:])
        check_ranges(args, dataprep.RANGES)


def test_the_check_of_disjoint_lists_fires(corpus, tmp_path, prepare):
    prepare("--split", tmp_path / "all.txt", "--split_mode", "different", "--split_speakers", 5)
    train, val, more = (tmp_path / name for name in ("full_train.txt", "full_val.txt", "more.txt"))
    prepare("--check_disjoint", train, val, "--disjoint_speakers")
    more.write_text(val.read_text() + train.read_text().splitlines()[0] + "\n")
    # of three lists two overlap, not all
    (tmp_path / "other.txt").write_text("x x/v/1.wav\n")
    with pytest.raises(ValueError, match="full_train.txt and .*more.txt have 1 utterances in common, e.g. id000"):
        prepare("--check_disjoint", train, tmp_path / "other.txt", more)
    more.write_text("id000 id000/v0/new.wav\n")
    with pytest.raises(ValueError, match="1 recordings in common, e.g. id000/v0"):
        prepare("--check_disjoint", train, more)
    more.write_text("1 id000/w/1.wav id000/w/2.wav\n0 id000/w/1.wav q/v/2.wav\n")
    prepare("--check_disjoint", train, more)
    with pytest.raises(ValueError, match="1 speakers in common, e.g. id000"):
        prepare("--check_disjoint", train, more, "--disjoint_speakers")


def test_flags_of_stages_are_checked(corpus, tmp_path, prepare):
    (tmp_path / "full_train.txt").write_text((tmp_path / "all.txt").read_text())
    with pytest.raises(ValueError, match="--subset 'tiny': there are tiny_few, "):
        prepare("--subset", "tiny")
    with pytest.raises(ValueError, match="give the sexes of the speakers, --speaker_meta CSV"):
        prepare("--subset", "tiny_few")
    with pytest.raises(ValueError, match="--speaker_meta CSV, or --same_sex False"):
        prepare("--draw_trials", tmp_path / "all.txt")
    with pytest.raises(ValueError, match="--num_pairs 1: must be at least 2"):
        prepare("--draw_trials", tmp_path / "all.txt", "--num_pairs", 1)
    with pytest.raises(ValueError, match="--split_ratio 2.0"):
        prepare("--split", tmp_path / "all.txt", "--split_ratio", 2)
    assert parse(dataprep.make_flags(), ["--same_sex", "False"])[0].same_sex is False


def test_lists_of_evaluation_sets_have_names_and_a_sum(serve, tmp_path, prepare, capsys):
    import hashlib

    text = b"1 a b\n0 a c\n"
    digest = hashlib.sha256(text).hexdigest()
    server = serve({"veri_test.txt": text, "veri_test2.txt": text})
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "trials.txt").write_text(f"O veri_test.txt 2 {digest}\nO-clean veri_test2.txt 2 {'0' * 64}\n")
    flags = ("--parts_path", lists, "--lists_prefix", server.url)
    prepare("--download_lists", "original", *flags)
    assert f"veri_test.txt: O, 2 lines, SHA-256 {digest}" in capsys.readouterr().out
    with pytest.raises(ValueError, match=f"came with SHA-256 {digest}, the list says 000"):
        prepare("--download_lists", "original-clean", *flags)
    (tmp_path / "veri_test.txt").write_text("1 a c\n0 a b\n")
    with pytest.raises(ValueError, match="its SHA-256 is .* delete it"):
        prepare("--download_lists", "O", *flags)
    (lists / "trials.txt").write_text("O veri_test.txt 2 abc\n")
    with pytest.raises(ValueError, match="trials.txt, line 1: 'abc' is no MD5 of 32 hexadecimal digits, nor a SHA-256"):
        prepare("--download_lists", "O", *flags)
