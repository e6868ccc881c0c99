"""Training with little data from the outside: wav2vec 2.0 that thaws, cohorts, several test lists, results of a run."""

import json
import signal

import pytest
import torch
from tree import copy_tree, run, train_flags
from warm import until, warm

from engine import checkpoint, result

# Two layers of random weights, the rest as in the recipe of the paper: convolutions frozen, the transformer at first.
WAV2VEC2 = {
    "model": "Wav2Vec2", "size": "tiny", "trainfunc": "aamsoftmax", "margin": 0.2, "pooling": "mean",
    "initially_frozen": True, "num_frozen_steps": 80, "layerdrop": 0.1, "scheduler": "cyclic", "cycles": 4,
    "sampler": "shuffle", "keep_last": True, "crop_seconds": 0.5, "valid_frames": 50, "valid_num_eval": 1,
    "max_steps": 200, "max_epoch": 10000, "test_interval_steps": 100, "batch_size": 12, "lr": 0.002, "nOut": 512,
    "lr_groups": "wav2vec2=0.1", "nDataLoaderThread": 0, "log_interval": 20,
}  # fmt: skip


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return copy_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="module")
def server(tree):
    with warm(tree) as started:
        yield started


def w2v2_flags(corpus, folder, **changes):
    return train_flags(corpus, folder, valid_list=corpus / "trials.txt", **{**WAV2VEC2, **changes})


@pytest.fixture(scope="module")
def whole(server, tiny_corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    code, text = server.wait(server.launch(*w2v2_flags(tiny_corpus, folder)))
    assert code == 0, text
    return folder, text


def test_wav2vec2_learns_only_behind_the_transformer_until_it_thaws(whole):
    folder, text = whole
    assert "frozen: wav2vec2 for 80 steps" in text and "wav2vec2.feature_extractor always" in text
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = {e["step"]: e["loss"] for e in entries if "loss" in e}
    assert losses[max(losses)] < losses[min(losses)]
    stored = checkpoint.read(folder / "checkpoints" / "last.pt")
    steps = {int(state["step"]) for state in stored["training"]["optimizer"]["state"].values()}
    assert steps == {200, 120}, "the head has learnt in 200 steps, the transformer in the last 120"
    assert [e["step"] for e in entries if "veer" in e] == [100, 200]
    found = result.read(folder)
    assert found["status"] == "done" and found["step"] == 200 and found["best_step"] in (100, 200)
    assert 0 <= found["metrics"]["val_eer"] <= 1 and 0 <= found["metrics"]["test_eer_trials"] <= 1
    assert {"test_mindcf05_trials", "test_mindcf01_trials"} <= found["metrics"].keys()


@pytest.mark.parametrize("stopped", [40, 130])
def test_wav2vec2_killed_before_and_after_it_thaws_goes_on_to_the_last_bit(
    server, whole, tiny_corpus, tmp_path, stopped
):
    flags = w2v2_flags(tiny_corpus, tmp_path, save_steps=10, max_steps=200)
    slow = (
        "import time\nfrom engine.state import State\n"
        "State.update_ema = lambda self: (print('STEP', self.step, flush=True), time.sleep(0.005))\n"
    )
    first = server.launch(*flags, code=slow)
    until(first, f"STEP {stopped + 3}\n", seconds=90)
    first.kill()
    assert server.wait(first)[0] == -signal.SIGKILL
    code, text = server.wait(server.launch(*flags))
    assert code == 0 and "resumed from" in text, text
    a, b = (checkpoint.read(folder / "checkpoints" / "last.pt") for folder in (whole[0], tmp_path))
    assert a["state_dict"].keys() == b["state_dict"].keys()
    for name, tensor in a["state_dict"].items():
        assert torch.equal(tensor, b["state_dict"][name]), name
    counters = [{k: v for k, v in c["training"]["counters"].items()} for c in (a, b)]
    assert counters[0] == counters[1]


def test_two_ranks_thaw_together(tree, tiny_corpus, tmp_path):
    flags = w2v2_flags(
        tiny_corpus, tmp_path, max_steps=8, num_frozen_steps=4, batch_size=4, keep_last=False, test_interval_steps=8
    )
    done = run(tree, "trainSpeakerNet.py", *flags, "--distributed", "--nproc", 2)
    assert done.returncode == 0, done.stderr
    stored = checkpoint.read(tmp_path / "checkpoints" / "last.pt")
    steps = {int(state["step"]) for state in stored["training"]["optimizer"]["state"].values()}
    assert steps == {8, 4}


def test_a_cohort_of_training_speakers_is_kept_and_normalises(tree, tiny_corpus, tmp_path):
    hard = tmp_path / "list_test_hard2.txt"
    hard.write_text((tiny_corpus / "trials.txt").read_text())
    flags = train_flags(
        tiny_corpus, tmp_path / "run", valid_list=tiny_corpus / "trials.txt", max_epoch=2, test_interval=1,
        tag="little", enroll_training_data=True, post_process_scores=True, score_norm="as-norm", cohort_size=4,
        score_mode="cosine",
    )  # fmt: skip
    done = run(tree, "trainSpeakerNet.py", *flags, "--additional_test_sets", hard)
    assert done.returncode == 0, done.stderr
    for name in ("best.pt", "last.pt"):
        cohort = checkpoint.read(tmp_path / "run" / "checkpoints" / name)["meta"]["cohort"]
        assert cohort["embeddings"].shape == (8, 32) and cohort["speakers"] == [f"spk{i}" for i in range(8)]
        torch.testing.assert_close(cohort["mean"], cohort["embeddings"].mean(0))
        torch.testing.assert_close(cohort["std"], cohort["embeddings"].std(0))
    found = result.read(tmp_path / "run")
    names = {f"test_eer_{kind}{step}" for kind in ("trials", "hard")
             for step in ("", "_as_norm_top4", "_centered", "_l_normed", "_s_normed", "_all")}  # fmt: skip
    assert names <= found["metrics"].keys() and found["tag"] == "little"
    assert found["metrics"]["test_eer_hard"] == found["metrics"]["test_eer_trials"]
    assert found["metrics"]["test_eer_trials_l_normed"] == pytest.approx(found["metrics"]["test_eer_trials"])
    again = run(
        tree, "trainSpeakerNet.py", "--eval", "--initial_model", tmp_path / "run/checkpoints/best.pt", "--save_path",
        tmp_path / "eval", "--test_list", tiny_corpus / "trials.txt", "--test_path", tiny_corpus / "wav",
        "--eval_frames", 50, "--num_eval", 2, "--score_norm", "as-norm", "--cohort_size", 4, "--score_mode", "cosine",
        "--nDataLoaderThread", 0, "--device", "cpu",
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    line = next(line for line in again.stdout.splitlines() if line.startswith("as_norm_top4: EER"))
    assert line in done.stdout and (tmp_path / "eval/result/scores_trials_as_norm_top4.txt").is_file()


def test_the_stored_cohort_changes_nothing_else(tree, tiny_corpus, tmp_path):
    for name, enrolled in (("with", True), ("without", False)):
        flags = train_flags(tiny_corpus, tmp_path / name, max_epoch=1, enroll_training_data=enrolled, bootstrap=0)
        assert run(tree, "trainSpeakerNet.py", *flags).returncode == 0
    a, b = (checkpoint.read(tmp_path / name / "checkpoints" / "last.pt") for name in ("with", "without"))
    assert all(torch.equal(a["state_dict"][name], b["state_dict"][name]) for name in b["state_dict"])
    assert a["training"].keys() == b["training"].keys() and "cohort" not in b["meta"]


def test_a_run_that_diverges_says_so_in_its_result(tree, tiny_corpus, tmp_path):
    done = run(tree, "trainSpeakerNet.py", *train_flags(tiny_corpus, tmp_path, lr=1e30, max_skipped_steps=3))
    found = result.read(tmp_path)
    assert found["status"] == "diverged"
    assert (done.returncode == 2 and "not finite" in found["error"]) or found["metrics"]["test_eer_trials"] == 1


def test_dry_run_checks_flags_and_does_nothing(tree, tiny_corpus, tmp_path):
    flags = train_flags(tiny_corpus, tmp_path / "run", scheduler="cyclic", cycles=2)
    assert run(tree, "trainSpeakerNet.py", *flags, "--dry_run").returncode == 0
    assert not (tmp_path / "run").exists()
    wrong = run(tree, "trainSpeakerNet.py", *flags, "--dry_run", "--tri_stage_ratios", 1, 0, 0)
    assert wrong.returncode == 2 and "--tri_stage_ratios has no effect" in wrong.stderr
    wrong = run(tree, "trainSpeakerNet.py", *flags, "--score_norm", "s-norm")
    assert wrong.returncode == 2 and "give --enroll_training_data too" in wrong.stderr


@pytest.mark.parametrize(
    "network", [{"model": "ECAPA", "channels": 64}, {"model": "XVector"}], ids=["ecapa", "xvector"]
)
def test_networks_of_the_study_learn_from_scratch(server, tiny_corpus, tmp_path, network):
    flags = train_flags(
        tiny_corpus, tmp_path, trainfunc="aamsoftmax", margin=0.2, scheduler="cyclic", cycles=1, max_steps=40, lr=0.003,
        sampler="shuffle", nOut=64, crop_seconds=0.5, score_mode="cosine", front_end="mfcc", **network,
    )  # fmt: skip
    code, text = server.wait(server.launch(*flags, "--eval_first"))
    assert code == 0, text
    before, after = text.split("EER before training ")[1].split(" %, after ")
    assert float(after.split(" %")[0]) <= min(20, 0.7 * float(before))
