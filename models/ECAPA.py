"""ECAPA-TDNN (Desplanques et al., Interspeech 2020) as in SpeechBrain, on MFCC, filterbank or Kaldi features.
Entry point: MainModel.
"""

from audio.features import FRONT_ENDS
from models.blocks.ecapa import EcapaTDNN


class MainModel(EcapaTDNN):
    """Three SE-Res2Net blocks, aggregation, attentive statistics: 6.2 M parameters with 512 channels, 20.8 M with 1024.

    Args:
        n_mels: inputs: cepstral coefficients (mfcc) or bands (fbank, kaldi).
        front_end: one of audio.features.FRONT_ENDS.
        channels: width of the blocks, a multiple of 8.
        aggregate: width of the aggregation; 0: three times `channels`.
    """

    TEST_OPTIONS = {"channels": 32}

    def __init__(self, nOut=192, n_mels=80, front_end="mfcc", channels=512, aggregate=0):
        if channels < 8 or channels % 8:
            raise ValueError(f"--channels {channels}: must be a multiple of 8")
        if aggregate < 0:
            raise ValueError(f"--aggregate {aggregate}: must be at least 0")
        super().__init__(n_mels, nOut, front_end, (channels,) * 4 + (aggregate or 3 * channels,))

    @staticmethod
    def add_arguments(parser):
        """Add the flags of this network."""
        parser.set_defaults(nOut=192, n_mels=80)
        parser.add_argument("--front_end", choices=tuple(FRONT_ENDS), default="mfcc", help="ECAPA: kind of features")
        parser.add_argument("--channels", type=int, default=512, help="ECAPA: width of the blocks")
        parser.add_argument(
            "--aggregate", type=int, default=0, help="ECAPA: width of the aggregation (0: three times --channels)"
        )

    @staticmethod
    def from_foreign(weights):
        """Return (constructor arguments, weights) of SpeechBrain's `embedding_model.ckpt`, None for another layout."""
        first, merged, last = map(weights.get, ("blocks.0.conv.conv.weight", "mfa.conv.conv.weight", "fc.conv.weight"))
        if first is None or merged is None or last is None:
            return None
        sizes = {"channels": first.shape[0], "aggregate": merged.shape[0]}
        return {"nOut": last.shape[0], "n_mels": first.shape[1], "front_end": "fbank", **sizes}, weights
