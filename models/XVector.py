"""X-vector network (Snyder et al., ICASSP 2018) as in SpeechBrain, on MFCC, filterbank or Kaldi features.
Entry point: MainModel.
"""

from audio.features import FRONT_ENDS
from models.blocks.xvector import XVectorTDNN


class MainModel(XVectorTDNN):
    """Five convolutions over time, statistics pooling, a linear layer: 4.4 M parameters with 80 inputs.

    Args:
        n_mels: inputs: cepstral coefficients (mfcc) or bands (fbank, kaldi).
        front_end: one of audio.features.FRONT_ENDS.
    """

    def __init__(self, nOut=512, n_mels=80, front_end="mfcc"):
        super().__init__(n_mels, nOut, front_end)

    @staticmethod
    def add_arguments(parser):
        """Add the flags of this network."""
        parser.set_defaults(nOut=512, n_mels=80)
        parser.add_argument("--front_end", choices=tuple(FRONT_ENDS), default="mfcc", help="XVector: kind of features")

    @staticmethod
    def from_foreign(weights):
        """Return (constructor arguments, weights) of SpeechBrain's `embedding_model.ckpt`, None for another layout."""
        first, last = weights.get("blocks.0.conv.weight"), weights.get("blocks.16.w.weight")
        if first is None or last is None:
            return None
        return {"nOut": last.shape[0], "n_mels": first.shape[1], "front_end": "fbank"}, weights
