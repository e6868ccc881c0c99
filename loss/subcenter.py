"""AAM softmax with three sub-centres a class and a penalty on the five nearest other classes, a common strong recipe.
Entry point: LossFunction. Other numbers: aamsoftmax with --sub_centres and --inter_topk.
"""

from loss import aamsoftmax


class LossFunction(aamsoftmax.LossFunction):
    """See loss/aamsoftmax.py; sub-centres: Deng et al., ECCV 2020, inter-top-k: Zhao et al. 2021, arXiv 2110.05042."""

    def __init__(self, nOut, nClasses, margin=0.3, scale=15, inter_topk_margin=0.06, continuous_fallback=False):
        super().__init__(nOut, nClasses, margin, scale, False, 3, 5, inter_topk_margin, continuous_fallback)
