"""Prepare data: VoxCeleb, MUSAN and rooms, the synthetic demo corpus, lists of any folder of audio.

    python dataprep.py --save_path data --download --user USERNAME --password PASSWORD
    python dataprep.py --save_path data --extract
    python dataprep.py --save_path data --convert
    python dataprep.py --save_path data --augment
    python dataprep.py --save_path data --download_lists O,O-clean,vox2-train
    python dataprep.py --synthetic --save_path data
    python dataprep.py --make_lists data/my_corpus --test_speakers 40
    python dataprep.py --pack data/train_list.txt --pack_from data/voxceleb2 --pack_to data/packed/voxceleb2

Several stages given at once run in the order of main(). Every stage goes on where it was stopped, and leaves finished
files alone. docs/data.md explains them step by step.
"""

from pathlib import Path

from audio.lists import read_recordings
from corpora import archives, download, musan_rirs, packing, parts, synthetic, trials, voxceleb
from corpora.progress import follow, in_parallel
from engine.args import add_bool, make_parser, parse
from engine.log import run_main

# ---------------------------------------------------------------- flags


def make_flags():
    """Return the parser: stages, then the options of each."""
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("--save_path", default="data", help="folder below which stages write")
    parser.add_argument("--workers", type=int, default=0, help="processes (0: one per core)")
    parser.add_argument("--seed", type=int, default=10, help="of the synthetic corpus and of the lists")

    stages = parser.add_argument_group("stages")
    add_bool(stages, "--augment", help="fetch and unpack MUSAN and RIRS_NOISES, and cut MUSAN into windows of 5 s")
    add_bool(stages, "--download", help="fetch VoxCeleb 1 and 2, and check every file")
    add_bool(stages, "--extract", help="join and unpack VoxCeleb into voxceleb1/ and voxceleb2/ id/video/file")
    add_bool(stages, "--convert", help="convert the .m4a files of voxceleb2 to .wav with ffmpeg")
    stages.add_argument(
        "--download_lists",
        default="",
        metavar="NAMES",
        help="fetch published lists, comma-separated: O, E, H (VoxCeleb1 trials), O-clean, E-clean, H-clean, "
        "vox2-train, or all",
    )
    stages.add_argument(
        "--pack",
        default="",
        metavar="LIST",
        help="write the recordings of a train or trial list as packed audio, which loads many times faster; give the "
        "folder --pack_to as --train_path or --test_path then",
    )
    add_bool(stages, "--synthetic", help="write the synthetic corpus, with noise, rooms and lists, below --save_path")
    stages.add_argument(
        "--make_lists",
        default="",
        metavar="FOLDER",
        help="write train_list.txt, veri_dev.txt and veri_test.txt for the tree speaker/session/file in FOLDER",
    )

    download.add_arguments(parser)
    parts.add_arguments(parser)

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


def convert(args):
    """Convert VoxCeleb2 on all cores, speaker by speaker."""
    speakers = voxceleb.speaker_folders(Path(args.save_path) / "voxceleb2")
    made, there, failures = zip(*in_parallel(voxceleb.convert, speakers, args.workers, "convert", "speaker"))
    print(voxceleb.report(Path(args.save_path), sum(made), sum(there), sum(failures, [])))


def download_lists(args):
    """Fetch the published lists that were asked for."""
    how = download.access(args, "--lists_prefix", credentials=False)
    for item in parts.chosen_lists(args.parts_path, args.download_lists):
        follow(voxceleb.fetch_list(item, Path(args.save_path), args.lists_prefix, how), item.part.name)
        print(f"{args.save_path}/{item.part.name}: {item.name}, {item.lines} lines")


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
    asked = (args.augment, args.download, args.download_lists, args.extract, args.convert)
    if not any((*asked, args.synthetic, args.make_lists, args.pack)):
        raise ValueError(
            "no stage given: --synthetic or --make_lists FOLDER, or --download and others (--help explains them)"
        )
    if args.augment:
        augment(args)
    if args.download:
        how = download.access(args, "--url_prefix")
        for archive in parts.voxceleb_archives(args.parts_path, args.archives):
            fetch(archive, args, args.url_prefix, how)
    if args.download_lists:
        download_lists(args)
    if args.extract:
        for archive in parts.voxceleb_archives(args.parts_path, args.archives):
            unpack(archive, args, voxceleb.place_of(archive))
    if args.convert:
        convert(args)
    if args.synthetic:
        make_synthetic(args)
    if args.make_lists:
        make_lists(args.make_lists, args)
    if args.pack:
        print(packing.pack(read_recordings(args.pack), args.pack_from, args.pack_to, args.workers))


if __name__ == "__main__":
    run_main(main)
