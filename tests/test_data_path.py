"""The data path: names in one buffer, keyed draws, packed audio, batched augmentation, unreadable recordings."""

from argparse import Namespace
from fractions import Fraction

import numpy as np
import pytest
import soundfile
import torch

import DatasetLoader
from audio import augment, packed
from audio.bad_files import BadFiles
from audio.batch_augment import BatchAugmenter
from audio.batch_speed import Speeds
from audio.draws import uniform
from audio.io import AudioFile, read_audio
from audio.lists import read_train_list
from audio.names import Names, fields
from corpora import packing

LENGTH = 8240  # a crop of 50 frames


def args_of(folder, **changes):
    """Return the flags of a loader on the tiny corpus."""
    from engine.args import make_parser

    parser = make_parser("loader")
    DatasetLoader.add_arguments(parser)
    flags = vars(parser.parse_args([]))
    flags |= {"max_frames": 50, "batch_size": 4, "nPerSpeaker": 2, "nDataLoaderThread": 0, "seed": 3, "wav_scale": 1.0}
    return Namespace(**{**flags, "nClasses": 8, "save_path": str(folder), **changes})


def batches(corpus, args, root=None, **options):
    utterances = read_train_list(corpus / "train.txt", str(root or corpus / "wav"))
    return list(DatasetLoader.train_loader(utterances, args, say=lambda line: None, **options))


@pytest.fixture(scope="session")
def noise_folders(tmp_path_factory):
    """Noise, music, speech and rooms as files, some shorter than a crop."""
    folder = tmp_path_factory.mktemp("noise")
    draw = np.random.default_rng(0)
    for kind, count in (("noise", 3), ("music", 2), ("speech", 9)):
        (folder / "musan" / kind / "x" / "y").mkdir(parents=True)
        for i in range(count):
            wave = (0.02 * (i + 1) * draw.standard_normal(6000 + 3000 * (i % 3))).clip(-1, 1)
            soundfile.write(folder / "musan" / kind / "x" / "y" / f"{i}.wav", wave, 16000)
    (folder / "rirs" / "a" / "b").mkdir(parents=True)
    for i, taps in enumerate((300, 5000, 20000)):
        decay = draw.standard_normal(taps) * np.exp(-np.arange(taps) / 100)
        soundfile.write(folder / "rirs" / "a" / "b" / f"{i}.wav", 0.2 * decay, 16000, subtype="FLOAT")
    return {"musan_path": str(folder / "musan"), "rir_path": str(folder / "rirs")}


# ---------------------------------------------------------------- names and draws


def test_names_are_cut_ranked_and_found_again():
    text = "  b  x/1.wav\r\n\n\tä y/2.wav\nb x/1.wav".encode()
    starts, ends, lines, first = fields(text)
    assert [text[a:b].decode() for a, b in zip(starts, ends)] == ["b", "x/1.wav", "ä", "y/2.wav", "b", "x/1.wav"]
    assert lines.tolist() == [1, 3, 4] and first.tolist() == [0, 2, 4]
    names = Names.of(["b", "ä", "a", "b", "", "a" * 300])
    labels, distinct = names.ranks()
    assert distinct == sorted({"b", "ä", "a", "", "a" * 300}) and [distinct[i] for i in labels] == list(names)
    assert [pair.tolist() for pair in names.repeated()] == [[0], [3]]
    assert len(set(Names.of([f"id{i:05d}/{i % 7}.wav" for i in range(20000)]).keys().tolist())) == 20000


def test_draws_are_uniform_and_depend_on_seed_epoch_and_item_alone():
    items = np.arange(4000)
    draws = uniform(5, 2, items, 3)
    assert draws.min() >= 0 and draws.max() < 1 and abs(draws.mean() - 0.5) < 0.01
    assert np.abs(np.histogram(draws, 20, (0, 1))[0] / draws.size - 0.05).max() < 0.006
    assert np.abs(np.corrcoef(draws.T) - np.eye(3)).max() < 0.06
    assert (uniform(5, 2, items[::-1], 3)[::-1] == draws).all() and (uniform(5, 2, items, 1)[:, 0] == draws[:, 0]).all()
    for other in (uniform(6, 2, items, 3), uniform(5, 3, items, 3)):
        assert abs(np.corrcoef(other[:, 0], draws[:, 0])[0, 1]) < 0.06


# ---------------------------------------------------------------- packed audio


def test_a_pack_gives_the_crops_of_the_files_to_the_bit(tiny_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "PART", 7)
    utterances = read_train_list(tiny_corpus / "train.txt")
    line = packing.pack(utterances.paths, str(tiny_corpus / "wav"), tmp_path / "packed", 2)
    assert "32 recordings" in line and len(list((tmp_path / "packed").glob("*.i16"))) == 5
    for changes in ({}, {"max_frames": 100}, {"speed_perturb": "0.9,1.1"}, {"nDataLoaderThread": 2}):
        args = args_of(tmp_path, **changes)
        pairs = zip(batches(tiny_corpus, args), batches(tiny_corpus, args, tmp_path / "packed"), strict=True)
        for (wave, label), (packed_wave, packed_label) in pairs:
            assert wave.dtype == packed_wave.dtype == torch.float32 and wave.shape[2] == 160 * args.max_frames + 240
            assert torch.equal(wave, packed_wave) and torch.equal(label, packed_label)
    # everything else that reads audio takes a path below the pack as well
    name = utterances.paths[3]
    assert (read_audio(tmp_path / "packed" / name) == read_audio(tiny_corpus / "wav" / name)).all()
    crops = DatasetLoader.load_eval_crops(str(tmp_path / "packed" / name), 30, 3)
    assert (crops == DatasetLoader.load_eval_crops(str(tiny_corpus / "wav" / name), 30, 3)).all()
    with pytest.raises(ValueError, match="gone.wav: not in the pack"):
        AudioFile(str(tmp_path / "packed" / "gone.wav"))


def test_packing_goes_on_after_a_cut_and_lists_bad_files(tiny_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "PART", 7)
    names = [*read_train_list(tiny_corpus / "train.txt").paths, "spk9/none.wav"]
    root, folder = str(tiny_corpus / "wav"), tmp_path / "packed"
    packing.pack(Names.of(names), root, folder, 1)
    before = (folder / "part-00001.i16").stat().st_mtime_ns
    (folder / packed.INDEX).unlink()
    (folder / "part-00003.i16.lengths.npy").unlink()
    (folder / "part-00003.i16").write_bytes(b"")
    line = packing.pack(Names.of(names), root, folder, 1)
    assert "32 recordings" in line and "1 not readable" in line
    assert (folder / "bad_files.txt").read_text().startswith("spk9/none.wav\t")
    assert (folder / "part-00001.i16").stat().st_mtime_ns == before
    assert len(packed.Pack(folder).names) == 32
    with pytest.raises(ValueError, match="another list"):
        packing.pack(Names.of(names[:5]), root, folder, 1)
    (folder / "part-00002.i16").write_bytes(b"\0\0")
    with pytest.raises(ValueError, match="part-00002.i16 has 2 bytes instead of"):
        packed.Pack(folder)
    (folder / packed.INDEX).write_text("no index")
    with pytest.raises(ValueError, match="index.npz: no index"):
        packed.Pack(folder)


# ---------------------------------------------------------------- batches


def test_a_batch_does_not_depend_on_workers_and_place_of_a_crop(tiny_corpus, tmp_path, noise_folders):
    changes = {"augment": True, "speed_perturb": "0.9", **noise_folders}
    for place in ("cpu", "crop"):
        alone = batches(tiny_corpus, args_of(tmp_path, augment_device=place, **changes))
        workers = batches(tiny_corpus, args_of(tmp_path, augment_device=place, nDataLoaderThread=2, **changes))
        assert all(torch.equal(a, b) and torch.equal(m, n) for (a, m), (b, n) in zip(alone, workers, strict=True))
        options = {"batch_size": 2, **changes}
        two = [batches(tiny_corpus, args_of(tmp_path, augment_device=place, **options), world_size=2, rank=r)
               for r in (0, 1)]  # fmt: skip
        for (whole, _), (first, _), (second, _) in zip(alone, *two, strict=True):
            torch.testing.assert_close(whole, torch.cat([first, second]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("packs", [False, True])
def test_what_is_left_for_the_device_gives_the_batch_of_the_loader_process(
    tiny_corpus, tmp_path, noise_folders, monkeypatch, packs
):
    root = tiny_corpus / "wav"
    if packs:
        root = tmp_path / "packed"
        packing.pack(read_train_list(tiny_corpus / "train.txt").paths, str(tiny_corpus / "wav"), root, 1)
    for changes in ({}, {"augment": True}, {"augment": True, "speed_perturb": "0.9,1.1"}):
        args = args_of(tmp_path, **changes, **noise_folders)
        expected = batches(tiny_corpus, args, root)
        with monkeypatch.context() as patch:  # as on a GPU: banks beside the network, plans travelling with the batch
            patch.setattr(DatasetLoader, "augment_place", lambda wanted, device: "cuda")
            found = batches(tiny_corpus, args_of(tmp_path, nDataLoaderThread=2, **changes, **noise_folders), root)
            utterances = read_train_list(tiny_corpus / "train.txt", str(root))
            loader = DatasetLoader.train_loader(utterances, args, say=lambda line: None).loader
        assert all(torch.equal(a, b) and torch.equal(m, n) for (a, m), (b, n) in zip(expected, found, strict=True))
        travels_small = packs and "speed_perturb" not in changes
        assert next(iter(loader))["wave"].dtype == (torch.int16 if travels_small else torch.float32)


@pytest.mark.parametrize("factors", ["0.9,1.1", "0.5,2", "0.95"])
def test_speed_of_a_batch_equals_speed_of_a_file(tmp_path, factors):
    wave = (3000 * np.random.default_rng(0).standard_normal(40000)).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", wave, 16000)
    speeds = DatasetLoader.parse_speeds(factors)
    change = Speeds(speeds, LENGTH)
    source = np.concatenate([np.zeros(500), wave / 32768, np.zeros(2 * LENGTH)]).astype(np.float32)
    for number, speed in enumerate(speeds):
        if number == 0:
            continue
        faster = -(-40000 // speed)
        starts = [0, 1, 7, 1234, int(faster) - LENGTH]
        plan, rows = [], torch.zeros(len(starts), change.width)
        for row, start in enumerate(starts):
            first, count, skip = change.source(number, start)
            rows[row, :count] = torch.from_numpy(source[500 + first : 500 + first + count])
            plan.append(skip)
        found = change.apply(rows, [(number, torch.arange(len(starts)), torch.tensor(plan))])
        with AudioFile(tmp_path / "a.wav", Fraction(speed)) as audio:
            for row, start in enumerate(starts):
                np.testing.assert_allclose(found[row].numpy(), audio.read(start, LENGTH), atol=2e-6)


def test_batched_augmentation_mixes_and_convolves_like_the_single_crop(noise_folders):
    single = augment.Augmenter(*noise_folders.values(), LENGTH, 1e-9, probability=1.0)
    together = BatchAugmenter(single, seed=1, gigabytes=1.0)
    draw = np.random.default_rng(0)
    wave = (0.1 * draw.standard_normal((60, LENGTH))).astype(np.float32)
    plan = together.plan(2, np.arange(60))
    found = together.apply(torch.from_numpy(wave.copy()), plan).numpy()
    seen = set()
    added = {row: ([], []) for row in range(60)}
    for kind, rows, starts, gains in plan["noises"]:
        for row, start, gain in zip(rows.tolist(), starts.tolist(), gains.tolist()):
            noise = together.noises[kind].samples[start : start + LENGTH].numpy() / 32768
            added[row][0].append(noise)
            added[row][1].append(-20 * np.log10(gain))
            seen.add(kind)
    for row, (noises, snrs) in added.items():
        if noises:
            np.testing.assert_allclose(found[row], augment.mix(wave[row], noises, snrs, 1e-9), atol=1e-5)
    responses = [read_audio(path.decode()) for path in single.rooms]
    for group, rows, which in plan["rooms"]:
        for row, place in zip(rows.tolist(), which.tolist()):
            member = np.flatnonzero((together.rooms.group == group) & (together.rooms.row == place))[0]
            np.testing.assert_allclose(found[row], augment.reverberate(wave[row], responses[member]), atol=1e-5)
            seen.add("room")
    assert seen == {"noise", "music", "speech", "room"}


def test_batched_draws_have_the_distributions_of_the_single_crop(noise_folders):
    single = augment.Augmenter(*noise_folders.values(), LENGTH, 1e-9, probability=0.8)
    together = BatchAugmenter(single, seed=1, gigabytes=1.0)
    count = 20000
    plan = together.plan(1, np.arange(count))
    shares, files, snrs = {}, {}, {}
    for kind, rows, starts, gains in plan["noises"]:
        bank = together.noises[kind]
        picks = np.searchsorted(bank.offsets, starts.numpy(), side="right") - 1
        inside = starts.numpy() - bank.offsets[picks]
        assert (inside >= 0).all() and (inside <= bank.lengths[picks] - LENGTH - (bank.lengths[picks] > LENGTH)).all()
        for row, pick in zip(rows.tolist(), picks.tolist()):
            files.setdefault((kind, row), []).append(pick)
        snrs.setdefault(kind, []).extend(-20 * np.log10(gains.numpy()))
    for (kind, _), picks in files.items():
        fewest, most = augment.ADDITIVE[kind][0]
        assert fewest <= len(picks) <= most and len(set(picks)) == len(picks)
        shares[kind] = shares.get(kind, 0) + 1 / count
    shares["room"] = sum(len(rows) for _, rows, _ in plan["rooms"]) / count
    assert all(abs(share - 0.2) < 0.012 for share in shares.values()) and len(shares) == 4
    for kind, values in snrs.items():
        low, high = augment.ADDITIVE[kind][1]
        assert min(values) >= low - 1e-3 and max(values) <= high + 1e-3
        assert abs(np.mean(values) - (low + high) / 2) < 0.2 and np.ptp(values) > 0.97 * (high - low)
    babble = [len(picks) for (kind, _), picks in files.items() if kind == "speech"]
    assert np.abs(np.bincount(babble, minlength=8)[3:] / len(babble) - 0.2).max() < 0.03
    each = np.bincount([p for (kind, _), picks in files.items() if kind == "speech" for p in picks])
    assert np.abs(each / each.sum() - 1 / 9).max() < 0.01


def test_a_small_bank_keeps_an_even_selection(noise_folders):
    single = augment.Augmenter(*noise_folders.values(), LENGTH, 1e-9)
    together = BatchAugmenter(single, seed=1, gigabytes=1e-4)
    assert len(together.noises["speech"]) == 7 and "% of the files" in together.describe()
    assert torch.isfinite(together.apply(torch.randn(30, LENGTH), together.plan(1, np.arange(30)))).all()


def test_where_augmentation_is_computed():
    cpu, cuda = torch.device("cpu"), torch.device("cuda:0")
    assert [DatasetLoader.augment_place("auto", d) for d in (cpu, cuda)] == ["cpu", "cuda"]
    assert DatasetLoader.augment_place("cpu", cuda) == "cpu"
    with pytest.raises(ValueError, match="--augment_device cuda"):
        DatasetLoader.augment_place("cuda", cpu)


def test_where_a_training_crop_lies():
    from audio.crops import train_start

    draws = [i / 100 for i in range(100)]
    found = {mode: {train_start(u, 1050, 100, mode) for u in draws} for mode in ("start", "end", "random_contiguous")}
    assert found == {"start": {0}, "end": {950}, "random_contiguous": {100 * i for i in range(10)}}
    assert {train_start(u, 100, 100, mode) for u in draws for mode in found} == {0}
    assert {train_start(u, 30, 100, mode) for u in draws for mode in (*found, "random")} == {0}


# ---------------------------------------------------------------- unreadable recordings


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_recordings_are_replaced_counted_and_listed(tiny_corpus, tmp_path, workers):
    import shutil

    root = tmp_path / "wav"
    shutil.copytree(tiny_corpus / "wav", root)
    (root / "spk0/s1/00001.wav").write_bytes(b"RIFF broken")
    (root / "spk3/s1/00000.wav").unlink()
    args = args_of(tmp_path, nDataLoaderThread=workers, max_bad_files=10)
    clean, found = batches(tiny_corpus, args), batches(tiny_corpus, args, root)
    changed = sum(not torch.equal(a, b) for (a, _), (b, _) in zip(clean, found, strict=True))
    assert changed and all(torch.equal(m, n) for (_, m), (_, n) in zip(clean, found))
    listed = (tmp_path / "bad_files.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in sorted(listed)] == ["spk0/s1/00001.wav", "spk3/s1/00000.wav"]
    # a speaker without any: other groups of the batch stand in
    shutil.rmtree(root / "spk5")
    found = batches(tiny_corpus, args_of(tmp_path, nDataLoaderThread=workers, max_bad_files=50), root)
    assert all(5 not in label.tolist() and len(label) == 4 for _, label in found)
    with pytest.raises(RuntimeError, match=r"more than --max_bad_files 1 %: they are listed in .*bad_files.txt"):
        batches(tiny_corpus, args_of(tmp_path, nDataLoaderThread=workers), root)


def test_bad_files_are_listed_once_by_several_processes(tmp_path, capsys):
    first, second = (BadFiles(tmp_path / "bad_files.txt", 100, 5) for _ in range(2))
    for bad in (first, second, first):
        bad.note([("a.wav", "a.wav: broken"), ("a.wav", "a.wav: broken")])
    assert (tmp_path / "bad_files.txt").read_text() == "a.wav\ta.wav: broken\n"
    assert capsys.readouterr().out.count("warning: 1 recordings") == 2
    with pytest.raises(RuntimeError, match="6 of 100 recordings"):
        first.note([(f"{i}.wav", "broken") for i in range(5)])


def test_the_stage_packs_train_and_trial_lists(tiny_corpus, tmp_path, monkeypatch, capsys):
    import dataprep

    for name, count in (("train.txt", 32), ("trials.txt", 32)):
        words = ["--pack", tiny_corpus / name, "--pack_from", tiny_corpus / "wav", "--pack_to", tmp_path / name]
        monkeypatch.setattr("sys.argv", ["dataprep.py", *map(str, words), "--workers", "1"])
        dataprep.main()
        assert f"{count} recordings" in capsys.readouterr().out
        assert len(packed.Pack(tmp_path / name).names) == count


def test_a_silent_room_is_named_at_the_start(tmp_path):
    from audio.banks import RoomBank

    soundfile.write(tmp_path / "silent.wav", np.zeros(100), 16000)
    with pytest.raises(ValueError, match=r"silent.wav: a room response of silence; remove it from --rir_path"):
        RoomBank(np.array([str(tmp_path / "silent.wav").encode()]), LENGTH)
