"""wav2vec 2.0 as a speaker network: size, padding, layers, regularisation, freezing, processes, flags."""

import math
import os

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from engine.args import make_parser, parse
from models.blocks.wav2vec2_build import REGULARISATION, SIZES, build
from models.Wav2Vec2 import CLASS_TOKENS, VALUES, MainModel

LAYER_NORM = {"extractor_mode": "layer_norm", "extractor_conv_bias": True, "encoder_layer_norm_first": True}


def make(seed=0, **options):
    torch.manual_seed(seed)
    return MainModel(**{"size": "tiny", "regularisation": "none", **options})


def waves(batch=2, samples=8000, seed=1):
    return 0.1 * torch.randn(batch, samples, generator=torch.Generator().manual_seed(seed))


def gradients(network):
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


# ---------------------------------------------------------------- the network


@pytest.mark.parametrize("name", MainModel.ENCODERS)
def test_size_of_the_embedding_and_shortest_wave(name):
    network = make(encoder_type=name).train()
    embedding = network(waves(3))
    assert embedding.shape == (3, network.embedding_size)
    embedding.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)
    assert network.eval()(waves(2, 400)).isfinite().all()
    assert [network.frames_of(n) for n in (400, 719, 720, 32000, 48000)] == [1, 1, 2, 99, 149]
    assert network.frames_of(torch.tensor([400, 48000])).tolist() == [1, 149]


def test_class_token_goes_first_and_is_learnt_where_it_should():
    fixed, learnt = (make(encoder_type=name).train() for name in CLASS_TOKENS)
    assert "class_token" not in fixed.state_dict() and torch.equal(learnt.class_token, torch.ones(96))
    learnt.load_state_dict(fixed.state_dict(), strict=False)
    features = fixed.features(waves())
    assert fixed.hidden(features).shape == (2, 25, 96) and features.shape == (2, 64, 24)
    assert torch.equal(fixed.embed(features), learnt.embed(features))
    learnt(waves()).square().sum().backward()
    assert learnt.class_token.grad.abs().min() > 0


@pytest.mark.parametrize("sizes", [{}, LAYER_NORM, {"encoder_layer_norm_first": True}], ids=["group", "layer", "mixed"])
def test_equals_torchaudio_with_and_without_padding(sizes):
    network = make(sizes=sizes, freeze_cnn=False).eval()
    wave = waves(3, 8000)
    with torch.no_grad():
        expected, _ = network.wav2vec2(wave)
        features = network.convolve(wave)
        torch.testing.assert_close(network.hidden(features), expected, rtol=1e-5, atol=1e-5)
        lengths = torch.tensor([8000, 5000, 900])
        expected, frames = network.wav2vec2(wave, lengths)
        assert torch.equal(frames, network.frames_of(lengths))
        found = network.hidden(features, frames)
        for row, count in enumerate(frames):
            torch.testing.assert_close(found[row, :count], expected[row, :count], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["mean", "first+cls", "attentive"])
def test_a_padded_batch_equals_its_items(name):
    network = make(encoder_type=name, layer_sum=True).eval()
    parts = [network.features(waves(1, samples, seed=samples)) for samples in (8000, 5000, 500)]
    lengths = torch.tensor([p.shape[2] for p in parts])
    batch = torch.cat([nn.functional.pad(p, (0, 24 - p.shape[2]), value=9.0) for p in parts])
    with torch.no_grad():
        together = network.embed(batch, lengths)
        for row, part in enumerate(parts):
            torch.testing.assert_close(together[row : row + 1], network.embed(part), rtol=1e-4, atol=1e-5)


def test_gain_and_offset_of_the_wave_do_not_matter():
    network = make().eval()
    wave = waves()
    with torch.no_grad():
        torch.testing.assert_close(network(7 * wave + 0.2), network(wave), rtol=1e-3, atol=1e-4)
    normalised = []
    network.convolve = lambda wave: normalised.append(wave) or wave
    network.features(wave)
    expected = (wave - wave.mean(1, keepdim=True)) / (wave.std(1, keepdim=True) + 1e-5)
    torch.testing.assert_close(normalised[0], expected)


def test_sum_over_layers():
    network = make(layer_sum=True).train()
    plain = make().train()
    plain.load_state_dict({n: t for n, t in network.state_dict().items() if n != "layer_weights"})
    features = network.features(waves())
    projected = network.wav2vec2.encoder.feature_projection(features.transpose(1, 2))
    states = network.wav2vec2.encoder.transformer.get_intermediate_outputs(projected)
    first = network.wav2vec2.encoder.transformer._preprocess(projected)
    expected = (first + sum(states)) / 3  # equal weights at first
    torch.testing.assert_close(network.hidden(features), expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        network.layer_weights[2] = 100.0  # all the weight on the last layer
    torch.testing.assert_close(network.hidden(features), plain.hidden(features))
    with torch.no_grad():
        network.layer_weights.zero_()
    network(waves()).square().sum().backward()
    assert network.layer_weights.grad.abs().min() > 0


@pytest.mark.parametrize("regularisation", ["none", "default"])
def test_checkpointed_activations_change_nothing(regularisation):
    options = {"regularisation": regularisation, "freeze_cnn": False, "layerdrop": 0.4}
    found = []
    for checkpointed in (False, True):
        network = make(checkpoint_activations=checkpointed, layer_sum=True, **options).eval()
        quiet = network(waves())
        network.train()
        torch.manual_seed(6)
        network(waves()).square().sum().backward()
        found.append((quiet, gradients(network)))
    assert torch.equal(found[0][0], found[1][0]) and found[0][1].keys() == found[1][1].keys()
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, msg=name)


# ---------------------------------------------------------------- regularisation and freezing


def test_masked_frames_are_the_embedding_and_masked_channels_zero():
    network = make(mask_time_prob=0.5, mask_feature_prob=0.3, mask_feature_channels=20).train()
    x = torch.randn(3, 50, 96)
    torch.manual_seed(2)
    masked = network.mask(x)
    columns = (masked == 0).all(1)
    embedding = network.masked_spec_embed.expand_as(x)
    hidden = ((masked == embedding) | columns.unsqueeze(1)).all(2)
    assert hidden.any() and columns.any() and not hidden.all()
    kept = ~hidden.unsqueeze(2) & ~columns.unsqueeze(1)
    assert torch.equal(masked[kept], x[kept])
    features = network.features(waves())
    assert not torch.equal(network.hidden(features), network.hidden(features))
    network.wav2vec2.eval()  # as the trainer keeps it while it is frozen
    assert torch.equal(network.hidden(features), network.hidden(features))


@pytest.mark.parametrize("variant", REGULARISATION)
def test_values_of_a_variant_reach_the_modules(variant):
    values = REGULARISATION[variant]
    network = make(regularisation=variant)
    assert network.values == values and set(values) == set(VALUES)
    encoder = network.wav2vec2.encoder
    assert encoder.feature_projection.dropout.p == values["feat_proj_dropout"]
    assert encoder.transformer.dropout.p == values["hidden_dropout"]
    assert encoder.transformer.layer_drop == values["layerdrop"]
    for layer in encoder.transformer.layers:
        assert layer.attention.dropout == values["attention_dropout"]
        assert layer.dropout.p == layer.feed_forward.output_dropout.p == values["hidden_dropout"]
        assert layer.feed_forward.intermediate_dropout.p == values["activation_dropout"]
    assert network.final_dropout.p == values["final_dropout"]
    changed = make(regularisation=variant, hidden_dropout=0.3, mask_time_frames=7, layerdrop=0.0)
    assert changed.values == {**values, "hidden_dropout": 0.3, "mask_time_frames": 7, "layerdrop": 0.0}


def test_the_published_table():
    table = REGULARISATION
    on = {name for name, value in table["default"].items() if value}
    assert on == set(VALUES)
    assert table["paper"] == {**table["default"], "activation_dropout": 0.0, "mask_time_prob": 0.05}
    frames = {"mask_time_frames", "mask_feature_channels"}
    for variant, kept in {
        "none": set(),
        "dropout": {name for name in VALUES if name.endswith("dropout")},
        "masking": {"mask_time_prob", "mask_feature_prob"},
        "layerdrop": {"layerdrop"},
    }.items():
        assert {name for name, value in table[variant].items() if value} - frames == kept
        assert all(table[variant][name] == table["default"][name] for name in kept)


def test_dropout_before_the_classifier_in_training_only():
    network = make(final_dropout=0.5).train()
    with torch.no_grad():
        dropped = network(waves())
        kept = network.eval()(waves())
    assert 0.2 < (dropped == 0).float().mean() < 0.8
    torch.testing.assert_close(dropped[dropped != 0], 2 * kept[dropped != 0])


def test_skipped_layers():
    network = make(layerdrop=1.0, mask_time_prob=0.5).train()
    features = network.features(waves())
    projected = network.wav2vec2.encoder.feature_projection(features.transpose(1, 2))
    torch.testing.assert_close(
        network.transform(projected), network.wav2vec2.encoder.transformer._preprocess(projected)
    )
    network(waves()).square().sum().backward()
    found = gradients(network)
    assert all((found[name] == 0).all() == (".layers." in name) for name in found if "pos_conv" not in name), (
        "skipped layers have gradients of zeros, all else has others"
    )
    network = make(layerdrop=0.25).train()
    calls = []
    for layer in network.wav2vec2.encoder.transformer.layers:
        layer.register_forward_hook(lambda *_: calls.append(1))
    features = network.features(waves(1, 400))
    for _ in range(400):
        network.hidden(features)
    assert abs(len(calls) / 800 - 0.75) < 0.05
    network.wav2vec2.eval()
    calls.clear()
    network.hidden(features)
    assert len(calls) == 2


def test_what_is_frozen():
    assert make(initially_frozen=True, regularisation="default").freezing() == {
        "wav2vec2": 12500, "masked_spec_embed": 12500, "wav2vec2.feature_extractor": None
    }  # fmt: skip
    assert make(freeze_cnn=False, regularisation="default").freezing() == {}
    assert make().freezing() == {"wav2vec2.feature_extractor": None, "masked_spec_embed": None}
    options = {"initially_frozen": True, "regularisation": "paper", "freeze_cnn": False}
    assert make(num_frozen_steps=0, **options).freezing() == {}
    assert make(num_frozen_steps=-1, encoder_type="first+cls+learnable", **options).freezing() == dict.fromkeys(
        ["wav2vec2", "masked_spec_embed", "class_token"]
    )


def test_frozen_convolutions_have_no_graph_and_the_rest_learns():
    network = make(regularisation="default", layerdrop=0.0).train()
    features = network.features(waves())
    assert not features.requires_grad
    network(waves()).square().sum().backward()
    without = {name for name, p in network.named_parameters() if p.grad is None}
    assert without == {n for n, _ in network.named_parameters() if n.startswith("wav2vec2.feature_extractor.")}
    assert make(freeze_cnn=False).features(waves()).requires_grad


def test_fresh_weights_are_those_of_wav2vec2():
    model = build({**SIZES["tiny"], **LAYER_NORM}, REGULARISATION["none"])
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            assert abs(module.weight.std() / 0.02 - 1) < 0.05 and not module.bias.any(), name
        elif isinstance(module, nn.Conv1d) and "feature_extractor" in name:
            fan = module.in_channels * module.kernel_size[0]
            assert abs(module.weight.std() / math.sqrt(2 / fan) - 1) < 0.1, name
        elif isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
            assert (module.weight == 1).all() and (module.bias == 0).all()
    positional = model.encoder.transformer.pos_conv_embed.conv
    assert abs(positional.weight.std() / math.sqrt(4 / (32 * 96)) - 1) < 0.05 and not positional.bias.any()
    embedding = make().masked_spec_embed
    assert 0 <= embedding.min() and embedding.max() <= 1 and abs(embedding.mean() - 0.5) < 0.15
    assert make(reset_weights=True).reset_weights and not make().reset_weights


# ---------------------------------------------------------------- several processes


def train(rank, world, steps=6):
    """Return the weights and the gradients after some steps on a share of one batch."""
    network = make(regularisation="default", layerdrop=0.5, checkpoint_activations=True, freeze_cnn=False).train()
    model = DistributedDataParallel(network) if world > 1 else network
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    torch.manual_seed(50 + rank)  # as in training, every process draws differently
    skipped = []
    for _ in range(steps):
        optimizer.zero_grad()
        model(waves(4)[rank::world]).square().sum().backward()
        layers = network.wav2vec2.encoder.transformer.layers
        skipped.append([not layer.attention.k_proj.weight.grad.any() for layer in layers])
        optimizer.step()
    return {"weights": network.state_dict(), "skipped": skipped}


def worker(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(train(rank, 2), f"{folder}/{rank}.pt")
    distributed.barrier()
    os._exit(0)  # gloo's threads may abort an interpreter that is torn down


def test_two_processes_that_skip_different_layers_stay_equal(tmp_path):
    torch.multiprocessing.spawn(worker, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name, tensor in first["weights"].items():
        assert torch.equal(tensor, second["weights"][name]), name
    assert not torch.equal(first["weights"]["masked_spec_embed"], make().masked_spec_embed)
    alone = train(0, 1)["skipped"]
    assert alone != first["skipped"] == second["skipped"]  # a layer is without gradient only where both skip it


# ---------------------------------------------------------------- flags and wrong input


def flags(*words):
    parser = make_parser("test")
    parser.add_argument("--encoder_type", default="SAP")
    args, _ = parse(parser, list(words), extend=lambda p, _: MainModel.add_arguments(p))
    return vars(args)


def test_flags_build_the_network():
    options = {name: value for name, value in flags("--size", "tiny").items() if name not in ("config", "set")}
    assert options["encoder_type"] == "mean" and options["freeze_cnn"] is True and options["hidden_dropout"] is None
    network = MainModel(**options)
    assert network.values == REGULARISATION["default"]
    options = flags("--layerdrop", "0.2", "--freeze_cnn", "False", "--layer_sum", "--mask_time_frames", "5")
    assert options["layerdrop"] == 0.2 and options["mask_time_frames"] == 5
    assert options["layer_sum"] is True and options["freeze_cnn"] is False


@pytest.mark.parametrize(
    "options, message",
    [
        ({"size": "huge"}, "--size huge: one of base, large"),
        ({"regularisation": "some"}, "--regularisation some: one of default"),
        ({"encoder_type": "SAP"}, "'SAP' is unknown, choose from mean"),
        ({"layerdrop": 1.5}, "--layerdrop 1.5: must be at least 0 and at most 1"),
        ({"mask_time_prob": -0.1}, "--mask_time_prob -0.1: must be"),
        ({"mask_time_frames": 0}, "--mask_time_frames 0: must be at least 1"),
        ({"num_frozen_steps": -2}, "--num_frozen_steps -2: at least 0, or -1"),
        ({"sizes": {"layers": 3}}, "sizes: unknown layers"),
        ({"sizes": {"encoder_num_heads": 7}}, "96 dimensions for 7 heads"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_a_wave_that_is_too_short():
    with pytest.raises(ValueError, match="a wave of 399 samples is too short: at least 400 needed"):
        make()(waves(1, 399))
    longer = make(sizes={"extractor_conv_layer_config": [[16, 10, 5], [16, 3, 2]]})
    assert longer.LEAST_SAMPLES == 20 and longer(waves(1, 20)).shape == (1, 96)
