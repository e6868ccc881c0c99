"""VGGVox, another name of VGGVox40.

Entry point: MainModel; its layers stand in models/blocks/vggm.py."""

from models.blocks.vggm import VGGM40


class MainModel(VGGM40):
    """The same network as VGGVox40."""
