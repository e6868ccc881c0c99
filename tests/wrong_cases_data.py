"""What a user can get wrong with splits, subsets, trials, lists by identifier and shards; see wrong_cases.py."""

import gzip
import shutil
import tarfile

from tree import train_flags
from wrong_inputs import Case, audio, file, folder, train

from corpora import sharding


def words(*given):
    """Return a maker of a command line of dataprep.py; a function among the words is called with the place."""
    return lambda place: ["--save_path", place.folder, *(word(place) if callable(word) else word for word in given)]


def train_list(place):
    return place.corpus / "train.txt"


def shards(place, **changes):
    """Write the tiny corpus as shards of 9 samples; return their folder."""
    flags = {"shard": place.corpus / "train.txt", "shard_from": str(place.corpus / "wav"), "shard_set": "train",
             "shard_to": str(place.folder / "shards"), "samples_per_shard": 9, "drop_last_shard": False,
             "shard_gzip": False, "seed": 1, "workers": 1}  # fmt: skip
    sharding.shard(type("Flags", (), {**flags, **changes}))
    return place.folder / "shards"


def compressed(place):
    """Shards of which only the compressed copies are there."""
    made = shards(place)
    for path in made.glob("*.tar"):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    return made


def cut(count):
    """Return a maker of shards of which the first `count` are cut off."""

    def make(place):
        made = shards(place)
        for path in sorted(made.glob("*.tar"))[:count]:
            path.write_bytes(path.read_bytes()[:70_000])
        return made

    return make


def twice(place):
    """Shards of which one lies there under two names."""
    made = shards(place)
    shutil.copy(made / "train_shard_000000.tar", made / "train_shard_000009.tar")
    return made


def without_speakers(place):
    """A shard of a file at its top, without labels."""
    path = place.folder / "own-0.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(place.corpus / "wav/spk0/s1/00000.wav", "1.wav")
    return path


def evaluated_on(made):
    """Return a maker of a run whose test files are to come from shards."""
    return lambda place: train_flags(place.corpus, place.folder / "run", max_epoch=1, test_path=made(place))


META = file("meta.csv", "speaker,gender\n" + "".join(f"spk{i},{'mf'[i % 2]}\n" for i in range(8)))
UNSEXED = file("meta.csv", "speaker,gender\nspk0,m\n")
RECORDINGS = file("two.txt", "".join(f"s{i} s{i}/v{j}/1.wav\n" for i in range(4) for j in range(3)))

CASES = {
    "Shards": [
        Case("a folder without shards", train(train_list=folder("empty")), "empty: no such shards"),
        Case("a pattern that fits nothing", train(train_list="gone_*.tar"), "gone_*.tar: no such shards"),
        Case("compressed shards", train(train_list=compressed), "shards: compressed shards, in which no sample can"),
        Case("every shard truncated", train(train_list=cut(4)), "none of 4 shards can be read: "),
        Case(
            "a text file called .tar", train(train_list=file("x0.tar", "text")), "x0.tar: a truncated or damaged shard"
        ),
        Case("a sample in two shards", train(train_list=twice), "both hold a sample spk"),
        Case(
            "samples without speakers",
            train(train_list=without_speakers),
            "own-0.tar: sample 1.wav has neither a label",
        ),
        Case(
            "a list of files of which a shard is damaged",
            train(train_path=cut(1)),
            "shards, 1 of the 4 were damaged and skipped",
        ),
        Case(
            "test files that no shard holds", evaluated_on(cut(2)), "test_list: 18 of 32 files looked at cannot be used"
        ),
        Case("blocks of fewer than no shard", train(shards_per_block=-1), "--shards_per_block -1: must be at least 0"),
        Case("a place of crops that does not exist", train(crop_mode="middle"), "--crop_mode"),
    ],
    "dataprep.py": [
        Case("a split of a list that is not there", words("--split", "gone.txt"), "gone.txt: no such file"),
        Case(
            "a split of speakers with one recording",
            words("--split", train_list),
            "train.txt: speaker spk0 has a single recording (spk0/s1)",
        ),
        Case(
            "a split that takes everybody",
            words("--split", train_list, "--split_mode", "different", "--split_speakers", 8),
            "train.txt has 8 speakers, and some must train",
        ),  # fmt: skip
        Case("a share beyond all", words("--split", train_list, "--split_ratio", 1.5), "--split_ratio 1.5: must be"),
        Case(
            "an utterance listed twice",
            words("--split", file("t.txt", "a a/v/1.wav\na a/v/1.wav\n")),
            "t.txt: a/v/1.wav is listed more than once",
        ),
        Case("an unknown subset", words("--subset", "tiny"), "--subset 'tiny': there are tiny_few, tiny_many_low, "),
        Case("a subset of nothing", words("--subset", "tiny_few"), "full_train.txt: no such file"),
        Case(
            "few speakers without their sexes",
            words("--subset", "tiny_few", "--subset_from", train_list),
            "--subset tiny_few: give the sexes of the speakers, --speaker_meta CSV",
        ),
        Case(
            "more speakers of a sex than there are",
            words("--subset", "tiny_few", "--subset_from", train_list, "--speaker_meta", META),
            "train.txt has 4 of sex f",
        ),
        Case(
            "speakers without a sex",
            words("--subset", "tiny_few", "--subset_from", train_list, "--speaker_meta", UNSEXED),
            "train.txt is not in it, e.g. spk1",
        ),
        Case(
            "more files of a speaker than there are",
            words("--subset", "tiny_many_low", "--subset_from", train_list),
            "train.txt have fewer files, e.g. spk0 with 4",
        ),
        Case(
            "a table without sexes",
            words("--draw_trials", train_list, "--speaker_meta", file("m.csv", "speaker,age\nspk0,3\n")),
            "m.csv: no column gender or sex among speaker, age",
        ),
        Case(
            "a sex that is none",
            words("--draw_trials", train_list, "--speaker_meta", file("m.csv", "speaker,sex\nspk0,x\n")),
            "m.csv, line 2: sex 'x' is neither m nor f",
        ),
        Case("trials of the same sex without a table", words("--draw_trials", train_list), "or --same_sex False"),
        Case(
            "more trials than there are pairs",
            words("--draw_trials", train_list, "--speaker_meta", META),
            "train.txt has 48 pairs of one speaker, 15000 are wanted",
        ),
        Case(
            "trials across recordings where there is one",
            words("--draw_trials", train_list, "--same_sex", False, "--diff_recording", "--num_pairs", 4),
            "has 0 pairs of one speaker from different recordings",
        ),
        Case("one trial", words("--draw_trials", train_list, "--num_pairs", 1), "--num_pairs 1: must be at least 2"),
        Case(
            "a list by identifier with a wrong line",
            words("--subset_list", file("ids.txt", "a/v/1\na/v/2 x\n")),
            "ids.txt, line 2: expected `speaker/recording/utterance`, found 'a/v/2 x'",
        ),
        Case(
            "a trial whose label contradicts its speakers",
            words("--subset_list", file("trials.txt", "0 a/v/1 b/v/1\n1 a/v/1 b/v/1\n")),
            "trials.txt, line 2: label 1 contradicts its speakers a and b",
        ),
        Case(
            "a gzip file cut off",
            words("--subset_list", file("ids.txt.gz", gzip.compress(b"a/v/1\n" * 99)[:20])),
            "ids.txt.gz: not a whole gzip file",
        ),
        Case(
            "identifiers that the list lacks",
            words("--subset_list", file("ids.txt", "x/v/1\n"), "--subset_from", train_list),
            "ids.txt: 1 of 1 utterances are not in the list they are chosen from, e.g. x/v/1.wav",
        ),
        Case(
            "a table of speakers that is none",
            words("--normalise_meta", file("vox2_meta.csv", "id00012 m dev\n")),
            "vox2_meta.csv: no column voxceleb_id",
        ),
        Case(
            "lists with a common utterance",
            words("--check_disjoint", RECORDINGS, file("val.txt", "s0 s0/v0/1.wav\n")),
            "val.txt have 1 utterances in common, e.g. s0/v0/1.wav",
        ),
        Case(
            "lists with a common recording",
            words("--check_disjoint", RECORDINGS, file("val.txt", "s0 s0/v0/2.wav\n")),
            "val.txt have 1 recordings in common, e.g. s0/v0",
        ),
        Case(
            "a training speaker in the test list",
            words("--check_disjoint", RECORDINGS, file("test.txt", "1 s3/w/1.wav s3/w/2.wav\n"), "--disjoint_speakers"),
            "test.txt have 1 speakers in common, e.g. s3",
        ),
        Case(
            "shards of a list that another has filled",
            lambda place: ["--shard", train_list(place), "--shard_from", place.corpus, "--shard_to", shards(place)],
            "shards already holds shards of another list, folder, set or seed: choose another --shard_to",
        ),
        Case(
            "recordings in shards of which none can be read",
            words("--shard", train_list, "--shard_from", folder("empty"), "--shard_to", folder("s"), "--workers", 1),
            "no recording could be read: ",
        ),
        Case(
            "a name that the webdataset library would cut",
            words("--shard", file("t.txt", "a a/v/1.b.wav\n")),
            "t.txt: a/v/1.b.wav: the webdataset library ends a key at the first dot of the name: rename it",
        ),
        Case(
            "shards of nothing", words("--shard", train_list, "--samples_per_shard", 0), "--samples_per_shard 0: must"
        ),
        Case(
            "fewer recordings than a shard, without the last one",
            words("--shard", train_list, "--shard_from", audio(b""), "--drop_last_shard"),
            "train.txt do not fill a shard of --samples_per_shard 5000",
        ),
        Case(
            "evaluation lists by a wrong name",
            words("--download_lists", "medium"),
            "--download_lists 'medium': there are all, O (veri_test.txt), ",
        ),
    ],
}
