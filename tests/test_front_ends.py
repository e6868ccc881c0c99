"""Front ends and networks of recognition with limited data: against torchaudio, lengths, foreign weights."""

import json

import pytest
import torch
from golden_recipes import golden_dir

from audio.backend import load_torchaudio
from audio.features import FRONT_ENDS, MFCC, Filterbank, KaldiFbank, front_end_of
from engine import registry
from engine.args import make_parser, parse
from models.blocks.ecapa import AttentiveStatistics, EcapaTDNN
from models.blocks.tdnn import Convolution, frame_mask, mean_and_std, weighted_mean_and_std
from models.blocks.wespeaker_resnet import STAGES
from models.blocks.xvector import XVectorTDNN

# ---- features


@pytest.mark.parametrize("window, bands", [("hamming", 80), ("povey", 23)])
@pytest.mark.parametrize("rate", [16000, 8000])
def test_kaldi_fbank_equals_torchaudio(window, bands, rate):
    kaldi = load_torchaudio().compliance.kaldi
    wave = 32768 * 0.1 * torch.randn(2, 8123)
    ours = KaldiFbank(bands, window, sample_rate=rate)(wave)
    options = {"window_type": window, "num_mel_bins": bands, "dither": 0.0, "sample_frequency": rate}
    for own, row in zip(ours, wave):
        torch.testing.assert_close(own.T, kaldi.fbank(row[None], **options), rtol=1e-4, atol=1e-3)


@pytest.mark.filterwarnings("ignore:At least one mel filterbank")  # four bands lie between two bins
def test_mfcc_equals_torchaudio_item_by_item():
    spectrum = {"n_fft": 400, "hop_length": 200, "n_mels": 128}
    reference = load_torchaudio().transforms.MFCC(16000, n_mfcc=80, melkwargs=spectrum)
    wave = torch.randn(2, 8000) * torch.tensor([[1.0], [1e-3]])
    torch.testing.assert_close(MFCC(80)(wave), reference(wave.unsqueeze(1)).squeeze(1), rtol=1e-3, atol=5e-3)


def test_orthonormal_cosines_and_filters():
    cosines = MFCC(128).cosines
    torch.testing.assert_close(cosines @ cosines.T, torch.eye(128), atol=1e-5, rtol=0)
    assert (MFCC().filters.sum(1) == 0).sum() == 4  # triangles between two bins
    filters = Filterbank(24).filters
    assert filters.min() == 0 and filters.max() <= 1 and (filters.argmax(1).diff() > 0).all()
    with pytest.raises(ValueError, match="at most 128"):
        MFCC(129)


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_frames_floor_and_no_state(name):
    front_end = front_end_of(name, 24)
    assert not front_end.state_dict()
    least = front_end.least_samples(9)
    wave = torch.randn(2, least, requires_grad=True)
    assert front_end(wave).shape == (2, 24, 9) and front_end(wave.detach()[:, :-1]).shape[2] < 9
    with torch.autocast("cpu", torch.bfloat16):
        features = front_end(wave)
        normed = front_end.normalise(features)
    assert features.dtype == normed.dtype == torch.float32 and not normed.requires_grad
    assert torch.equal(features, front_end(wave))
    torch.testing.assert_close(normed.mean(2), torch.zeros(2, 24), atol=1e-4, rtol=0)
    assert torch.isfinite(front_end.normalise(front_end(torch.zeros(1, least)))).all()


def test_floors():
    loud = torch.cat([torch.randn(1, 8000), 1e-7 * torch.randn(1, 8000)], 1)
    level = Filterbank(24)(loud)
    assert level.max() - level.min() == pytest.approx(80, abs=1e-3)
    assert KaldiFbank()(torch.zeros(1, 800)).max() == pytest.approx(-15.9424, abs=1e-3)  # ln of float32's epsilon


@pytest.mark.parametrize("front_end", [Filterbank(8), MFCC(8), KaldiFbank(8, normalisation="mean_variance")])
def test_normalisation_counts_valid_frames_only(front_end):
    features, lengths = torch.randn(3, 8, 30) + 2, torch.tensor([30, 17, 9])
    normed = front_end.normalise(features, lengths)
    for row, item, length in zip(normed, features, lengths):
        torch.testing.assert_close(row[:, :length], front_end.normalise(item[None, :, :length])[0])


def test_unknown_names():
    for call in (lambda: front_end_of("mel", 40), lambda: registry.load("models", "ECAPA")(front_end="mel")):
        with pytest.raises(ValueError, match="--front_end mel: one of mfcc, fbank, kaldi"):
            call()
    with pytest.raises(ValueError, match="hamming, povey"):
        KaldiFbank(window="hann")
    with pytest.raises(ValueError, match="mean, mean_variance"):
        KaldiFbank(normalisation="variance")


# ---- networks


def test_statistics_over_valid_frames():
    x, lengths = torch.randn(3, 5, 20), torch.tensor([20, 12, 2])
    for correction in (0, 1):
        mean, deviation = mean_and_std(x, frame_mask(lengths, 20), correction)
        for item, length, m, d in zip(x, lengths, mean, deviation):
            torch.testing.assert_close(m, item[:, :length].mean(1))
            torch.testing.assert_close(d, item[:, :length].std(1, correction=correction))


def test_gradients_of_statistics():
    x = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    mask = frame_mask(torch.tensor([6, 4]), 6)
    for arguments in ((None, 0), (None, 1), (mask, 0), (mask, 1)):
        assert torch.autograd.gradcheck(lambda x, given=arguments: mean_and_std(x, *given), x)
    scores = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, s: weighted_mean_and_std(x, s.softmax(2)), (x, scores))


def test_attention_ignores_what_lies_beyond_the_length():
    pooling = AttentiveStatistics(6, 4).eval()
    x, lengths = torch.randn(2, 6, 20), torch.tensor([20, 13])
    other = x.clone()
    other[1, :, 13:] = 50.0
    with torch.no_grad():
        torch.testing.assert_close(pooling(x, lengths), pooling(other, lengths))
        torch.testing.assert_close(pooling(x, lengths)[1:], pooling(x[1:, :, :13]))


def test_context_of_a_convolution_is_that_of_the_concatenation():
    layer, x, context = Convolution(10, 4, 1), torch.randn(2, 3, 9), torch.randn(2, 7)
    whole = torch.cat([x, context.unsqueeze(2).expand(-1, -1, 9)], dim=1)
    torch.testing.assert_close(layer(x, context), layer(whole))


def test_constant_features_have_a_finite_gradient():
    for network in (EcapaTDNN(8, 4, channels=(8, 8, 8, 8, 16)), XVectorTDNN(8, 4, tdnn_channels=(8,) * 5)):
        features = torch.zeros(2, 8, 20, requires_grad=True)
        network.eval().embed(features).sum().backward()
        assert torch.isfinite(features.grad).all()


def test_wrong_sizes():
    ecapa = registry.load("models", "ECAPA")
    for options, message in (
        ({"channels": 20}, "--channels 20: must be a multiple of 8"),
        ({"channels": 0}, "--channels 0"),
        ({"aggregate": -1}, "--aggregate -1"),
    ):
        with pytest.raises(ValueError, match=message):
            ecapa(**options)
    with pytest.raises(ValueError, match="one for each"):
        EcapaTDNN(8, 4, channels=(8, 8, 16))
    with pytest.raises(ValueError, match="multiples of 4"):
        EcapaTDNN(8, 4, channels=(8, 6, 6, 6, 16), res2net_scale=4)
    with pytest.raises(ValueError, match="one for each layer"):
        XVectorTDNN(8, 4, tdnn_dilations=(1,))
    with pytest.raises(ValueError, match="n_mels 42 must be a multiple of 8"):
        registry.load("models", "ResNet34")(n_mels=42)


def test_a_network_brings_its_own_defaults():
    def flags(*argv):
        parser = make_parser("test")
        for name, kind in (("model", str), ("nOut", int), ("n_mels", int), ("encoder_type", str)):
            parser.add_argument(f"--{name}", type=kind, default="SAP" if kind is str else 40)
        networks = lambda p, first: registry.add_arguments(p, [registry.load("models", first.model)])  # noqa: E731
        return parse(parser, argv, extend=networks)[0]

    assert (flags("--model", "ECAPA").nOut, flags("--model", "ECAPA").n_mels) == (192, 80)
    assert flags("--model", "XVector", "--nOut", "7").nOut == 7
    resnet = flags("--model", "ResNet34")
    assert (resnet.nOut, resnet.n_mels, resnet.encoder_type, resnet.two_emb_layer) == (256, 80, "TSTP", False)


PUBLISHED = {
    "XVector": ({}, 4_354_964), "ECAPA": ({}, 6_194_048), "ECAPA 1024": ({"channels": 1024}, 20_767_552),
    "ResNet34": ({}, 6_634_336),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    options, parameters = PUBLISHED[name]
    with torch.device("meta"):
        network = registry.load("models", name.split()[0])(**options)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_names_of_the_public_xvector():
    public = json.loads((golden_dir("lowresource") / "public_checkpoints.json").read_text())
    contract = public["spkrec-xvect-voxceleb"]["embedding_model.ckpt"]
    network = registry.load("models", "XVector")(nOut=512, n_mels=24, front_end="fbank")
    entries = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    assert entries == {**contract["parameters"], **contract["buffers"]}


# ---- weights that others published

DEPTHS = [f"ResNet{depth}" for depth in STAGES]
FOREIGN = {
    "XVector": {"nOut": 6, "n_mels": 24, "front_end": "fbank"},
    "ECAPA": {"nOut": 6, "n_mels": 16, "front_end": "fbank", "channels": 16, "aggregate": 24},
    **{name: {"nOut": 6, "n_mels": 16, "width": 2, "encoder_type": "TSTP", "two_emb_layer": False} for name in DEPTHS},
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_weights_are_known_by_their_names_and_sizes(name):
    network = registry.load("models", name)(**FOREIGN[name])
    weights = network.state_dict()
    for other in FOREIGN:
        found = registry.load("models", other).from_foreign(weights)
        assert (found is not None) == (other == name), other
        if found is not None:
            assert found[0] == FOREIGN[name]
    assert registry.load("models", name).from_foreign({"weight": torch.zeros(3)}) is None


@pytest.mark.parametrize("options", [{"two_emb_layer": True}, {"encoder_type": "ASTP"}])
def test_an_averaged_wespeaker_checkpoint(options):
    cls = registry.load("models", "ResNet34")
    kwargs = {**FOREIGN["ResNet34"], **options}
    network = cls(**kwargs)
    weights = {n: t.float() for n, t in network.state_dict().items()} | {"projection.weight": torch.zeros(9, 6)}
    found, renamed = cls.from_foreign(weights)
    assert found == kwargs and "projection.weight" in weights
    cls(**found).load_state_dict(renamed)
    assert renamed["bn1.num_batches_tracked"].dtype == torch.int64
