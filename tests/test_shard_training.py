"""Batches from tar shards: the order in blocks, epochs over workers and ranks, runs that are killed and go on."""

import shutil
import signal
import socket
from collections import Counter

import numpy as np
import pytest
import torch
from test_data_path import args_of
from test_resume import STEPS, differences, last
from test_shards import NO_END, batches, sharded, written_by_library  # noqa: F401
from tree import copy_tree, train_flags
from warm import until, warm

import DatasetLoader
from audio import shards
from audio.io import read_audio
from audio.lists import read_train_list
from audio.names import Names
from audio.samplers import EpochSampler, blocked_order

# ---------------------------------------------------------------- batches and their order


def test_crops_equal_those_of_the_files_to_the_bit(sharded, tiny_corpus, tmp_path):  # noqa: F811
    files, found = (read_train_list(tiny_corpus / "train.txt", str(root)) for root in (tiny_corpus / "wav", sharded))
    for changes in (
        {},
        {"sampler": "shuffle", "shards_per_block": 0, "nPerSpeaker": 1},
        {"max_frames": 100, "speed_perturb": "0.9,1.1"},
        {"crop_samples": 8000, "crop_mode": "end", "nDataLoaderThread": 2},
        {"crop_samples": 3000, "crop_mode": "random_contiguous"},
    ):
        args = args_of(tmp_path, **changes)
        pairs = list(zip(batches(files, args), batches(found, args), strict=True))
        assert len(pairs) >= 2
        for (wave, label), (other, other_label) in pairs:
            assert wave.shape[2] == changes.get("crop_samples", 160 * args.max_frames + 240)
            assert torch.equal(wave, other) and torch.equal(label, other_label)
    crops = [DatasetLoader.load_eval_crops(f"{root}/spk1/s1/00001.wav", 0, 1, 8000) for root in (sharded, files.root)]
    assert crops[0].shape == (1, 8000) and (crops[0] == crops[1]).all()
    assert (crops[0][0] == read_audio(tiny_corpus / "wav/spk1/s1/00001.wav")[:8000]).all()


def test_an_order_in_blocks_holds_each_once_and_stays_within_few_shards():
    shard = np.repeat(np.arange(13), np.random.default_rng(0).integers(20, 60, 13))
    firsts = set()
    for epoch in range(3):
        order = blocked_order(shard, 4, torch.Generator().manual_seed(epoch))
        assert sorted(order.tolist()) == list(range(len(shard)))
        runs, seen = [], shard[order]
        place = 0
        while place < len(seen):  # the next block begins where a shard that is new comes after four complete ones
            members = set()
            while place < len(seen) and (seen[place] in members or len(members) < 4):
                members.add(int(seen[place]))
                place += 1
            runs.append(members)
        assert [len(members) for members in runs] == [4, 4, 4, 1] and set.union(*runs) == set(range(13))
        inside = np.diff(order[np.isin(seen, list(runs[0]))])
        assert (inside < 0).mean() > 0.3  # shuffled within the block
        firsts.add(frozenset(runs[0]))
    assert len(firsts) > 1


def test_epochs_from_shards_are_exact_over_ranks_and_go_on_within(sharded):  # noqa: F811
    utterances = read_train_list(sharded)
    numbers = shards.open_shards(str(sharded)).shard
    options = dict(kind="shuffle", batch_size=4, n_per_speaker=1, max_seg_per_spk=500, seed=1, shard=numbers)
    for per_block in (1, 2, 4):
        samplers = [EpochSampler(utterances.labels, world_size=2, rank=rank, shards_per_block=per_block, **options)
                    for rank in (0, 1)]  # fmt: skip
        for epoch in (1, 2, 3):
            found = []
            for sampler in samplers:
                sampler.set_epoch(epoch)
                found.append([indices.tolist() for batch in sampler for _, indices, _ in batch])
            assert sorted(sum(sum(found, []), [])) == list(range(32))
        samplers[0].set_epoch(3, first_batch=2)
        assert [i.tolist() for batch in samplers[0] for _, i, _ in batch] == found[0][8:]


def test_names_travel_to_loader_processes_as_buffers(sharded):  # noqa: F811
    utterances = read_train_list(sharded)
    assert isinstance(utterances.paths, Names) and isinstance(utterances.paths.buffer, np.ndarray)
    dataset = DatasetLoader.TrainDataset(utterances, 8000, 1, 8, [1], False)
    assert all(not isinstance(v, (list, dict)) or len(v) < 10 for v in vars(dataset.store).values())
    assert dataset.shards().dtype == np.int64 and dataset.dtype == np.float32
    assert DatasetLoader.TrainDataset(utterances, 8000, 1, 8, [1], False, in_worker=False).dtype == np.int16


# ---------------------------------------------------------------- training


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with warm(copy_tree(tmp_path_factory.mktemp("tree"))) as started:
        yield started


# Every utterance that is read is told, with its epoch, by rank and loader process.
TELLS = """
import os
from audio.training_crops import TrainDataset
fill = TrainDataset._fill
def told(self, out, epoch, utterance, *more):
    handle = os.open({path!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    line = str(epoch) + " " + self.utterances.paths[utterance] + " " + str(os.getpid()) + chr(10)
    os.write(handle, line.encode())
    os.close(handle)
    return fill(self, out, epoch, utterance, *more)
TrainDataset._fill = told
"""


def run_ranks(server, flags, code):
    """Run two gloo ranks to their end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [server.launch(*flags, code=code, RANK=r, LOCAL_RANK=r, **environment) for r in ("0", "1")]
    for rank in ranks:
        code, text = server.wait(rank)
        assert code == 0, text
    return ranks[0].text()


def test_an_epoch_from_shards_has_the_utterances_of_one_from_files(server, sharded, tiny_corpus, tmp_path):  # noqa: F811
    told = {}
    for name, listed, root in (
        ("files", tiny_corpus / "train.txt", tiny_corpus / "wav"),
        ("shards", sharded, "unused"),
    ):
        flags = train_flags(tiny_corpus, tmp_path / name, train_list=listed, train_path=root, batch_size=4,
                            sampler="shuffle", shards_per_block=2, max_epoch=2, nDataLoaderThread=2)  # fmt: skip
        path = tmp_path / f"{name}.txt"
        run_ranks(server, flags, NO_END + TELLS.format(path=str(path)))
        words = [line.split() for line in path.read_text().splitlines()]
        assert len({pid for *_, pid in words}) == 4  # two loader processes for each of two ranks
        told[name] = Counter((epoch, file) for epoch, file, _ in words)
    assert set(told["files"].values()) == {1} and len(told["files"]) == 64
    assert told["files"] == told["shards"]


def test_a_run_from_shards_of_the_library_goes_on_without_one_that_is_truncated(
    server,
    written_by_library,  # noqa: F811
    tiny_corpus,
    tmp_path,  # noqa: F811
):
    folder = shutil.copytree(written_by_library, tmp_path / "library")
    common = {"train_list": folder, "sampler": "shuffle", "max_epoch": 2, "test_interval": 2, "batch_size": 8}
    code, text = server.wait(server.launch(*train_flags(tiny_corpus, tmp_path / "run", **common), code=NO_END))
    assert code == 0 and "32 utterances of 8 speakers" in text and "Epoch 2, VEER" in text, text
    path = sorted(folder.glob("*.tar"))[0]
    path.write_bytes(path.read_bytes()[:70_000])
    code, text = server.wait(server.launch(*train_flags(tiny_corpus, tmp_path / "cut", **common), code=NO_END))
    assert code == 0 and "21 utterances of 6 speakers" in text and "Epoch 2, VEER" in text, text
    assert "warning: " in text and "set-000000.tar: a truncated" in text and "skipped" in text


def test_a_killed_run_from_shards_goes_on_to_the_last_bit(server, sharded, tiny_corpus, tmp_path):  # noqa: F811
    def flags(name):
        return train_flags(tiny_corpus, tmp_path / name, train_list=sharded, sampler="shuffle", shards_per_block=2,
                           max_steps=18, max_epoch=99, test_interval=99, batch_size=4, save_steps=1,
                           nDataLoaderThread=2)  # fmt: skip

    code, text = server.wait(server.launch(*flags("whole"), code=NO_END))
    assert code == 0, text
    run = server.launch(*flags("killed"), code=NO_END + STEPS.format(seconds=0.02))
    until(run, "STEP 11\n")
    run.kill()
    assert server.wait(run)[0] == -signal.SIGKILL
    code, text = server.wait(server.launch(*flags("killed"), code=NO_END))
    assert code == 0 and "resumed from" in text, text
    assert differences(last(tmp_path / "whole"), last(tmp_path / "killed")) == []


def test_validation_and_test_read_from_shards(server, sharded, tiny_corpus, tmp_path):  # noqa: F811
    found = []
    for name, root in (("shards", sharded), ("files", tiny_corpus / "wav")):
        flags = train_flags(tiny_corpus, tmp_path / name, test_path=root, valid_list=tiny_corpus / "trials.txt",
                            max_epoch=1, test_interval=1)  # fmt: skip
        code, text = server.wait(server.launch(*flags, code=NO_END))
        assert code == 0, text
        found.append([line for line in text.splitlines() if "VEER" in line])
    assert found[0] and found[0] == found[1]
