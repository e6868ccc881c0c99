"""Tests of attention, its parts and positions: local attention against a mask on full attention, cost, causality."""

import math

import pytest
import torch
from torch.nn import functional

from engine import registry
from models.blocks.attention import Attention, parts, reach, skew, visible
from models.blocks.frame_ops import DepthwiseConv, Dropout
from models.blocks.positions import distance_table, sinusoids

POSITIONS = ("absolute", "relative")
FAMILIES = ("transformer", "conformer")
SMALL = {"d_model": 16, "heads": 2, "blocks": 2, "d_ff": 32}
PUBLISHED = {"transformer": 41_604_768, "conformer": 76_484_256}


def make(positions, context, causal=False, heads=2, channels=8):
    torch.manual_seed(0)
    layer = Attention(channels, heads, context, positions, causal=causal).double().eval()
    if positions == "relative":  # in the scale of the keys: what is wrong in them must be seen
        torch.nn.init.normal_(layer.linear_pos.weight)
    return layer


def by_definition(layer, x):
    """Return what `layer` is to return by sums over all pairs of frames, those that are not visible masked."""
    batch, frames, channels = x.shape
    q, k, v = layer.qkv(x).view(batch, frames, 3, layer.heads, -1).permute(2, 0, 3, 1, 4)
    u, w = (layer.u[:, None], layer.v[:, None]) if layer.relative else (0.0, 0.0)
    scores = torch.einsum("bhic,bhjc->bhij", q + u, k)
    if layer.relative:
        distance = torch.arange(frames)[:, None] - torch.arange(frames)
        table = sinusoids(distance.flatten(), channels).to(x)
        places = layer.linear_pos(table).view(frames, frames, layer.heads, -1)
        scores = scores + torch.einsum("bhic,ijhc->bhij", q + w, places)
    scores = scores / math.sqrt(channels / layer.heads)
    scores = scores.masked_fill(~visible(frames, layer.context, layer.causal), -torch.inf)
    y = scores.softmax(3) @ v
    return layer.linear_out(y.transpose(1, 2).reshape(batch, frames, channels))


def check(layer, frames):
    """Fail unless `layer` gives what the definition gives, and the same gradients for some of the short inputs."""
    torch.manual_seed(frames)
    x = torch.randn(
        2, frames, layer.qkv.in_features, dtype=torch.float64, requires_grad=frames <= 80 and frames % 4 == 3
    )
    if not x.requires_grad:
        with torch.no_grad():
            torch.testing.assert_close(layer(x, table(layer, frames)), by_definition(layer, x))
        return
    weights, found = [x, *layer.parameters()], []
    for y in (layer(x, table(layer, frames)), by_definition(layer, x)):
        found.append((y, *torch.autograd.grad(y.square().sum(), weights)))
    torch.testing.assert_close(*found)


def table(layer, frames):
    return distance_table(reach(frames, layer.context), layer.qkv.in_features) if layer.relative else None


@pytest.mark.parametrize("causal", (False, True), ids=("", "causal"))
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("context", (None, 1, 2, 3, 4, 7, 10, 25))
def test_attention_is_that_of_its_definition(positions, context, causal):
    layer = make(positions, context, causal)
    for frames in range(1, 81):
        check(layer, frames)


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("frames, context", ((400, 25), (701, 25), (1237, 25), (701, 8), (1237, 50)))
def test_long_sequences_see_no_filled_frames(frames, context, positions):
    check(make(positions, context), frames)
    block = reach(frames, context)
    assert block * round(frames / context) > frames or frames == 400, "nothing to fill in"


def test_what_an_interior_frame_sees():
    seen, block = visible(1000, 25), reach(1000, 25)
    assert block == 25 and torch.equal(seen, seen.T) and seen.diagonal().all()
    assert set(seen.sum(1)[block:-block].tolist()) == {block + block // 2, block + block - block // 2}
    assert visible(50, 25).all() and not visible(51, 25).all() and reach(7, None) == 7
    assert sum((end - start) * (last - first) for start, end, first, last in parts(25, False)) == 12 * 38 + 13 * 37


@pytest.mark.parametrize("queries, keys", ((1, 5), (4, 4), (3, 6), (6, 2)))
def test_skew_moves_distances_to_keys(queries, keys):
    by_distance = torch.arange(queries + keys - 1).expand(2, queries, -1).contiguous()
    expected = torch.arange(keys) - torch.arange(queries)[:, None] + queries - 1
    moved = skew(by_distance, keys)
    assert torch.equal(moved[0], expected) and moved.data_ptr() >= by_distance.data_ptr()


def kept_numbers(layer, frames):
    """Return how many numbers one call of `layer` keeps for its gradient, weights left out, and the largest tensor."""
    sizes = {}

    def pack(tensor):
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // 4
        return tensor

    x = torch.randn(1, frames, layer.qkv.in_features, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = layer(x)  # kept until counted: a freed address could come again
    weights = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    kept = [n for address, n in sizes.items() if address not in weights]
    assert y.shape == x.shape
    return sum(kept), max(kept)


def test_memory_of_local_attention_is_linear():
    torch.manual_seed(0)
    local, full = (Attention(16, 1, context, "relative") for context in (25, None))
    (few, _), (many, largest), (everything, _) = (
        kept_numbers(*case) for case in ((local, 1500), (local, 3000), (full, 3000))
    )
    assert 1.9 < many / few < 2.1
    assert many < everything / 10 and largest < 3000 * 60, "a tensor of all pairs of frames"


@pytest.mark.parametrize("family", FAMILIES)
def test_causal_networks_do_not_look_ahead(family):
    torch.manual_seed(0)
    for positions, context in (("absolute", None), ("relative", 5)):
        network = registry.load_backbone(family)[0](
            6,
            **SMALL,
            causal=True,
            positions=positions,
            context=context,
            **({"conv_kernel": 7} if family == "conformer" else {}),
        ).eval()
        x = torch.randn(1, 6, 40)
        changed = x.clone()
        changed[..., 23:] += torch.randn(1, 6, 17)
        with torch.no_grad():
            a, b = network(x), network(changed)
        torch.testing.assert_close(a[..., :23], b[..., :23])
        assert (a[..., 23:] - b[..., 23:]).abs().amax(1).min() > 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_is_off_in_evaluation_and_repeats_with_the_seed(family):
    network = registry.load_backbone(family)[0](
        6, **SMALL, context=5, dropout=0.3, attention_dropout=0.3, positions="relative"
    )
    x = torch.randn(2, 6, 33)
    a, b = (network.eval()(x) for _ in range(2))
    assert torch.equal(a, b)
    network.train()
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(network(x))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("family", FAMILIES)
def test_published_sizes(family):
    with torch.device("meta"):
        encoder, decoder = registry.load_backbone(family)
        options = {"context": 25, "positions": "relative"}
        networks = encoder(80, **options), decoder(512, **options)
    # and the projections to 512 latent channels and to the mean of 80 bins, and one log-variance per bin
    count = sum(p.numel() for network in networks for p in network.parameters())
    assert count + 513 * 512 + 513 * 80 + 80 == PUBLISHED[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_subsampling_encoders(family):
    encoder, decoder = registry.load_backbone(family)
    network = encoder(16, **SMALL, input_layer="conv").eval()
    for frames in (1, 2, 3, 4, 5, 8, 61):
        with torch.no_grad():
            assert network(torch.randn(2, 16, frames)).shape == (2, 16, network.out_frames(frames))
    assert network.stride == 4 and network.out_frames(61) == 16
    with pytest.raises(ValueError, match="at least 7 bins: 6"):
        encoder(6, **SMALL, input_layer="conv")
    with pytest.raises(ValueError, match="looks ahead"):
        encoder(16, **SMALL, input_layer="conv", causal=True)
    with pytest.raises(ValueError, match="for encoders"):
        decoder(16, **SMALL, input_layer="conv")


WRONG = (
    ({"heads": 3}, "d_model 16 is not a multiple of 3 heads"),
    ({"context": 0}, "context 0"),
    ({"positions": "rotary"}, "positions 'rotary': one of absolute, relative"),
    ({"blocks": 0}, "at least one block"),
    ({"input_layer": "pool"}, "input_layer 'pool': one of linear, conv"),
    ({"activation": "rely"}, "choose from relu6"),
    ({"dropout": 1.5}, "dropout"),
)


@pytest.mark.parametrize("options, message", WRONG)
def test_wrong_options_are_one_clear_error(options, message):
    for family in FAMILIES:
        with pytest.raises(ValueError, match=message) as caught:
            registry.load_backbone(family)[0](6, **{**SMALL, **options})
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="8 frames: an odd number"):
        registry.load_backbone("conformer")[0](6, **SMALL, conv_kernel=8)
    with pytest.raises(ValueError, match="5 channels"):
        sinusoids(torch.arange(3), 5)


# ---------------------------------------------------------------- operations with a form of their own on a CPU


@pytest.mark.parametrize("causal", (False, True), ids=("", "causal"))
@pytest.mark.parametrize("kernel", (1, 3, 31, 33, 71))
def test_depthwise_convolution_is_that_of_torch(kernel, causal):
    layer = DepthwiseConv(5, kernel, causal).double()
    around = (kernel - 1, 0) if causal else (kernel // 2, kernel // 2)
    for frames in (1, 2, 31, 32, 33, 65, 200):
        x = torch.randn(2, frames, 5, dtype=torch.float64, requires_grad=True)
        expected = functional.conv1d(functional.pad(x.mT, around), layer.weight, groups=5).mT
        cotangent, found = torch.randn_like(expected), []
        for y in (layer(x), expected):
            found.append((y, *torch.autograd.grad(y, (x, layer.weight), cotangent)))
        torch.testing.assert_close(*found)


def test_dropout_keeps_its_share_and_the_mean():
    torch.manual_seed(0)
    for share in (0.1, 0.5, 0.9):
        x = torch.ones(1001, 999, requires_grad=True)
        y = Dropout(share)(x)
        kept = y > 0
        assert abs(kept.float().mean() - (1 - share)) < 0.002  # 4 standard deviations of a million draws
        assert torch.allclose(y[kept], torch.tensor(1 / (1 - share)), rtol=1e-3)
        y.sum().backward()
        assert torch.equal(x.grad, y.detach())
        columns = kept.float().mean(0)  # neighbours come from one word of random bits
        assert all(abs(columns[i::4].mean() - (1 - share)) < 0.003 for i in range(4))
        assert abs((kept[:, 1:] & kept[:, :-1]).float().mean() - (1 - share) ** 2) < 0.004
    x = torch.randn(7)
    assert torch.equal(Dropout(0.4).eval()(x), x) and torch.equal(Dropout(0.0)(x), x) and not Dropout(1.0)(x).any()
    assert Dropout(0.5)(torch.ones(3, 0)).shape == (3, 0) and Dropout(0.5)(x.bfloat16()).dtype == torch.bfloat16
