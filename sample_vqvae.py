"""Say recordings again through the codes of a VQ-VAE, in the voice of a label or in their own.

    python sample_vqvae.py CHECKPOINT again.wav --input_file talk.flac --label anna --steps 50 --time_map square
    python sample_vqvae.py CHECKPOINT again --input_file recordings.txt --check_vq --sheet

A list of lines `speaker file`, or a folder of speakers, is said again each in its own voice where --label is left out.
Every recording keeps its length, whatever its rate. A folder goes on where it was stopped; recording i depends on
(--seed, i) alone, however many processes share the work (--distributed). Flags may be written with hyphens too.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in trainSpeakerNet.py

import DiffusionNet
import Resynthesis
from engine import distributed
from engine.args import check_ranges, make_parser, nearest, parse
from engine.log import run_main


def make_flags():
    """Return the parser of the command."""
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("checkpoint_path", help="VQ-VAE, ours or the original")
    parser.add_argument("output_file", help="file of one recording (.wav, .flac or .npz), or folder of several")
    parser.add_argument(
        "--input_file", nargs="+", default=[], metavar="PATH", help="audio files, folders of them, lists or CSV files"
    )
    parser.add_argument(
        "--label", default=None, help="speaker by name, or by number (default: each recording's own, as it is listed)"
    )
    Resynthesis.add_model_arguments(parser)
    Resynthesis.add_arguments(parser)
    return parser


def main(argv=None):
    """Read the flags and run on as many processes as they say."""
    args, given = parse(make_flags(), argv)
    args.given = given
    check_ranges(args, Resynthesis.RANGES)
    Resynthesis.check(args)
    if not args.input_file:
        raise ValueError("--input_file is missing: the recordings to say again")
    return distributed.launch(sample, args)


def sample(args):
    """Say all recordings again, as one process or as one rank of several."""
    device = distributed.device_of(args)
    say = print if distributed.is_main() else lambda line: None
    sources = Resynthesis.find_sources(args.input_file, "--input_file", args.data_path, say)
    model = Resynthesis.load(args, device, say)
    jobs = [job_of(model, source, args) for source in sources]
    Resynthesis.produce(model, jobs, args.output_file, "output_file", args, device, say)


def job_of(model: Resynthesis.Model, source: Resynthesis.Source, args) -> Resynthesis.Job:
    """Return what is wanted of a recording: the voice of --label, else its own speaker's, else none.

    Raises:
        ValueError: there is no such label, or none where the network needs one.
    """
    net, names = model.net, model.card["meta"].get("speakers") or []
    if args.label is not None:
        if net.speakers is None:
            raise ValueError(f"{args.checkpoint_path} was trained without labels: leave out --label")
        label = DiffusionNet.speaker_label(model.card, net, args.label)
        return Resynthesis.Job(source, label, names[label] if names else "")
    if net.speakers is None:
        return Resynthesis.Job(source, None, "")
    if source.speaker in names:
        return Resynthesis.Job(source, names.index(source.speaker), source.speaker)
    if net.none_label:
        return Resynthesis.Job(source, None, "")
    who = f"its speaker {source.speaker!r} is none of the network's{nearest(source.speaker, names)}"
    raise ValueError(f"{source.name}: {who if source.speaker else 'nothing says who speaks'}: give --label")


if __name__ == "__main__":
    run_main(main)
