"""ResNetSE34L, "Fast ResNet-34" of Chung et al. 2020: 1.4 M parameters, 40 mel bands, SAP or ASP.

Entry point: MainModel."""

from audio.features import SpeakerMel
from models.blocks.fast_resnet import FastResNet34


class MainModel(FastResNet34):
    """Widths 16 to 128, the last stage without stride; Hamming window, no pre-emphasis."""

    def __init__(self, nOut=256, encoder_type="SAP", n_mels=40, log_input=False):
        super().__init__(nOut, encoder_type, widths=(16, 32, 64, 128), strides=(1, 2, 2, 1))
        self.torchfb = SpeakerMel(False, "hamming", n_mels, log_input)
