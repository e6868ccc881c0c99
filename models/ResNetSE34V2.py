"""ResNetSE34V2, "H / ASP" of Heo et al. 2020: 8.0 M parameters with 64 mel bands, SAP or ASP.

Entry point: MainModel."""

from models.blocks.flat_resnet import FlatResNet34
from models.blocks.se_resnet import SEBasicBlock


class MainModel(FlatResNet34):
    """SE basic blocks of 32 to 256 channels; pre-emphasis, Hamming window; n_mels a multiple of 8."""

    def __init__(self, nOut=256, encoder_type="SAP", n_mels=40, log_input=False):
        super().__init__(nOut, encoder_type, n_mels, log_input, SEBasicBlock)
