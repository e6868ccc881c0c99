"""Tests generated over every file in loss/, a newly dropped-in one included, and tests of what each loss promises."""

import math
import os

import attribute_losses
import pytest
import torch
from torch import distributed, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from engine.registry import build, load, names
from loss.triplet import equal_error_rate
from scoring.metrics import eer

DIM, CLASSES, SPEAKERS = 12, 7, 6
OPTIONS = {"nOut": DIM, "nClasses": CLASSES, "margin": 0.2, "scale": 10, "hard_rank": 1, "hard_prob": 1.0}
FILES = names("loss", "speaker")
MARGIN = ("aamsoftmax", "amsoftmax", "subcenter")
METRIC = ("angleproto", "ge2e", "proto", "triplet")
OURS = (*MARGIN, *METRIC, "softmax", "softmaxproto")


def make(name, seed=0, **options):
    torch.manual_seed(seed)
    return build(load("loss", name), {**OPTIONS, **options})


def inputs(name, speakers=SPEAKERS, spread=0.3, dim=DIM):
    """Return embeddings of `speakers` that lie apart, (speakers, dim) or (speakers, nPerSpeaker, dim), and labels."""
    torch.manual_seed(1)
    each = getattr(load("loss", name), "MIN_UTTERANCES", 1)
    x = torch.randn(speakers, 1, dim) + spread * torch.randn(speakers, each, dim)
    return x if each > 1 else x.squeeze(1), torch.randperm(CLASSES)[:speakers]


# ---------------------------------------------------------------- every loss


@pytest.mark.parametrize("name", FILES)
def test_gives_loss_accuracy_and_gradients(name):
    loss, (x, label) = make(name), inputs(name, spread=1.0)
    value, accuracy = loss(x.requires_grad_(), label)
    value.backward()
    assert value.ndim == 0 and value.isfinite() and 0 <= float(accuracy) <= 100
    assert torch.is_tensor(accuracy) and accuracy.numel() == 1 and not accuracy.requires_grad
    assert x.grad.isfinite().all() and x.grad.abs().sum() > 0
    for parameter, tensor in loss.named_parameters():
        assert tensor.grad is not None and tensor.grad.isfinite().all(), parameter


@pytest.mark.parametrize("name", FILES)
def test_stays_in_float32_under_autocast(name):
    loss, (x, label) = make(name, scale=30), inputs(name)
    with torch.autocast("cpu", torch.bfloat16):
        value, _ = loss(x.bfloat16(), label)
    assert value.isfinite()
    if name in OURS:
        assert value.dtype == torch.float32 and value == loss(x.bfloat16().float(), label)[0]


@pytest.mark.parametrize("name", FILES)
def test_training_lowers_it(name):
    loss, (x, label) = make(name), inputs(name, spread=1.0)
    layer = nn.Linear(DIM, DIM)
    before = {n: p.detach().clone() for n, p in loss.named_parameters()}
    optimizer = torch.optim.SGD([*layer.parameters(), *loss.parameters()], lr=0.05)
    values = []
    for _ in range(60):
        value, _ = loss(layer(x), label)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.8 * values[0]
    # a bias common to all logits has no gradient
    assert all((p != before[n]).any() for n, p in loss.named_parameters() if n.split(".")[-1] != "b")


@pytest.mark.parametrize("name", OURS)
def test_order_of_the_speakers_does_not_matter(name):
    loss, (x, label) = make(name, hard_rank=0), inputs(name)
    order = torch.randperm(SPEAKERS)
    for value, permuted in zip(loss(x, label), loss(x[order], label[order])):
        torch.testing.assert_close(value, permuted)


@pytest.mark.parametrize("name", (*METRIC, "softmaxproto"))
def test_wrong_number_of_utterances_is_named(name):
    loss, (x, label) = make(name), inputs(name)
    for wrong in [x[:, :1], x[:, 0], *([torch.cat([x, x], 1)] if loss.MAX_UTTERANCES else [])]:
        with pytest.raises(ValueError, match=f"{name} needs .* 2 utterances per speaker.*nPerSpeaker"):
            loss(wrong, label)


@pytest.mark.parametrize("name", (*MARGIN, "softmax"))
def test_classification_takes_several_utterances_as_rows(name):
    loss, (x, label) = make(name), inputs(name)
    several = torch.stack([x, x + 0.1], 1)
    rows = torch.stack([x, x + 0.1]).flatten(0, 1)
    for value, expected in zip(loss(several, label), loss(rows, label.repeat(2))):
        torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("name", OURS)
def test_no_nan_where_vectors_are_equal_or_zero(name):
    loss, (x, label) = make(name), inputs(name)
    for case in (torch.ones_like(x), torch.zeros_like(x)):
        value, accuracy = loss(case.requires_grad_(), label)
        value.backward()
        assert value.isfinite() and accuracy.isfinite() and case.grad.isfinite().all()


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("hard_rank", [1, -1])
def test_forward_does_not_wait_for_the_device(name, hard_rank):
    x, label = inputs(name)
    with FakeTensorMode() as mode:  # whose tensors have no values: reading one back fails
        loss = make(name, hard_rank=hard_rank, inter_topk=2)
        value, accuracy = loss(mode.from_tensor(x).requires_grad_(), mode.from_tensor(label))
        value.backward()
    assert value.shape == accuracy.shape == ()


@pytest.mark.parametrize("name", (*METRIC, "softmaxproto"))
def test_compiled_equals_eager(name):
    loss, (x, label) = make(name, hard_rank=0), inputs(name)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(loss, backend="eager")(x, label), loss(x, label))


# ---------------------------------------------------------------- margins


def cosines(x, vectors):
    """Return cosines one by one."""
    return torch.stack([torch.stack([a @ b / (a.norm() * b.norm()) for b in vectors]) for a in x])


def test_no_margin_is_scaled_cosine_softmax():
    (x, label), plain = inputs("softmax"), {}
    for name in ("amsoftmax", "aamsoftmax"):
        loss = make(name, margin=0.0)
        plain[name] = cross_entropy(10 * cosines(x, loss.class_vectors()), label)
        torch.testing.assert_close(loss(x, label)[0], plain[name])


@pytest.mark.parametrize("easy", [False, True])
def test_angular_margin_is_added_to_the_angle(easy):
    x, label = inputs("softmax", spread=0.1)
    loss = make("aamsoftmax", easy_margin=easy)
    cosine = cosines(x, loss.weight)
    angle = cosine.gather(1, label[:, None]).acos()
    moved = (angle + 0.2).cos()
    if easy:
        moved = torch.where(angle < math.pi / 2, moved, angle.cos())
    torch.testing.assert_close(loss(x, label)[0], cross_entropy(10 * cosine.scatter(1, label[:, None], moved), label))


def test_continuous_fallback_has_no_jump_and_the_usual_one_has():
    cosine = torch.linspace(-1, 1, 200_001, dtype=torch.float64)[:, None]
    steps = {}
    for continuous in (False, True):
        loss = make("aamsoftmax", continuous_fallback=continuous)
        steps[continuous] = loss.with_margin(cosine, torch.tensor(0.2, dtype=torch.float64)).diff(dim=0)
    assert steps[True].min() > 0 and steps[True].max() < 1e-2
    assert steps[False].max() == pytest.approx(0.0198, abs=2e-4)


@pytest.mark.parametrize("name", MARGIN)
def test_finite_at_cosine_one_and_minus_one(name):
    loss = make(name, scale=30)
    for sign in (1, -1):
        x = (sign * 3 * loss.class_vectors().detach()[:CLASSES]).clone().requires_grad_()
        value, _ = loss(x, torch.arange(CLASSES) // loss.sub_centres)
        value.backward()
        assert value.isfinite() and x.grad.isfinite().all()
        assert all(p.grad.isfinite().all() for p in loss.parameters())


@pytest.mark.parametrize("name", ("aamsoftmax", "amsoftmax"))
def test_nearest_sub_centre_counts(name):
    (x, label), one, three = inputs("softmax"), make(name), make(name, sub_centres=3)
    vectors = three.class_vectors()
    best = cosines(x, vectors).unflatten(1, (CLASSES, 3)).max(2)
    chosen = best.indices.gather(1, label[:, None])
    target = three.with_margin(best.values.gather(1, label[:, None]), torch.tensor(0.2))
    expected = cross_entropy(10 * best.values.scatter(1, label[:, None], target), label)
    torch.testing.assert_close(three(x, label)[0], expected)
    assert (chosen > 0).any(), "the test is empty if only first centres count"
    parameter, copies = next(iter(three.parameters())), next(iter(one.parameters()))
    with torch.no_grad():
        parameter.copy_(copies.repeat_interleave(3, dim=0 if name == "aamsoftmax" else 1))
    torch.testing.assert_close(three(x, label), one(x, label))


def test_subcenter_is_aamsoftmax_with_its_numbers():
    x, label = inputs("softmax")
    recipe, parts = make("subcenter"), make("aamsoftmax", sub_centres=3, inter_topk=5, inter_topk_margin=0.06)
    assert recipe(x, label) == parts(x, label)
    assert recipe.state_dict().keys() == {"weight"} and recipe.weight.shape == (3 * CLASSES, DIM)


@pytest.mark.parametrize("name", ("aamsoftmax", "amsoftmax"))
@pytest.mark.parametrize("k,margin_now", [(2, 0.2), (2, 0.05), (100, 0.2)])
def test_the_nearest_other_classes_are_penalised(name, k, margin_now):
    x, label = inputs("softmax")
    loss = make(name, inter_topk=k, inter_topk_margin=0.1)
    loss.set_margin(margin_now)
    logits = cosines(x, loss.class_vectors()).detach()
    for row, own in zip(logits, label.tolist()):
        others = sorted((j for j in range(CLASSES) if j != own), key=lambda j: -row[j].item())
        for j in others[:k]:
            row[j] = (row[j].acos() - 0.1 * margin_now / 0.2).cos()
        row[own] = (row[own].acos() + margin_now).cos() if name == "aamsoftmax" else row[own] - margin_now
    torch.testing.assert_close(loss(x, label)[0], cross_entropy(10 * logits, label))


@pytest.mark.parametrize("name", MARGIN)
def test_set_margin_changes_the_margin_and_not_the_checkpoint(name):
    x, label = inputs("softmax")
    loss, fixed = make(name, inter_topk=0), make(name, inter_topk=0, margin=0.05)
    start = loss(x, label)[0]
    loss.set_margin(0.05)
    if name != "subcenter":  # whose second margin is a share of the final one
        assert loss(x, label) == fixed(x, label)
    assert loss(x, label)[0] < start
    assert "current_margin" not in loss.state_dict()
    loss.set_margin(0.2)
    assert loss(x, label)[0] == start


def test_set_margin_works_in_a_compiled_loss_without_compiling_again():
    (x, label), loss = inputs("softmax"), make("aamsoftmax", inter_topk=2)
    torch._dynamo.reset()
    compiled = torch.compile(loss, backend="eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for margin in (0.0, 0.1, 0.15, 0.2):
            loss.set_margin(margin)
            torch.testing.assert_close(compiled(x, label), loss(x, label))


@pytest.mark.parametrize("options", [{"nClasses": 0}, {"sub_centres": 0}, {"inter_topk": -1}, {"margin": 30}])
def test_impossible_margin_options_are_named(options):
    with pytest.raises(ValueError, match=f"--{next(iter(options))}"):
        make("aamsoftmax", **options)


# ---------------------------------------------------------------- metric losses


def test_proto_uses_the_distances_of_all_pairs():
    x, _ = inputs("proto", speakers=5)
    x = torch.cat([x, x[:, 1:] + 0.3], 1)
    logits = torch.stack([torch.stack([-((q - c) ** 2).sum() for c in x[:, 1:].mean(1)]) for q in x[:, 0]])
    torch.testing.assert_close(make("proto")(x)[0], cross_entropy(logits, torch.arange(5)))


def test_ge2e_leaves_an_utterance_out_of_its_own_centroid():
    x = torch.cat([inputs("ge2e")[0], inputs("ge2e", spread=0.5)[0]], 1)
    rows, labels = [], []
    for i in range(SPEAKERS):
        for k in range(x.shape[1]):
            centroids = x.mean(1)
            centroids[i] = (x[i].sum(0) - x[i, k]) / (x.shape[1] - 1)
            rows.append(10 * cosines(x[i, k][None], centroids)[0].clamp(min=1e-6) - 5)
            labels.append(i)
    torch.testing.assert_close(make("ge2e")(x)[0], cross_entropy(torch.stack(rows), torch.tensor(labels)))


@pytest.mark.parametrize("name", ("angleproto", "ge2e"))
def test_the_scale_stays_positive(name):
    loss, (x, label) = make(name), inputs(name)
    with torch.no_grad():
        loss.w.fill_(-3.0)
    loss(x, label)[0].backward()
    assert loss.w == torch.tensor(1e-6)


def test_softmaxproto_is_the_sum_of_its_parts():
    loss, (x, label) = make("softmaxproto"), inputs("softmaxproto")
    classified, accuracy = loss.softmax(x.flatten(0, 1), label.repeat_interleave(2))
    torch.testing.assert_close(loss(x, label), (classified + loss.angleproto(x)[0], accuracy))


def draws(cosine, **options):
    """Return the set of negatives of each anchor in 300 draws."""
    loss = make("triplet", **options)
    chosen = torch.stack([loss.choose(cosine) for _ in range(300)])
    return [set(column.tolist()) for column in chosen.T]


def test_hard_negatives_are_the_nearest_others():
    torch.manual_seed(0)
    cosine = torch.rand(SPEAKERS, SPEAKERS)
    nearest = [[j for j in row.argsort(descending=True).tolist() if j != i] for i, row in enumerate(cosine)]
    for rank in (0, 1, 3, SPEAKERS - 2, 50):
        assert draws(cosine, hard_rank=rank) == [set(others[: rank + 1]) for others in nearest]
    assert draws(cosine, hard_rank=0, hard_prob=0.0) == [set(others) for others in nearest]


def test_hard_probability_is_the_share_of_hard_draws():
    cosine = torch.eye(2000).roll(1, 0)
    loss = make("triplet", hard_rank=0, hard_prob=0.3)
    share = (cosine.gather(1, loss.choose(cosine)[:, None]) == 1).float().mean()
    assert abs(share - 0.3) < 0.05


def test_semi_hard_negatives_are_a_little_farther_than_the_positive():
    torch.manual_seed(0)
    cosine = torch.rand(SPEAKERS, SPEAKERS)
    cosine.diagonal().copy_(torch.tensor([0.9, 0.8, 0.7, 0.6, 0.0, 2.0]))  # no candidate for the last two
    similarity, expected = 2 * cosine - 2, []
    for i, row in enumerate(similarity):
        others = set(range(SPEAKERS)) - {i}
        fitting = {j for j in others if row[i] - 0.5 < row[j] < row[i]}
        expected.append(fitting or others)
    assert any(len(e) < SPEAKERS - 1 for e in expected) and len(expected[5]) == SPEAKERS - 1
    assert draws(cosine, hard_rank=-1, margin=0.5) == expected


def test_triplet_needs_two_speakers():
    with pytest.raises(ValueError, match="2 speakers"):
        make("triplet")(inputs("triplet")[0][:1])


def test_training_eer_is_the_evaluations():
    torch.manual_seed(0)
    for levels in (2, 5, 20, 10_000):
        for size in (1, 2, 3, 8, 50):
            near, far = torch.randint(levels, (2, size)).float() / levels
            scores, labels = -torch.cat([near, far]), torch.arange(2 * size) < size
            expected, _ = eer(scores.numpy(), labels.numpy().astype(int))
            assert equal_error_rate(near, far).item() == pytest.approx(expected, abs=1e-4), (near, far)


# ---------------------------------------------------------------- several processes


class System(nn.Module):
    """A linear network and a loss, trained on a batch of 6 speakers."""

    def __init__(self, name, options):
        super().__init__()
        torch.manual_seed(0)
        self.network, self.loss = nn.Linear(8, DIM), make(name, **options)

    def forward(self, x, label):
        return self.loss(self.network(x), label)


SHARED = [(name, {}) for name in OURS] + [
    ("triplet", {"hard_rank": 3, "hard_prob": 0.5}),
    ("triplet", {"hard_rank": -1, "margin": 1.0}),
    *((name, {}) for name in attribute_losses.NAMES),
]


def step(name, options, rank, world):
    """Return (loss, accuracy, gradients) of this process for its share of the batch."""
    if name in attribute_losses.NAMES:
        return attribute_losses.step(name, options, rank, world)
    x, label = inputs(name, dim=8)
    system = System(name, options)
    if hasattr(system.loss, "set_margin"):
        system.loss.set_margin(0.15)
    model = DistributedDataParallel(system) if world > 1 else system
    torch.manual_seed(7 + rank)  # as in training, every process draws differently
    share = slice(rank * SPEAKERS // world, (rank + 1) * SPEAKERS // world)
    value, accuracy = model(x[share], label[share])
    value.backward()
    return value.detach(), accuracy, {n: p.grad for n, p in system.named_parameters()}


def worker(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save([step(name, options, rank, 2) for name, options in SHARED], f"{folder}/{rank}.pt")
    distributed.barrier()
    os._exit(0)  # as engine.distributed.leave() does: gloo's threads may abort an interpreter that is torn down


def test_two_processes_equal_one(tmp_path):
    torch.multiprocessing.spawn(worker, args=(str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for (name, options), first, second in zip(SHARED, *ranks):
        value, accuracy, gradients = step(name, options, 0, 1)
        same = {"rtol": 1e-4, "atol": 1e-6}
        if name in METRIC:
            # the loss of the whole batch on every process
            torch.testing.assert_close(first[:2], (value, accuracy), **same)
            torch.testing.assert_close(second[:2], (value, accuracy), **same)
        torch.testing.assert_close((first[0] + second[0]) / 2, value, **same)
        for found in (first[2], second[2]):
            torch.testing.assert_close(found, gradients, **same, msg=lambda text, n=name: f"{n}: {text}")
