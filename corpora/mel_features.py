"""Write the features of feature autoencoders (audio/mel_cache.py) of a list or folder, computed once for all epochs.
Entry points: add_arguments, fill.
"""

from tqdm import tqdm

from audio.wave_sources import find_recordings
from corpora.disk import full_disk_named

# as audio.mel_cache.TYPES and audio.log_mel.GRIDS, which would load torch for every other stage
TYPES, GRIDS = ("float16", "float32"), ("511", "512")


def add_arguments(parser, stages):
    """Add the stage and its flags."""
    stages.add_argument(
        "--mel_cache",
        default="",
        metavar="SOURCE",
        help="write log-mel features, normalised, with speech decisions, of a train list or a folder of speakers",
    )
    group = parser.add_argument_group("cache of features")
    group.add_argument("--mel_from", default="", help="prefix of the paths in the list of --mel_cache")
    group.add_argument("--mel_to", default="data/mel", help="folder of the features, 58 MB for each hour in float16")
    group.add_argument("--mel_type", choices=TYPES, default="float16", help="type of the numbers kept")
    group.add_argument(
        "--mel_grid", choices=GRIDS, default="511", help="511: FFT bin j at j/511 of the rate as in published systems"
    )
    group.add_argument(
        "--mel_dither", type=float, default=1.0, help="noise added, in steps of 16-bit samples (0: none)"
    )


def fill(args, say=print):
    """Write the features of --mel_cache to --mel_to.

    Raises:
        FileNotFoundError, ValueError: nothing that can be read. OSError: the disk is full.
    """
    from audio.log_mel import LogMel
    from audio.mel_cache import write_cache

    found = find_recordings(args.mel_cache, args.mel_from)
    for line in (found.describe(), *found.list.notes):
        say(line)
    front_end = LogMel(grid=args.mel_grid, dither=args.mel_dither)
    with full_disk_named(args.mel_to), tqdm(total=len(found.seconds), unit="utterance", disable=None) as bar:
        for done, _ in write_cache(args.mel_to, found.list, front_end, "cpu", args.mel_type, found.seconds, say):
            bar.update(done - bar.n)
