"""Let other voices say what recordings say, and judge it; or search for the voice that is most like a recording's.

    python voice_swap.py CHECKPOINT --source talk.flac --to anna --out swapped.wav --steps 50 --time_map square
    python voice_swap.py CHECKPOINT --source talks --to anna bert --out swapped --verifier V --speakers_list real.txt
    python voice_swap.py CHECKPOINT --search --input_file stranger.wav

Every source is said in every voice of --to: sources first, then voices, as manifest.csv says. A folder goes on where it
was stopped; recording i depends on (--seed, i) alone. Flags may be written with hyphens too, as --input-file.
"""

import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in trainSpeakerNet.py

import numpy as np

import DiffusionNet
import Resynthesis
import SpeakerNet
import VoiceJudgement
import VoiceSearch
from audio.inputs import READABLE
from audio.lists import check_files
from engine import distributed
from engine.args import add_bool, check_ranges, make_parser, nearest, parse
from engine.log import run_main
from scoring.summary import write_rows

RANGES = {**Resynthesis.RANGES, **VoiceSearch.RANGES, **VoiceJudgement.RANGES}
SEARCH_BATCH = 16  # predictions at once of --search, unless --batch_size says otherwise
OF_SEARCH = ("input_file", "top_k")
# what --search has in common with swapping
IN_COMMON = (
    "checkpoint_path", "out", "search", "num_timesteps", "num_seeds", "seconds", "no_vq", "ema", "noise_schedule",
    "encoding", "none_label", "sample_rate", "seed", "batch_size", "device", "gpu_id", "distributed", "nproc", "port",
    "silence_seconds", "mixedprec",
)  # fmt: skip


def make_flags():
    """Return the parser of the command."""
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("checkpoint_path", help="VQ-VAE with labels, ours or the original")
    swap = parser.add_argument_group("voices")
    swap.add_argument("--source", nargs="+", default=[], metavar="PATH", help="what is said: audio, folders or lists")
    swap.add_argument(
        "--to", nargs="+", default=[], metavar="VOICE",
        help="speakers by name or number; a list of lines `speaker file`, for all its speakers; or an audio file, for "
        "the voice that --search finds",
    )  # fmt: skip
    swap.add_argument("--out", default="", help="the file of one source and voice, or the folder; of --search a .csv")
    search = parser.add_argument_group("voice search")
    add_bool(
        search, "--search", help="list the voices most like --input_file; batches of 16 unless --batch_size is given"
    )
    search.add_argument("--input_file", default="", help="the recording whose voice is searched")
    VoiceSearch.add_arguments(search)
    search.add_argument("--top_k", type=int, default=20, help="voices that are listed")
    VoiceJudgement.add_arguments(parser.add_argument_group("judgement"))
    Resynthesis.add_model_arguments(parser)
    Resynthesis.add_arguments(parser)
    return parser


def main(argv=None):
    """Read the flags and run on as many processes as they say."""
    args, given = parse(make_flags(), argv)
    args.given = given
    check_ranges(args, RANGES)
    check_together(args)
    return distributed.launch(find if args.search else swap, args)


def check_together(args):
    """Refuse flags that lack or exclude each other.

    Raises:
        ValueError: which, and what to do.
    """
    Resynthesis.check(args)
    if args.search:
        idle = [name for name in args.given if name not in (*IN_COMMON, *OF_SEARCH)]
        needed = ("input_file",)
    else:
        idle = [name for name in args.given if name in OF_SEARCH]
        needed = ("source", "to", "out")
    if idle:
        raise ValueError(f"--{idle[0]} is {'not ' * args.search}of --search")
    for name in needed:
        if not getattr(args, name):
            raise ValueError(f"--{name} is missing{' for --search' * args.search} (--help lists all flags)")
    if args.search and args.out and not args.out.endswith(".csv"):
        raise ValueError(f"--out {args.out}: of --search it is a table and ends in .csv")
    if args.search and "batch_size" not in args.given:
        args.batch_size = SEARCH_BATCH
    VoiceJudgement.check(args)


# ---------------------------------------------------------------- swapping


def swap(args):
    """Make all recordings, as one process or as one rank of several, and judge them."""
    device = distributed.device_of(args)
    say = print if distributed.is_main() else lambda line: None
    sources = Resynthesis.find_sources(args.source, "--source", args.data_path, say)
    model = Resynthesis.load(args, device, say)
    voices = voices_of(model, args, device, say)
    names = names_of(model)
    jobs = [Resynthesis.Job(source, label, names[label]) for source in sources for label in voices]
    verifier = None
    if args.verifier:
        verifier = SpeakerNet.load(args.verifier, device)
        real = VoiceJudgement.real_speech(jobs, voices, args, say)
    paths = Resynthesis.produce(model, jobs, args.out, "--out", args, device, say)
    if verifier is not None:
        VoiceJudgement.judge(verifier, jobs, paths, real, args, device)


def names_of(model: Resynthesis.Model) -> list[str]:
    """Return the names of the voices, their numbers where the network knows none."""
    return model.card["meta"].get("speakers") or [str(label) for label in range(model.net.speakers or 0)]


def voices_of(model: Resynthesis.Model, args, device, say) -> dict[int, list[str]]:
    """Return {label: real recordings of the voice that came with it} of the voices of --to, in their order.

    Raises:
        FileNotFoundError, ValueError: there is no such voice or file.
    """
    names, voices, searched = names_of(model), {}, False
    if not names:
        raise ValueError(f"{args.checkpoint_path} was trained without labels: it has one voice, its codes'")
    for word in args.to:
        if word in names or not os.path.isfile(word):
            voices.setdefault(DiffusionNet.speaker_label(model.card, model.net, word), [])
        elif word.lower().endswith(READABLE):
            errors, searched = VoiceSearch.label_errors(model, word, args, device), True
            label = int(errors.argmin())
            say(f"--to {word}: the voice most like it is {names[label]}, label {label}, error {errors[label]:.5f}")
            voices.setdefault(label, []).append(word)
        else:
            for source in Resynthesis.find_sources([word], "--to", args.data_path, say):
                if source.speaker not in names:
                    what = f"speaker {source.speaker!r}" if source.speaker else "a recording without speaker"
                    raise ValueError(f"--to {word}: {what} is no voice of the network{nearest(source.speaker, names)}")
                voices.setdefault(names.index(source.speaker), []).append(source.path)
    for name in ("num_timesteps", "num_seeds"):
        if name in args.given and not searched:
            raise ValueError(f"--{name} is of a voice search: --search, or an audio file in --to")
    return voices


# ---------------------------------------------------------------- search


def find(args):
    """List the voices most like --input_file, as one process or as one rank of several."""
    device = distributed.device_of(args)
    say = print if distributed.is_main() else lambda line: None
    for line in check_files("--input_file", [args.input_file]):
        say(line)
    model = Resynthesis.load(args, device, say)
    errors, names = VoiceSearch.label_errors(model, args.input_file, args, device), names_of(model)
    rows = [
        {"rank": rank, "label": label, "speaker": names[label], "error": f"{errors[label]:.6f}"}
        for rank, label in enumerate(np.argsort(errors, kind="stable")[: args.top_k].tolist(), 1)
    ]
    say(f"{len(errors)} voices, mean error {errors.mean():.6f}; the ones with the least:")
    for row in rows:
        say(f"{row['rank']:4}  {row['error']}  label {row['label']}  {row['speaker']}")
    if args.out and distributed.is_main():
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        write_rows(args.out, rows, tuple(rows[0]), ())
        print(f"written: {args.out}")


if __name__ == "__main__":
    run_main(main)
