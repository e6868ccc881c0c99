"""ResNetSE34Half, ResNetSE34L of twice the width: 5.7 M parameters, usually with 64 mel bands and ASP.

Entry point: MainModel."""

from audio.features import SpeakerMel
from models.blocks.fast_resnet import FastResNet34


class MainModel(FastResNet34):
    """Widths 32 to 256, the last stage without stride; Hamming window, no pre-emphasis."""

    def __init__(self, nOut=256, encoder_type="SAP", n_mels=40, log_input=False):
        super().__init__(nOut, encoder_type, widths=(32, 64, 128, 256), strides=(1, 2, 2, 1))
        self.torchfb = SpeakerMel(False, "hamming", n_mels, log_input)
