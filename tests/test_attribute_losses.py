"""Tests generated over every loss of attribute codes, a newly dropped-in one included, and of what each promises."""

import itertools
import math

import pytest
import torch
from attribute_losses import NAMES, SIZES, Coder, make, speakers
from torch.nn import functional

from engine import registry
from loss import _mining
from loss._mining import TYPES, bounds, count_triplets, distances, occurrences, weighted_sum
from models.AttributeEncoder import MainModel

OURS = ("code_arcface", "code_mse", "code_sparsity", "code_triplet")
COMBINATIONS = [c for count in range(1, 5) for c in itertools.combinations(OURS, count)]
COMBINATIONS += [(name,) for name in NAMES if name not in OURS]


def codes(classes=8, each=6, seed=3):
    """Return bits (classes * each, 24) that agree within a class more often than between, and labels."""
    z, labels = speakers(classes, each, SIZES["internal_dim"], spread=1.0, seed=seed)
    return (z > 0).float(), labels


# ---------------------------------------------------------------- every loss


@pytest.mark.parametrize("name", NAMES)
def test_gives_a_loss_that_moves_the_encoder(name):
    coder, (x, labels) = Coder(name), speakers()
    value = coder(x, labels)
    value.backward()
    assert value.shape == () and value.isfinite() and value > 0
    assert coder.encoder.weight.grad.isfinite().all() and coder.encoder.weight.grad.abs().max() > 0
    assert all(p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in coder.loss.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_stays_in_float32_under_autocast(name):
    coder, (x, labels) = Coder(name), speakers()
    given = [tensor.bfloat16() for tensor in (x, *codes()[:1], x + 1, coder.encoder(x).tanh())]
    with torch.autocast("cpu", torch.bfloat16):
        assert coder(x, labels).isfinite()
        value = coder.loss(given[0], labels, *given[1:])
    assert value.dtype == torch.float32
    if name in OURS:
        wide = [tensor.float() for tensor in given]
        assert value == coder.loss(wide[0], labels, *wide[1:])


@pytest.mark.parametrize("name", NAMES)
def test_says_what_the_trainer_asks(name):
    cls = registry.load("loss", name, "attributes")
    assert 0 < cls.DEFAULT_WEIGHT <= 1 and isinstance(cls.NEEDS_TRAIN_CLASSES, bool)


@pytest.mark.parametrize("name", OURS)
def test_order_of_the_utterances_does_not_matter(name):
    coder, (x, labels) = Coder(name), speakers()
    order = torch.randperm(len(x))
    torch.testing.assert_close(coder(x, labels), coder(x[order], labels[order]))


@pytest.mark.parametrize("name", OURS)
def test_finite_where_codes_are_equal_or_zero(name):
    loss, (x, labels) = make(name), speakers()
    for bits in (0.0, 1.0):
        code = torch.full((len(x), SIZES["internal_dim"]), bits, requires_grad=True)
        (loss(x, labels, code, code[:, :12] - x, code - 0.5) + 0 * code.sum()).backward()
        assert code.grad.isfinite().all() and code.grad.abs().max() < 100


@pytest.mark.parametrize("name", OURS)
def test_batches_of_one_utterance_or_one_speaker(name):
    coder, (x, labels) = Coder(name), speakers()
    for count in (1, 2, 6):
        assert coder(x[:count], labels[:count]).isfinite()


@pytest.mark.parametrize("name", OURS)
def test_forward_does_not_wait_for_the_device(name):
    x, labels = (tensor.to("meta") for tensor in speakers())  # no values: reading one back fails
    coder = Coder(name).to("meta")
    z = coder.encoder(x)
    # autocast knows no such device, so without the decorator
    value = type(coder.loss).forward.__wrapped__(coder.loss, x, labels, z.sign(), coder.decoder(z), z)
    value.backward()
    assert value.shape == ()


# ---------------------------------------------------------------- training


def share_of_wrong_triplets(code, labels):
    wrong, every = (count_triplets(distances(code), labels, kind, 9.0)[0].sum() for kind in ("hard", "all"))
    return wrong / every


# what a loss is there to lower; of one dropped in, its own value
MEASURES = {
    "code_mse": lambda loss, x, labels, code, reconstruction, z: functional.mse_loss(reconstruction, x),
    "code_sparsity": lambda loss, x, labels, code, reconstruction, z: code.mean(),
    "code_triplet": lambda loss, x, labels, code, reconstruction, z: share_of_wrong_triplets(code, labels),
    "code_arcface": lambda loss, x, labels, code, *_: (loss.cosines(code).argmax(1) != labels).float().mean(),
}
# embeddings of size 1 instead of 0.2 make the mse large, and the others sum over 24 attributes instead of 512
WEIGHTS = {"code_sparsity": 0.02, "code_arcface": 0.02}


@pytest.mark.parametrize("chosen", COMBINATIONS, ids="+".join)
def test_training_lowers_what_it_should(chosen):
    x, labels = speakers()
    losses = {name: make(name) for name in chosen}
    network = MainModel(12, SIZES["internal_dim"]).train()
    parameters = [*network.parameters(), *(p for loss in losses.values() for p in loss.parameters())]
    before = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.Adam(parameters, lr=0.003)
    measured = []
    for _ in range(80):
        reconstruction, code, z = network(x)
        values = {name: loss(x, labels, code, reconstruction, z) for name, loss in losses.items()}
        with torch.no_grad():
            given = (x, labels, code, reconstruction, z)
            measured.append({
                name: MEASURES[name](loss, *given).item() if name in MEASURES else values[name].item()
                for name, loss in losses.items()
            })  # fmt: skip
        optimizer.zero_grad()
        sum(WEIGHTS.get(name, losses[name].DEFAULT_WEIGHT) * value for name, value in values.items()).backward()
        optimizer.step()
    for name in chosen:
        assert measured[-1][name] < 0.95 * measured[0][name], (name, measured[0], measured[-1])
    assert all((p != b).any() for p, b in zip(parameters, before) if p.grad is not None)


# ---------------------------------------------------------------- triplets


def every_triplet(distance, labels, kind, margin, below=math.inf):
    """Return the triplets of a kind, (triplets, 3) rows of the batch."""
    low, high = bounds(kind, margin)
    same, gap = labels[:, None] == labels, distance[:, None, :] - distance[:, :, None]
    positive = same & ~torch.eye(len(labels), dtype=torch.bool)
    return (positive[:, :, None] & ~same[:, None, :] & (low < gap) & (gap <= high) & (gap < below)).nonzero()


@pytest.mark.parametrize("room", ["", "as on a GPU"])
@pytest.mark.parametrize("margin", [0.3, 0.05, -0.1])
def test_triplets_are_counted_as_if_listed(margin, room, monkeypatch):
    if room:
        monkeypatch.setattr(_mining, "_room", len)
    code, _ = codes(4, 5)
    code[3] = code[12] = code[7]  # equal within and between
    code[9] = 0
    labels = torch.tensor([7, 2, 2, 2, 7, 0, 5, 2, 2, 7, 2, 0, 2, 0, 2, 7, 2, 2, 0, 2])  # 5 is alone
    distance = distances(code)
    for kind, below in itertools.product(TYPES, (math.inf, 0.05, 0.4)):
        listed = every_triplet(distance, labels, kind, margin, below)
        expected = torch.zeros(2, 20, 20, dtype=torch.int64)
        for counts, other in zip(expected, (1, 2)):
            counts.index_put_((listed[:, 0], listed[:, other]), torch.tensor(1), accumulate=True)
        found = count_triplets(distance, labels, kind, margin, below)
        assert torch.equal(torch.stack(found), expected)
        assert torch.equal(occurrences(*found), listed.flatten().bincount(minlength=20))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("margin", [0.05, 0.5])
def test_triplet_loss_is_that_of_the_listed_triplets(kind, margin):
    code, labels = codes(5, 4)
    labels[:3] = 4  # unequal sizes
    found, expected = code.clone().requires_grad_(), code.double().requires_grad_()
    value = make("code_triplet", triplet_type=kind, triplet_margin=margin)(code, labels, found, code, code)
    unit = functional.normalize(expected)
    a, p, n = unit[every_triplet(distances(code), labels, kind, 0.3).T]
    loss = ((a - p).norm(dim=1) - (a - n).norm(dim=1) + margin).clamp(min=0)
    mean = loss.sum() / (loss > 0).sum().clamp(min=1)
    torch.testing.assert_close(value.double(), mean, rtol=1e-5, atol=1e-7)
    gradients = [torch.autograd.grad(v, x, allow_unused=True)[0] for v, x in ((value, found), (mean, expected))]
    torch.testing.assert_close(gradients[0].double(), gradients[1], rtol=1e-4, atol=1e-7)


def test_gradient_of_distances():
    code = torch.rand(6, 9, dtype=torch.float64) + 1
    weight = torch.randn(6, 6, dtype=torch.float64)
    function = lambda x: weighted_sum(x, distances(x.detach()), weight)  # noqa: E731
    # a step that is long beside the rounding of the distances
    assert torch.autograd.gradcheck(function, code.requires_grad_(), eps=1e-3, atol=1e-4)


def test_equal_distances_compare_equal():
    # three of nine bits shared and two of four: cosines 1/3 * 3 and 1/2 * 2 over the same root
    anchor, nine, four = torch.zeros(3, 24)
    anchor[:6] = nine[:3] = nine[6:12] = four[:2] = four[6:8] = 1
    distance = distances(torch.stack([anchor, nine, four]))
    assert distance[0, 1] == distance[0, 2] and torch.equal(distance, distance.T)


# ---------------------------------------------------------------- the others


def test_arcface_weights_are_shares_of_the_largest_count():
    code, labels = codes()
    loss = make("code_arcface")
    count = every_triplet(distances(code), labels, "all", 0.3).flatten().bincount(minlength=len(labels))
    torch.testing.assert_close(loss.weights(code, labels), count / count.max())
    assert (loss.weights(code, torch.zeros_like(labels)) == 1).all()  # no triplets


def test_arcface_takes_the_margin_from_the_own_class_only():
    code, labels = codes()
    plain, moved = (make("code_arcface", arcface_margin_degrees=degrees) for degrees in (0.0, 28.6))
    weights = plain.weights(code, labels)
    cosine = (functional.normalize(code, dim=1) @ functional.normalize(plain.W, dim=0)).detach()
    own = functional.one_hot(labels, SIZES["nClasses"]).bool()
    for loss, radians in ((plain, 0.0), (moved, math.radians(28.6))):
        logits = 64 * torch.where(own, (cosine.acos() + radians).cos(), cosine)
        expected = (weights * functional.cross_entropy(logits, labels, reduction="none")).mean()
        torch.testing.assert_close(loss(code, labels, code, code, code), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("clamp_max", [None, 1.0])
@pytest.mark.parametrize("per_speaker", [True, False])
def test_sparsity_of_any_number_of_utterances(clamp_max, per_speaker):
    torch.manual_seed(0)
    z, labels = torch.randn(11, SIZES["internal_dim"]), torch.tensor([9, 3, 3, 7, 3, 3, 3, 9, 3, 9, 3])
    loss = make("code_sparsity", sparsity_clamp_max=clamp_max, sparsity_per_speaker=per_speaker)
    assert loss.target.min() == 0 and loss.target.max() == 5 and "target" in loss.state_dict()
    sums = torch.stack([z[labels == speaker].sum(0) for speaker in (9, 3, 7)])
    excess = (sums - loss.target).clamp(min=0)
    expected = (excess if clamp_max is None else excess.clamp(max=clamp_max)).square().sum()
    given = z.clone().requires_grad_()
    value = loss(z, labels, z, z, given)
    value.backward()
    torch.testing.assert_close(value, expected / 3 if per_speaker else expected)
    steep = excess if clamp_max is None else excess * (excess < clamp_max)
    for speaker, row in zip((9, 3, 7), 2 * steep / (3 if per_speaker else 1)):
        for gradient in given.grad[labels == speaker]:
            torch.testing.assert_close(gradient, row)


@pytest.mark.parametrize(
    "name,options,message",
    [
        ("code_triplet", {"triplet_type": "any"}, "'any': one of all, hard"),
        ("code_arcface", {"nClasses": 1}, "at least 2 training speakers"),
        ("code_arcface", {"arcface_margin_degrees": 90.0}, "below 90"),
        ("code_arcface", {"arcface_miner_type": "some"}, "'some': one of all"),
        ("code_sparsity", {"sparsity_clamp_max": 0.0}, "must be above 0"),
    ],
)
def test_wrong_options_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        make(name, **options)


def test_each_script_gets_the_losses_of_its_task():
    assert set(OURS) <= set(registry.names("loss", "attributes"))
    assert not set(OURS) & set(registry.names("loss", "speaker")) and "softmax" in registry.names("loss", "speaker")
    with pytest.raises(ValueError, match="--trainfunc code_mse is for the task attributes, this script takes: aamsoft"):
        registry.load("loss", "code_mse", "speaker")
    with pytest.raises(ValueError, match="nearest: code_triplet; available: code_arcface"):
        registry.load("loss", "code_triplets", "attributes")
