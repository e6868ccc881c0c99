"""How fast training data can be had, one core: reading, augmentation, lists, sampler, loader processes, memory.

    python benchmarks/data.py                                on recordings made up in a temporary folder
    python benchmarks/data.py --train_list L --train_path D  on your own list and disk

Rates are crops per second of processor time, medians of --repeats; the plain way, decoding the whole file for each
crop, stands in the first line.
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import soundfile
import torch

import DatasetLoader
from audio import lists
from audio.crops import crop_samples
from audio.io import AudioFile
from audio.names import Names
from audio.packed import Pack
from audio.samplers import EpochSampler
from audio.shards import Shards
from benchmarks._table import in_new_process, machine, seconds_of, table
from corpora import packing, sharding
from engine.args import make_parser
from engine.log import run_main


def make_corpus(folder: Path, files: int, seconds: float) -> lists.TrainList:
    """Write `files` recordings of noise, ten per speaker, with a list; noise and rooms as MUSAN and RIRS have them."""
    draw = np.random.default_rng(0)

    def write(path, samples, level=0.05):
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, level * draw.standard_normal(int(samples)), 16000, subtype="PCM_16")

    names = [f"spk{i // 10:04d}/s/{i:05d}.wav" for i in range(files)]
    for name in names:
        write(folder / "wav" / name, seconds * 16000)
    for kind in ("noise", "music", "speech"):
        for i in range(60):
            write(folder / "musan" / kind / "a" / "b" / f"{i:05d}.wav", 5 * 16000)
    for i in range(60):
        write(folder / "rirs" / "room" / "x" / f"{i}.wav", draw.uniform(0.2, 1) * 16000)
    (folder / "train.txt").write_text("".join(f"{name[:7]} {name}\n" for name in names))
    return lists.read_train_list(folder / "train.txt", str(folder / "wav"))


def dataset_of(utterances, args, place, speeds="", augment=False, workers=0):
    """Return a TrainLoader of the kind `place` says and the items of a batch."""
    parser = argparse.ArgumentParser()
    DatasetLoader.add_arguments(parser)
    flags = vars(parser.parse_args([])) | {
        "max_frames": args.max_frames, "batch_size": args.batch_size, "sampler": "shuffle",
        "nDataLoaderThread": workers,
        "speed_labels": "keep", "speed_perturb": speeds, "augment": augment, "augment_prob": 1.0,
        "augment_device": place, "musan_path": args.musan_path, "rir_path": args.rir_path,
        "seed": 1, "nClasses": 0, "wav_scale": 32768.0, "save_path": args.folder,
    }  # fmt: skip
    loader = DatasetLoader.train_loader(utterances, argparse.Namespace(**flags), say=lambda line: None)
    return loader, next(iter(loader.batch_sampler))


def write_shards(utterances, folder: Path) -> str:
    """Write the recordings of a list as shards into a folder; return a line."""
    parser = make_parser("shards")
    parser.add_argument("--shard", default=utterances.name)
    sharding.add_arguments(parser)
    flags = {"workers": 1, "seed": 1, "shard_from": utterances.root, "shard_to": str(folder), "samples_per_shard": 1000}
    return sharding.shard(argparse.Namespace(**{**vars(parser.parse_args([])), **flags}))


def reading(utterances, packed, sharded, args) -> list[list]:
    """Time single crops of the five ways of reading, without anything around them."""
    length, count = crop_samples(args.max_frames), min(400, len(utterances.labels))
    paths = [utterances.path(i) for i in range(count)]
    pack = Pack(packed.root)
    rows = pack.rows(packed.paths)
    lengths = [int(pack.lengths[row]) for row in rows[:count]]
    starts = [int(u * max(0, n - length)) for u, n in zip(np.random.default_rng(0).random(count), lengths)]
    shards = Shards(sharded.root)
    places = shards.rows(sharded.paths)[:count].tolist()
    out = np.empty((count, length), np.int16)

    def whole(kind, some):
        for i in range(some):
            wave, _ = soundfile.read(paths[i], dtype=kind)
            wave[starts[i] : starts[i] + length].copy()

    def seek():
        for path, start in zip(paths, starts):
            with AudioFile(path) as audio:
                audio.read(start, length)

    def mapped():
        for i in range(count):
            crop = pack.read(rows[i], starts[i], length)
            out[i, : len(crop)] = crop

    def by_offset():
        for i in range(count):
            with AudioFile(sharded.path(i)) if not shards.is_int16(places[i]) else shards.open(places[i]) as audio:
                crop = audio.read(starts[i], length)
            out[i, : len(crop)] = crop

    few = min(count, 40)
    ways = [
        ("whole file, float64", lambda: whole("float64", few), few),
        ("whole file, int16", lambda: whole("int16", few), few),
        ("seek to the crop", seek, count),
        ("shards, by offset", by_offset, count),
        ("packed int16", mapped, count),
    ]
    return rates(ways, args)


def rates(ways, args):
    """Return a table row per way: name, crops per second, factor over the first."""
    found = [(name, crops / seconds_of(work, args.repeats, time.process_time)[0]) for name, work, crops in ways]
    return [[name, f"{rate:,.0f}", f"{rate / found[0][1]:.1f}"] for name, rate in found]


def batches(utterances, packed, sharded, args) -> list[list]:
    """Time whole batches as a loader process makes them."""
    ways = []
    for source, name in ((utterances, "files"), (sharded, "shards"), (packed, "packed")):
        for what, options in (
            ("plain", {}),
            ("augmented, crop by crop", {"augment": True, "place": "crop"}),
            ("augmented, in batches", {"augment": True}),
            ("speed 0.9 1.1, crop by crop", {"speeds": "0.9,1.1", "place": "crop"}),
            ("speed 0.9 1.1, in batches", {"speeds": "0.9,1.1"}),
        ):
            loader, items = dataset_of(source, args, **{"place": "cpu", **options})
            ways.append((f"{name}, {what}", lambda d=loader.loader.dataset, i=items: d.__getitems__(i), len(items)))
    return rates(ways, args)


def big_list(folder: Path) -> Path:
    """Write a list of VoxCeleb2's size: 1,092,009 utterances of 5,994 speakers."""
    draw = np.random.default_rng(0)
    counts = draw.multinomial(1_092_009, np.ones(5994) / 5994)
    with open(folder / "big.txt", "w", encoding="utf-8") as file:
        for speaker, count in enumerate(counts):
            videos = draw.integers(0, 2**40, count // 8 + 1)
            file.writelines(
                f"id{speaker:05d} id{speaker:05d}/{videos[i // 8]:011x}/{i:05d}.wav\n" for i in range(count)
            )
    return folder / "big.txt"


def private_megabytes(pid: int) -> float:
    """Return the memory that only this process has, in MB (Linux)."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_")) * 1024 / 1e6


READ = """
import json, sys, time
from audio import lists
from benchmarks._table import peak_megabytes
base, started = peak_megabytes(), time.process_time()
utterances = lists.read_train_list(sys.argv[1])
read, peak = time.process_time() - started, peak_megabytes()
started = time.process_time()
lists.check_training(utterances, 5994, 2, True)
print(json.dumps({"read": read, "peak": peak, "base": base, "check": time.process_time() - started}))
"""


def lists_and_sampler(path: Path, args) -> list[list]:
    """Time reading and checking the big list in a process of its own, and an epoch of 200 speakers x 2 utterances."""
    found = [in_new_process(["-c", READ, str(path)]) for _ in range(3)]
    read, check, peak, base = (statistics.median(f[key] for f in found) for key in ("read", "check", "peak", "base"))
    utterances = lists.read_train_list(path)
    sampler = EpochSampler(utterances.labels, "speakers", 200, 2, 500, 1, 1, 0)
    epochs = iter(range(2, 1000))
    epoch, *_ = seconds_of(lambda: sampler.set_epoch(next(epochs)), args.repeats, time.process_time)
    return [
        [f"read {len(utterances.labels):,} utterances", f"{read:.2f} s", f"peak {peak:.0f} MB ({base:.0f} MB before)"],
        ["check it (repetitions, speakers)", f"{check:.2f} s", ""],
        ["an epoch of the sampler (200 x 2)", f"{epoch:.2f} s", f"{len(sampler):,} batches"],
    ]


def workers(packed, path: Path, args) -> list[list]:
    """Run the loader with more and more processes on the packed audio, the big list in memory.

    What the trainer has rewritten since they started counts as theirs: of one alone, or shared by several.
    """
    big = lists.read_train_list(path)
    small = packed.paths
    # the big list's entries stand for the recordings at hand, so that every process carries the big list
    names = Names(small.buffer, np.resize(small.starts, len(big.labels)), np.resize(small.ends, len(big.labels)))
    everything = lists.TrainList(big.name, packed.root, names, big.labels, big.speakers, big.hash)
    rows = []
    for count in args.workers:
        loader, _ = dataset_of(everything, args, "cpu", workers=count)
        source = iter(loader)
        for _ in range(4 * max(count, 1)):
            next(source)
        started, number = time.perf_counter(), 30
        for _ in range(number):
            next(source)
        rate = number * args.batch_size / (time.perf_counter() - started)
        memory = [private_megabytes(process.pid) for process in multiprocessing.active_children()]
        own = f"{np.mean(memory):.0f} MB, largest {max(memory):.0f} MB" if memory else "-"
        rows.append([count, f"{rate:,.0f}", own])
        del loader, source  # ends the processes
    return rows


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train_list", default="", help="your own list (default: recordings made up)")
    parser.add_argument("--train_path", default="", help="prefix of its paths")
    parser.add_argument("--musan_path", default="", help="folder of {noise,music,speech}/*/*/*.wav")
    parser.add_argument("--rir_path", default="", help="folder of room responses */*/*.wav")
    parser.add_argument("--files", type=int, default=40, help="recordings made up")
    parser.add_argument("--seconds", type=float, default=60, help="length of each, s")
    parser.add_argument("--max_frames", type=int, default=200, help="crop in frames of 10 ms")
    parser.add_argument("--batch_size", type=int, default=40, help="crops per batch")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2], help="numbers of loader processes")
    parser.add_argument("--repeats", type=int, default=7, help="timings of which the median counts")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        args.folder = str(folder)
        made_up = make_corpus(folder, args.files, args.seconds)
        utterances = lists.read_train_list(args.train_list, args.train_path) if args.train_list else made_up
        args.batch_size = min(args.batch_size, len(utterances.labels))
        args.musan_path, args.rir_path = args.musan_path or folder / "musan", args.rir_path or folder / "rirs"
        print(packing.pack(utterances.paths, utterances.root, folder / "packed", 1))
        packed = lists.TrainList(**{**vars(utterances), "root": str(folder / "packed")})
        print(write_shards(utterances, folder / "shards"))
        sharded = lists.TrainList(**{**vars(utterances), "root": str(folder / "shards")})
        samples = f"crops of {crop_samples(args.max_frames) / 16000:.2f} s"
        what = args.train_list or f"{args.files} recordings of {args.seconds:g} s, 16-bit WAV"
        print(f"{machine()}, 1 thread, medians of {args.repeats}\n{what}; {samples}, the files in the page cache\n")
        print(table(["reading a crop", "crops/s", "factor"], reading(utterances, packed, sharded, args)), "\n")
        print(table(["making a batch", "crops/s", "factor"], batches(utterances, packed, sharded, args)), "\n")
        path = big_list(folder)
        print(table(["list of VoxCeleb2's size", "time", ""], lists_and_sampler(path, args)), "\n")
        print(table(["loader processes", "crops/s", "memory of each alone"], workers(packed, path, args)))


if __name__ == "__main__":
    run_main(main)
