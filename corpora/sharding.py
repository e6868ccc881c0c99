"""Write tar shards that the webdataset library reads: recordings, their bytes unchanged, each with a JSON label.
Entry points: shard(args) with the flags of add_arguments, and plan(), which says what goes where.

Within a shard no speaker comes again before every speaker with files left has come. A run cut off goes on with the next
shard.
"""

import gzip
import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np

from audio.io import SAMPLE_RATE, AudioFile
from audio.lists import join
from audio.names import Names
from audio.shard_index import AUDIO, read_index
from corpora.disk import claim, full_disk_named, write_whole
from corpora.id_lists import names_and_speakers
from corpora.progress import in_parallel

BAD_FILES = "bad_files.txt"


def add_arguments(parser):
    """Add the flags of shards."""
    group = parser.add_argument_group("shards")
    group.add_argument("--shard_from", default="data/voxceleb2", help="prefix of the paths in the list of --shard")
    group.add_argument("--shard_to", default="data/shards", help="folder of the shards, one for each list")
    group.add_argument(
        "--shard_set", choices=("train", "val", "test"), default="train", help="first word of their names"
    )
    group.add_argument("--samples_per_shard", type=int, default=5000, help="recordings in a shard")
    parser.add_bool("--drop_last_shard", help="shards: leave out the last one where it is not full")
    parser.add_bool(
        "--shard_gzip", help="shards: a .tar.gz beside each, for transport; only the .tar can be trained from"
    )


def plan(labels: np.ndarray, samples_per_shard: int, seed: int) -> list[np.ndarray]:
    """Return the utterances of each shard in their order: rounds of one random file of every speaker with files left.

    The speakers of a round come in random order; each shard begins a new round.
    """
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(labels))
    queue = order[np.argsort(labels[order], kind="stable")]
    left = np.bincount(labels)
    following = np.cumsum(left) - left
    shards = []
    while (able := np.flatnonzero(left)).size:
        rounds, room = [], samples_per_shard
        while room and able.size:
            speakers = draw.permutation(able)[:room]
            rounds.append(queue[following[speakers]])
            following[speakers] += 1
            left[speakers] -= 1
            room -= len(speakers)
            able = able[left[able] > 0]
        shards.append(np.concatenate(rounds))
    return shards


def shard(args) -> str:
    """Write the shards of the list --shard, with meta.json, utterance_list.csv and an index beside each; return a line.

    Recordings that cannot be read, or are not at 16 kHz, are left out and listed in bad_files.txt.

    Raises:
        ValueError: a path that cannot be a key, the folder holds other shards, or nothing could be read.
        OSError: the disk is full; the shards written stay and the same command goes on.
    """
    names, labels, speakers = names_and_speakers(args.shard)
    if (labels < 0).any():
        name = names[int(np.argmax(labels < 0))]
        raise ValueError(f"{args.shard}: {name} names no speaker: its first folder should")
    paths = list(names)
    keys = [_key(args.shard, path) for path in paths]
    if len(set(keys)) < len(keys):
        _, again = Names.of(keys).repeated()
        raise ValueError(f"{args.shard}: two recordings have the key {keys[again[0]]}")
    folder = Path(args.shard_to)
    shards = plan(labels, args.samples_per_shard, args.seed)
    if args.drop_last_shard and len(shards[-1]) < args.samples_per_shard:
        shards.pop()
    if not shards:
        raise ValueError(f"--drop_last_shard: the {len(paths)} recordings of {args.shard} do not fill a shard of "
                         f"--samples_per_shard {args.samples_per_shard}")  # fmt: skip
    digest = f"{int(names.keys().sum()) + int(labels @ np.arange(len(labels))):x}"
    what = {"set": args.shard_set, "list": digest, "root": args.shard_from, "samples_per_shard": args.samples_per_shard,
            "drop_last_shard": args.drop_last_shard, "seed": args.seed}  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    claim(folder / "plan.json", what, "shards of another list, folder, set or seed: choose another --shard_to")
    jobs = []
    for number, chosen in enumerate(shards):
        samples = [(paths[i], keys[i], speakers[labels[i]], int(labels[i])) for i in chosen.tolist()]
        target = folder / f"{args.shard_set}_shard_{number:06d}.tar"
        jobs.append((target, args.shard_from, samples, args.shard_gzip))
    for _ in in_parallel(_write, jobs, args.workers, "shards", "shard"):
        pass
    return _describe(folder, [job[0] for job in jobs], speakers, args.shard_set)


def _key(name, path):
    """Return the key of a recording, its path without the suffix."""
    stem, suffix = os.path.splitext(path)
    base = os.path.basename(stem)
    if suffix.lower() not in AUDIO:
        raise ValueError(f"{name}: {path}: a shard takes {', '.join(AUDIO)}")
    if path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"{name}: {path}: give a path below --shard_from, without ..")
    if "." in base:
        raise ValueError(f"{name}: {path}: the webdataset library ends a key at the first dot of the name: rename it")
    return stem


def _write(job):
    """Write one shard, unless it is there and whole, and its index; with gzip also the compressed copy."""
    target, root, samples, compress = job
    if not _is_whole(target):
        problems = []
        temporary = target.with_name(target.name + ".tmp")
        with full_disk_named(target), open(temporary, "wb") as file:
            with tarfile.open(fileobj=file, mode="w") as tar:
                for path, key, speaker, label in samples:
                    try:
                        content, frames = _checked(join(root, path))
                    except (ValueError, OSError) as error:
                        problems.append(f"{path}\t{error}\n")
                        continue
                    about = _about(key, speaker, label, frames)
                    for name, data in ((f"{key}.json", json.dumps(about).encode()), (path, content)):
                        member = tarfile.TarInfo(name)  # no owner and no time: the same list gives the same bytes
                        member.size = len(data)
                        tar.addfile(member, io.BytesIO(data))
            file.flush()
            os.fsync(file.fileno())
        _bad_file(target).unlink(missing_ok=True)
        if problems:
            write_whole(_bad_file(target), "".join(problems).encode())
        os.replace(temporary, target)
        read_index(target)
    packed = target.with_name(target.name + ".gz")
    if compress and not packed.is_file():
        temporary = packed.with_name(packed.name + ".tmp")
        with full_disk_named(packed), open(target, "rb") as source, gzip.open(temporary, "wb", 6) as file:
            shutil.copyfileobj(source, file, 1 << 20)
        os.replace(temporary, packed)


def _is_whole(target):
    try:
        read_index(target)
    except (ValueError, OSError):
        return False
    return True


def _checked(path):
    """Return the bytes of a recording and its number of samples, after decoding all of it."""
    with AudioFile(path) as audio:
        if audio.rate != SAMPLE_RATE:
            raise ValueError(f"{path}: its sampling rate is {audio.rate} Hz; shards hold {SAMPLE_RATE} Hz")
        frames = len(audio.read())
    return Path(path).read_bytes(), frames


def _about(key, speaker, label, frames):
    """Return what KEY.json holds, under the names of the published shards; a recording is a YouTube video there."""
    folder, _, utterance = key.rpartition("/")
    return {"speaker_id": speaker, "youtube_id": folder.partition("/")[2], "utterance_id": utterance,
            "speaker_id_idx": label, "num_frames": frames, "sampling_rate": SAMPLE_RATE}  # fmt: skip


def _bad_file(target):
    return target.with_name(f"{target.name}.bad")


def _describe(folder, targets, speakers, name):
    """Write meta.json, utterance_list.csv and bad_files.txt from what the shards hold; return a line."""
    samples, rows = {speaker: [] for speaker in speakers}, ["utterance_key;shard_dix;set_name\n"]
    for number, target in enumerate(targets):
        index = read_index(target)
        for path, speaker in zip(index.names, index.speakers):
            key = os.path.splitext(path)[0]
            samples[speaker].append(key)
            rows.append(f"{key};{number};{name}\n")
    bad = "".join(_bad_file(t).read_text(encoding="utf-8") for t in targets if _bad_file(t).is_file())
    if len(rows) == 1:
        raise ValueError(f"no recording could be read: {bad.splitlines()[0].partition(chr(9))[2]}")
    videos = {
        speaker: sorted({key.rpartition("/")[0].partition("/")[2] for key in own}) for speaker, own in samples.items()
    }
    meta = {
        "speaker_ids": speakers,
        "youtube_ids": sorted({video for own in videos.values() for video in own}),
        "sample_ids": sorted(key for own in samples.values() for key in own),
        "speaker_id_to_idx": {speaker: label for label, speaker in enumerate(speakers)},
        "youtube_ids_per_speaker": videos,
        "sample_ids_per_speaker": {speaker: sorted(own) for speaker, own in samples.items()},
        "num_samples": len(rows) - 1,
        "num_speakers": len(speakers),
    }
    write_whole(folder / "meta.json", json.dumps(meta).encode())
    write_whole(folder / "utterance_list.csv", "".join(rows).encode())
    write_whole(folder / BAD_FILES, bad.encode())
    skipped = f"; {len(bad.splitlines())} not readable, see {folder / BAD_FILES}" if bad else ""
    return f"{folder}: {len(rows) - 1} recordings of {len(speakers)} speakers in {len(targets)} shards{skipped}"
