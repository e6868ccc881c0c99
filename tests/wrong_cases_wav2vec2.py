"""What a user of wav2vec 2.0 can get wrong; cases as in wrong_cases.py, to be merged there."""

from wrong_inputs import Case, train

TINY = {"model": "Wav2Vec2", "size": "tiny"}

CASES = {
    "Names and flags": [
        Case("a regularisation that does not exist", train(**TINY, regularisation="some"), "--regularisation"),
        Case("a chance above 1", train(**TINY, layerdrop=1.5), "--layerdrop 1.5: must be at least 0 and at most 1"),
        Case("a negative share", train(**TINY, mask_time_prob=-0.1), "--mask_time_prob -0.1: must be at least 0"),
        Case("a span of no frames", train(**TINY, mask_time_frames=0), "--mask_time_frames 0: must be at least 1"),
        Case("a number of steps below -1", train(**TINY, num_frozen_steps=-2), "--num_frozen_steps -2: at least 0"),
        Case("freeze_cnn that is no boolean", train(**TINY, freeze_cnn="perhaps"), "--freeze_cnn"),
        Case("a flag of wav2vec 2.0 for another network", train(layerdrop=0.1), "--layerdrop"),
    ]
}
