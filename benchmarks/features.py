"""Log-mel features with sliding normalisation and energy VAD: a batch at once beside one utterance at a time.

    python benchmarks/features.py
    python benchmarks/features.py --device cuda

On a CPU one thread is used, and times are of the processor; the plain way is the definition in numpy and scipy, an
utterance at a time.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import torch
from scipy.signal import lfilter

from audio.log_mel import LogMel, sliding_normalisation
from benchmarks._table import machine, seconds_of, table

SECONDS = (1.0, 2.0, 4.0, 7.0)  # the last is a chunk of 400 frames with 150 on either side


def plainly(wave: np.ndarray, module: LogMel) -> tuple[np.ndarray, np.ndarray]:
    """Return the normalised features and speech decisions of one wave, as they are defined."""
    count = round(len(wave) / 160)
    signal = np.pad(wave * 32768.0, (120, (count - 1) * 160 + 280 - len(wave)), mode="reflect")
    signal = lfilter([1, -1], [1, -0.999], signal)
    pieces = lambda x: np.lib.stride_tricks.sliding_window_view(x, 400)[::160]  # noqa: E731
    energy = np.log((pieces(signal) ** 2).sum(1) + 1e-15)
    power = np.abs(np.fft.rfft(pieces(lfilter([1, -0.97], [1], signal)) * module.window[:400].numpy(), 512)) ** 2
    mel = np.log(power[:, :256] @ module.filters.numpy().T + 1e-10)

    def means(x, reach):
        time, sums = np.arange(count), np.concatenate([np.zeros_like(x[:1], np.float64), np.cumsum(x, 0, np.float64)])
        first, last = np.maximum(time - reach, 0), np.minimum(time + reach + 1, count)
        return (sums[last] - sums[first]) / (last - first).reshape(-1, *[1] * (x.ndim - 1))

    loud = (energy > 5.5 + 0.5 * energy.mean()).astype(np.float64)
    mel -= mel.mean(0)
    return (mel - means(mel, 150) if count > 151 else mel), means(loud, 2) > 0.12


def main():
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch_size", type=int, default=64, help="utterances")
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    module, cuda = LogMel(dither=0).to(args.device), args.device.startswith("cuda")
    reference = LogMel(dither=0)

    def features(wave):
        mel, speech = module.with_speech(wave)
        return sliding_normalisation(mel), speech

    def one_by_one(waves):
        for wave in waves.split(1):
            features(wave)

    def timed(run, *given):
        def work():
            run(*given)
            if cuda:
                torch.cuda.synchronize()

        seconds = seconds_of(work, args.repeats, time.perf_counter if cuda else time.process_time)[0]
        return 1000 * seconds / args.batch_size

    rows = []
    for seconds in SECONDS:
        waves = 0.1 * torch.randn(args.batch_size, int(16000 * seconds), generator=torch.Generator().manual_seed(0))
        host, waves = waves.numpy(), waves.to(args.device)
        expected = plainly(host[0], reference)[0].T
        worst = float(np.abs(features(waves[:1])[0][0].cpu().numpy() - expected).max())
        plain = timed(lambda host=host: [plainly(wave, reference) for wave in host])
        single, batch = timed(one_by_one, waves), timed(features, waves)
        rows.append(
            [f"{seconds:g}", f"{plain:.2f}", f"{single:.2f}", f"{batch:.2f}", f"{plain / batch:.1f}",
             f"{single / batch:.1f}", f"{worst:.0e}"]
        )  # fmt: skip
    print(machine(args.device))
    print(f"\nmilliseconds for each of {args.batch_size} utterances\n")
    head = [
        "seconds",
        "numpy, one by one",
        "one by one",
        "a batch",
        "numpy / batch",
        "one by one / batch",
        "difference",
    ]
    print(table(head, rows))


if __name__ == "__main__":
    main()
