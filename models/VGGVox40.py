"""VGGVox40, "VGG-M-40" of Chung et al. 2020: 4.0 M parameters, fixed to 40 mel bands, SAP, TAP or MAX.

Entry point: MainModel; its layers stand in models/blocks/vggm.py."""

from models.blocks.vggm import VGGM40


class MainModel(VGGM40):
    """VGG-M on 40 mel bands; Hann window, no pre-emphasis."""
