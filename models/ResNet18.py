"""ResNet18 of WeSpeaker on Kaldi filterbanks, see models/blocks/wespeaker_resnet.py.
Entry point: MainModel.
"""

from models.blocks.wespeaker_resnet import WespeakerResNet


class MainModel(WespeakerResNet):
    """ResNet of 18 layers; its published weights load with --initial_model."""

    DEPTH = 18
