"""Prepare data: the synthetic demo corpus, and train and trial lists of any folder of audio.

    python dataprep.py --synthetic --save_path data
    python dataprep.py --make_lists data/my_corpus --test_speakers 40

Several stages given at once run in the order of this page: synthetic voices with their noise and rooms and lists, then
the lists of --make_lists. Every stage goes on where it was stopped, and leaves finished files alone.
"""

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tqdm import tqdm

from corpora import synthetic, trials
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
    add_bool(stages, "--synthetic", help="write the synthetic corpus, with noise, rooms and lists, below --save_path")
    stages.add_argument(
        "--make_lists",
        default="",
        metavar="FOLDER",
        help="write train_list.txt, veri_dev.txt and veri_test.txt for the tree speaker/session/file in FOLDER",
    )

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


# ---------------------------------------------------------------- stages


def make_synthetic(args):
    """Write the synthetic corpus on all cores, and its lists."""
    names = synthetic.Parameters._fields
    parameters = synthetic.Parameters(**{name: getattr(args, name) for name in names})
    jobs = synthetic.plan(parameters, args.save_path)
    with ProcessPoolExecutor(args.workers or None) as pool:
        for _ in tqdm(pool.map(synthetic.write, jobs), "synthetic corpus", len(jobs), unit="session", disable=None):
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
    if not (args.synthetic or args.make_lists):
        raise ValueError("no stage given: --synthetic or --make_lists FOLDER (--help explains them)")
    if args.synthetic:
        make_synthetic(args)
    if args.make_lists:
        make_lists(args.make_lists, args)


if __name__ == "__main__":
    run_main(main)
