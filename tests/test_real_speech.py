"""Real recordings, where the development data lies beside the checkout (VOXLAB_DATA); skipped elsewhere."""

import argparse

import numpy as np
import pytest
import torch
from conftest import DATA

import DatasetLoader
import SpeakerNet
from audio import lists
from engine import registry

SO762, SAMPLE = DATA / "so762", DATA / "voxceleb_sample" / "voxceleb2"
needs_so762 = pytest.mark.skipif(not SO762.is_dir(), reason=f"no real speech in {SO762}")
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"no real speech in {SAMPLE}")


@needs_sample
def test_files_of_24_khz_are_counted_and_read_at_16_khz():
    paths = sorted(str(p) for p in SAMPLE.glob("*/*.wav"))
    (warning,) = lists.check_files("list", paths)
    assert f"{len(paths)} of {len(paths)} files resampled to 16000 Hz (24000 Hz: {len(paths)})" in warning
    crops = DatasetLoader.load_eval_crops(paths[0], 200, 4)
    assert crops.shape == (4, 32240) and 1e-3 < np.abs(crops).max() <= 1


@needs_so762
def test_an_embedding_does_not_depend_on_its_neighbours():
    names = lists.read_trial_list(SO762 / "veri_test_small.txt").names[:6]
    paths = [str(SO762 / "audio" / name) for name in names]
    torch.manual_seed(0)
    network = registry.load("models", "FastECAPA")(nOut=32)
    net = SpeakerNet.SpeakerNet(network, wav_scale=network.WAV_SCALE)
    tables = []
    for eval_frames, batch in ((150, 1), (150, 4), (0, 4)):
        args = argparse.Namespace(eval_frames=eval_frames, num_eval=3, nDataLoaderThread=0, eval_batch_files=batch)
        tables.append(SpeakerNet.embed_files(net, paths, args, torch.device("cpu")))
    torch.testing.assert_close(tables[0].vectors, tables[1].vectors, rtol=1e-4, atol=1e-5)
    assert np.diff(tables[0].offsets).tolist() == [3] * 6 and np.diff(tables[2].offsets).tolist() == [1] * 6
