"""Scores of reconstructed features over utterances, and the table of several networks.
Entry points: mean_and_deviation, summary, table, noisy_table, csv_row.
"""

import numpy as np

from scoring.summary import markdown


def mean_and_deviation(scores: np.ndarray, ddof: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation over utterances of `scores` (utterances, ...); NaN where one is too few."""
    deviation = scores.std(0, ddof=ddof) if len(scores) > ddof else np.full(scores.shape[1:], np.nan)
    return scores.mean(0), deviation


def summary(scores: dict[str, np.ndarray]) -> dict[str, list[float | None]]:
    """Return {name: [mean, standard deviation (n - 1)]} of scores (utterances,), None for what one utterance lacks."""
    found = {}
    for name, values in scores.items():
        mean, deviation = mean_and_deviation(np.asarray(values, np.float64))
        found[name] = [float(mean), float(deviation) if np.isfinite(deviation) else None]
    return found


# ---------------------------------------------------------------- tables


def _spread(pair) -> str:
    """Return "mean (standard deviation)", of None nothing."""
    if pair is None:
        return ""
    mean, deviation = pair
    return f"{mean:.2f}" if deviation is None else f"{mean:.2f} ({deviation:.2f})"


def _number(value, digits: int = 0) -> str:
    return "" if value is None else f"{value:,.{digits}f}".replace(",", " ")


def _rate(row: dict, key: str) -> str:
    """Return "EER [low, high]" in percent."""
    between = row.get(f"{key}_interval")
    return _number(row.get(key), 2) + (f" [{between[0]:.2f}, {between[1]:.2f}]" if between else "")


def table(rows: list[dict]) -> str:
    """Return networks as a Markdown table in the columns of published ones.

    Each row has `configuration`, what Reconstruction.size_of returns, `scores` as summary() returns them, and where
    they are known `usage`, `entropy_bits_per_second`, `eer` and `eer_original` with their intervals.
    """
    shown = []
    for row in rows:
        usage = row.get("usage")
        cells = {
            "configuration": row["configuration"], "parameters": _number(row["parameters"]),
            "compression": f"{row['compression']:.4g}", "bits/s": _number(row.get("bits_per_second")),
            "entropy bits/s": _number(row.get("entropy_bits_per_second")),
            "ELBO/dim": _spread(row["scores"].get("elbo")), "MSE": _spread(row["scores"]["mse"]),
            "L1": _spread(row["scores"]["l1"]),
            "perplexity": _number(usage["perplexity"], 1) if usage else "",
            "codes used": f"{np.mean(usage['used']):.0f} of {usage['codewords']}" if usage else "",
            "EER %": _rate(row, "eer"), "EER % of originals": _rate(row, "eer_original"),
        }  # fmt: skip
        shown.append(cells)
    headings = [name for name in shown[0] if any(cells[name] for cells in shown)]
    return markdown(shown, tuple(headings), ())


def noisy_table(rows: list[dict]) -> str:
    """Return a Markdown table by noise: rows with `configuration`, `noise`, `snr_db` or None, `scores`, `eer`."""
    shown = [
        {
            "noise": row["noise"], "SNR dB": _number(row["snr_db"]), "configuration": row["configuration"],
            "MSE": _spread(row["scores"]["mse"]), "L1": _spread(row["scores"]["l1"]), "EER %": _rate(row, "eer"),
        }
        for row in rows
    ]  # fmt: skip
    return markdown(shown, tuple(name for name in shown[0] if any(cells[name] for cells in shown)), ())


def csv_row(row: dict) -> dict:
    """Return a row of a table flat: numbers alone, with _std, _low and _high for deviations and intervals."""
    flat = {}
    for name, value in row.items():
        if name == "scores":
            for score, (mean, deviation) in value.items():
                flat |= {score: mean, f"{score}_std": deviation}
        elif name == "usage":
            flat |= {"perplexity": value["perplexity"], "codes_used": float(np.mean(value["used"]))}
        elif name.endswith("_interval"):
            base = name.removesuffix("_interval")
            flat |= {f"{base}_low": value[0], f"{base}_high": value[1]}
        elif not isinstance(value, (list, dict)):
            flat[name] = value
    return flat
