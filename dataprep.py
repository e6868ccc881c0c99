"""Prepare data: VoxCeleb, MUSAN and rooms, the synthetic demo corpus, lists of any folder of audio.

    python dataprep.py --save_path data --download --user USERNAME --password PASSWORD
    python dataprep.py --save_path data --extract
    python dataprep.py --save_path data --convert
    python dataprep.py --save_path data --augment
    python dataprep.py --save_path data --download_lists O,O-clean,vox2-train
    python dataprep.py --download librispeech --archives train-clean-100,dev-clean --save_path data
    python dataprep.py --combine data/LibriSpeech/train-clean-100 data/my_corpus
    python dataprep.py --synthetic --save_path data
    python dataprep.py --make_lists data/my_corpus --test_speakers 40
    python dataprep.py --split data/train_list.txt
    python dataprep.py --subset tiny_few,tiny_many_high --speaker_meta data/vox2_meta.csv
    python dataprep.py --draw_trials data/full_val.txt --speaker_meta data/vox2_meta.csv
    python dataprep.py --pack data/train_list.txt --pack_from data/voxceleb2 --pack_to data/packed/voxceleb2
    python dataprep.py --mel_cache data/train_list.txt --mel_from data/voxceleb2 --mel_to data/mel/voxceleb2
    python dataprep.py --shard data/tiny_few_train.txt --shard_from data/voxceleb2 --shard_to data/shards/tiny_few

Several stages given at once run in the order of main(). Every stage goes on where it was stopped, and leaves finished
files alone. docs/data.md explains them step by step.
"""

from pathlib import Path

import numpy as np

from audio.lists import read_recordings
from corpora import (
    archives,
    download,
    id_lists,
    librispeech,
    mel_features,
    meta,
    musan_rirs,
    packing,
    pairs,
    parts,
    sharding,
    subsets,
    synthetic,
    trials,
    voxceleb,
    wave_folders,
)
from corpora.progress import follow, in_parallel
from engine.args import add_bool, check_ranges, make_parser, parse
from engine.log import run_main

# Numbers that make sense, see engine.args.check_ranges.
RANGES = {
    "split_ratio": (0, 1), "split_speakers": (1, None), "speakers_per_sex": (1, None), "files_per_speaker": (1, None),
    "files_per_recording": (1, None), "num_pairs": (2, None), "samples_per_shard": (1, None), "workers": (0, 1024),
    "mel_dither": (0, None),
}  # fmt: skip

# ---------------------------------------------------------------- flags


def make_flags():
    """Return the parser: stages, then the options of each."""
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("--save_path", default="data", help="folder below which stages write")
    parser.add_argument("--workers", type=int, default=0, help="processes (0: one per core)")
    parser.add_argument("--seed", type=int, default=10, help="of the synthetic corpus and of the lists")

    stages = parser.add_argument_group("stages")
    add_bool(stages, "--augment", help="fetch and unpack MUSAN and RIRS_NOISES, and cut MUSAN into windows of 5 s")
    add_bool(stages, "--extract", help="join and unpack VoxCeleb into voxceleb1/ and voxceleb2/ id/video/file")
    add_bool(stages, "--convert", help="convert the .m4a files of voxceleb2 to .wav with ffmpeg")
    stages.add_argument(
        "--download_lists",
        default="",
        metavar="NAMES",
        help="fetch published lists, comma-separated: O, E, H (VoxCeleb1 trials; also original, extended, hard), "
        "O-clean, E-clean, H-clean (original-clean, ...), vox2-train, or all",
    )
    stages.add_argument(
        "--normalise_meta",
        nargs="+",
        default=[],
        metavar="CSV",
        help="rewrite vox1_meta.csv, vox2_meta.csv as voxceleb_id,vggface_id,gender,nationality,set; twice is harmless",
    )
    stages.add_argument(
        "--split", default="", metavar="LIST", help="split a train list into SAVE_PATH/full_train.txt and full_val.txt"
    )
    stages.add_argument(
        "--subset",
        default="",
        metavar="NAMES",
        help="choose subsets by their rules, comma-separated: tiny_few, tiny_many_low, tiny_many_high; writes "
        "SAVE_PATH/NAME_train.txt and NAME_val.txt",
    )
    stages.add_argument(
        "--subset_list",
        nargs="+",
        default=[],
        metavar="FILE",
        help="make train or trial lists of lists by identifier, `speaker/recording/utterance` or `label file file`, "
        "plain or .gz",
    )
    stages.add_argument(
        "--draw_trials", default="", metavar="LIST", help="draw trials over a train list: SAVE_PATH/ITS_NAME_trials.txt"
    )
    stages.add_argument(
        "--check_disjoint",
        nargs="+",
        default=[],
        metavar="LIST",
        help="refuse train and trial lists of which two share an utterance or a recording",
    )
    stages.add_argument(
        "--pack",
        default="",
        metavar="LIST",
        help="write the recordings of a train or trial list as packed audio, which loads many times faster; give the "
        "folder --pack_to as --train_path or --test_path then",
    )
    stages.add_argument(
        "--shard",
        default="",
        metavar="LIST",
        help="write the recordings of a train or trial list as tar files that the webdataset library reads too; give "
        "the folder --shard_to as --train_list, or as the prefix of a list's paths, then",
    )
    add_bool(stages, "--synthetic", help="write the synthetic corpus, with noise, rooms and lists, below --save_path")
    stages.add_argument(
        "--make_lists",
        default="",
        metavar="FOLDER",
        help="write train_list.txt, veri_dev.txt and veri_test.txt for the tree speaker/session/file in FOLDER",
    )

    download.add_arguments(parser)
    parts.add_arguments(parser, stages)
    wave_folders.add_arguments(stages)
    mel_features.add_arguments(parser, stages)

    group = parser.add_argument_group("splits, subsets and trials")
    group.add_argument(
        "--split_mode",
        choices=("equal", "different"),
        default="equal",
        help="validation of --split: equal: some recordings of every speaker; different: all of the last speakers",
    )
    group.add_argument(
        "--split_list", default="", metavar="FILE", help="validation by identifier, plain or .gz, in place of a draw"
    )
    group.add_argument("--split_ratio", type=float, default=0.01, help="share of every speaker's files to be exceeded")
    group.add_argument("--split_speakers", type=int, default=40, help="speakers of --split_mode different")
    group.add_argument(
        "--subset_from",
        default="",
        metavar="LIST",
        help="train list that --subset chooses from (default: SAVE_PATH/full_train.txt), and in which all utterances "
        "of --subset_list must be (default: not looked for)",
    )
    group.add_argument(
        "--subset_val",
        default="",
        metavar="LIST",
        help="validation list; a subset keeps that of its speakers (default: SAVE_PATH/full_val.txt, if it is there)",
    )
    group.add_argument("--speakers_per_sex", type=int, help="of tiny_few (default: 50)")
    group.add_argument("--files_per_speaker", type=int, help="of tiny_many_low and tiny_many_high (default: 8)")
    group.add_argument(
        "--files_per_recording", type=int, help="of the same, taken in one turn (default: 8 for low, 1 for high)"
    )
    group.add_argument(
        "--speaker_meta", default="", metavar="CSV", help="table with a column of speakers and one of sex or gender"
    )
    group.add_argument("--id_suffix", default=".wav", help="of the files that --subset_list names without one")
    group.add_argument("--num_pairs", type=int, default=30000, help="trials of --draw_trials, half of them targets")
    add_bool(group, "--same_sex", default=True, help="different speakers of a trial have the same sex")
    add_bool(group, "--diff_recording", help="the files of a target trial come from different recordings")
    add_bool(group, "--disjoint_speakers", help="--check_disjoint refuses common speakers too")

    sharding.add_arguments(parser)
    pack = parser.add_argument_group("packed audio")
    pack.add_argument("--pack_from", default="data/voxceleb2", help="prefix of the paths in the list of --pack")
    pack.add_argument("--pack_to", default="data/packed", help="folder of the packed audio, 115 MB for each hour")

    corpus = parser.add_argument_group("synthetic corpus")
    corpus.add_argument("--speakers", type=int, default=120, help="speakers, the held-out ones included")
    corpus.add_argument("--sessions", type=int, default=3, help="sessions per speaker: room, microphone, noise, mood")
    corpus.add_argument("--utterances", type=int, default=2, help="utterances per session")
    corpus.add_argument("--seconds", type=float, default=2.5, help="length of an utterance")

    lists = parser.add_argument_group("lists")
    lists.add_argument("--test_speakers", type=int, help="held out for veri_test.txt (default: a tenth, at least 2)")
    lists.add_argument("--dev_speakers", type=int, help="held out for veri_dev.txt (default: a tenth, at least 2)")
    lists.add_argument(
        "--trials_per_speaker", type=int, default=200, help="half of them targets, where there are so many"
    )
    add_bool(
        lists, "--cross_session", default=True, help="pair different sessions of a speaker where there are several"
    )
    return parser


# ---------------------------------------------------------------- archives


def fetch(archive, args, prefix, how):
    """Fetch the parts of an archive that are not there, unless it is joined or unpacked already."""
    folder = Path(args.save_path)
    if archives.is_unpacked(archive, folder) or (archive.split and (folder / archive.name).is_file()):
        print(f"{folder / archive.name}: is there, or unpacked, already")
        return
    for part in archive.parts:
        follow(download.fetch(parts.url_of(part, prefix), folder / part.name, part.md5, how), part.name)
        print(f"{folder / part.name}: MD5 as listed")


def unpack(archive, args, place):
    """Join, check and unpack an archive, unless that is done."""
    folder = Path(args.save_path)
    if not archives.is_unpacked(archive, folder):
        follow(archives.join(archive, folder), archive.name)
        follow(archives.unpack(archive, folder, place), archive.name)
    print(f"{folder / archive.name}: unpacked; the archive may be deleted")


# ---------------------------------------------------------------- stages


def augment(args):
    """Fetch and unpack noise and rooms, and cut MUSAN into windows."""
    how = download.access(args, "--openslr_prefix", credentials=False)
    for archive in parts.augment_archives(args.parts_path):
        fetch(archive, args, args.openslr_prefix, how)
        unpack(archive, args, musan_rirs.place)
    files = musan_rirs.musan_files(Path(args.save_path))
    windows = list(in_parallel(musan_rirs.split, files, args.workers, "musan_split", "file"))
    print(f"{args.save_path}/musan_split: {sum(windows)} windows; {windows.count(0)} of {len(files)} files too short")


def fetch_librispeech(args):
    """Fetch and unpack the parts of LibriSpeech that were asked for."""
    how = download.access(args, "--openslr_prefix", credentials=False)
    for archive in librispeech.archives(args.parts_path, args.archives):
        fetch(archive, args, args.openslr_prefix, how)
        unpack(archive, args, librispeech.place)
        print("\n".join(librispeech.summary(archive, Path(args.save_path))))


def convert(args):
    """Convert VoxCeleb2 on all cores, speaker by speaker."""
    speakers = voxceleb.speaker_folders(Path(args.save_path) / "voxceleb2")
    made, there, failures = zip(*in_parallel(voxceleb.convert, speakers, args.workers, "convert", "speaker"))
    print(voxceleb.report(Path(args.save_path), sum(made), sum(there), sum(failures, [])))


def download_lists(args):
    """Fetch the published lists that were asked for."""
    how = download.access(args, "--lists_prefix", credentials=False)
    for item in parts.chosen_lists(args.parts_path, args.download_lists):
        digest = follow(voxceleb.fetch_list(item, Path(args.save_path), args.lists_prefix, how), item.part.name)
        print(f"{args.save_path}/{item.part.name}: {item.name}, {item.lines} lines, SHA-256 {digest}")


def write_list(args, name, text, line):
    """Write a list below --save_path and print what it holds."""
    path = Path(args.save_path) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    trials.replace(path, text)
    print(f"{path}: {line}")


def split(args):
    """Split a train list into one for training and one for validation."""
    corpus = subsets.read_corpus(args.split)
    if args.split_list:
        text, _ = id_lists.convert(args.split_list, args.id_suffix, corpus.paths)
        held_out = np.isin(corpus.paths, text.split()[1::2])
    else:
        held_out = subsets.split(corpus, args)
    for name, chosen in (("full_train.txt", ~held_out), ("full_val.txt", held_out)):
        write_list(args, name, subsets.list_text(corpus, chosen), subsets.describe(corpus, chosen))


def subset(args):
    """Choose subsets of a train list by their rules, with the validation files of their speakers."""
    names = [name.strip() for name in args.subset.split(",")]
    subsets.check_names(names)
    folder = Path(args.save_path)
    corpus = subsets.read_corpus(args.subset_from or folder / "full_train.txt")
    given = args.subset_val or ("full_val.txt" if (folder / "full_val.txt").is_file() else "")
    val = subsets.read_corpus(args.subset_val or folder / given) if given else None
    sexes = meta.read_sexes(args.speaker_meta) if args.speaker_meta else None
    for name in names:
        chosen = subsets.choose(name, corpus, sexes, args)
        write_list(args, f"{name}_train.txt", subsets.list_text(corpus, chosen), subsets.describe(corpus, chosen))
        if val is not None:
            own = subsets.of_speakers(val, {corpus.speakers[i] for i in set(corpus.speaker[chosen].tolist())})
            write_list(args, f"{name}_val.txt", subsets.list_text(val, own), subsets.describe(val, own))
            lists = [id_lists.contents_of(folder / f"{name}_{part}.txt") for part in ("train", "val")]
            subsets.check_disjoint(lists)


def convert_id_lists(args):
    """Make lists of published lists by identifier."""
    known = read_recordings(args.subset_from) if args.subset_from else None
    for path in args.subset_list:
        text, line = id_lists.convert(path, args.id_suffix, known)
        write_list(args, id_lists.name_of(path), text, line)


def draw_trials(args):
    """Draw trials over a validation list."""
    if args.same_sex and not args.speaker_meta:
        raise ValueError("--draw_trials: give the sexes of the speakers, --speaker_meta CSV, or --same_sex False")
    corpus = subsets.read_corpus(args.draw_trials)
    sexes = meta.read_sexes(args.speaker_meta) if args.same_sex else None
    drawn = pairs.draw_pairs(corpus, args.num_pairs, args.seed, sexes, args.diff_recording)
    line = f"{args.num_pairs} trials, {len(drawn[0])} targets, of {len(corpus.speakers)} speakers"
    write_list(args, f"{Path(args.draw_trials).stem}_trials.txt", pairs.trials_text(corpus, *drawn), line)


def make_synthetic(args):
    """Write the synthetic corpus on all cores, and its lists."""
    names = synthetic.Parameters._fields
    jobs = synthetic.plan(synthetic.Parameters(**{name: getattr(args, name) for name in names}), args.save_path)
    for _ in in_parallel(synthetic.write, jobs, args.workers, "synthetic corpus", "session"):
        pass
    folder = Path(args.save_path) / synthetic.VOICES
    print(f"{folder}: {', '.join(f'{name} {getattr(args, name)}' for name in names)}")
    make_lists(folder, args)


def make_lists(folder, args):
    """Write the lists of a folder and print what they hold."""
    options = ("test_speakers", "dev_speakers", "trials_per_speaker", "cross_session", "seed")
    for line in trials.make_lists(folder, **{name: getattr(args, name) for name in options}):
        print(line)


# ---------------------------------------------------------------- run


def main():
    """Run the stages asked for."""
    args, _ = parse(make_flags())
    check_ranges(args, RANGES)
    asked = [args.augment, args.download, args.download_lists, args.extract, args.convert, args.synthetic]
    asked += [args.normalise_meta, args.split, args.subset, args.subset_list, args.draw_trials, args.check_disjoint]
    if not any((*asked, args.make_lists, args.pack, args.shard, args.combine, args.index, args.mel_cache)):
        raise ValueError(
            "no stage given: --synthetic or --make_lists FOLDER, or --download and others (--help explains them)"
        )
    if args.augment:
        augment(args)
    if args.download == "librispeech":
        fetch_librispeech(args)
    elif args.download:
        how = download.access(args, "--url_prefix")
        for archive in parts.voxceleb_archives(args.parts_path, args.archives):
            fetch(archive, args, args.url_prefix, how)
    if args.download_lists:
        download_lists(args)
    if args.extract and args.download != "librispeech":  # which is unpacked by now
        for archive in parts.voxceleb_archives(args.parts_path, args.archives):
            unpack(archive, args, voxceleb.place_of(archive))
    if args.convert:
        convert(args)
    if args.synthetic:
        make_synthetic(args)
    if args.make_lists:
        make_lists(args.make_lists, args)
    for path in args.normalise_meta:
        trials.replace(Path(path), meta.normalise_meta(path))
        print(f"{path}: normalised")
    for stage in (split, subset, draw_trials):
        if getattr(args, stage.__name__):
            stage(args)
    if args.subset_list:
        convert_id_lists(args)
    if args.check_disjoint:
        lists = [id_lists.contents_of(path) for path in args.check_disjoint]
        print("\n".join(subsets.check_disjoint(lists, args.disjoint_speakers)))
    if args.combine:
        text, found = wave_folders.combine(args.combine)
        write_list(args, "combined.txt", text, found.describe())
    if args.index:
        print("\n".join(wave_folders.index(args.index)))
    if args.pack:
        print(packing.pack(read_recordings(args.pack), args.pack_from, args.pack_to, args.workers))
    if args.shard:
        print(sharding.shard(args))
    if args.mel_cache:
        mel_features.fill(args)


if __name__ == "__main__":
    run_main(main)
