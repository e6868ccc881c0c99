"""Charts inside HTML pages, without script: bars as text and boxes, lines as SVG in the colours of scoring/page.py.
Entry points: bars, lines; both return HTML and take plain text.
"""

import numpy as np

from scoring.page import escape

WIDTH, HEIGHT = 380, 230  # of an SVG in its own units, about the pixels of a phone, where its text is then 11 px
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 10, 38
COLOURS = ("first", "second", "third", "for", "against")
DASHES = ("", "6 3", "2 2", "8 2 2 2", "1 3")  # lines differ by more than their colour


def bars(items: list[tuple[str, float, str]], alternative: str) -> str:
    """Return horizontal bars from a common zero, [(label, value, what stands behind it)]: positive ones to the right.

    The text is the page's own, so that it is as large on a phone as on a desk.
    """
    values = [value for _, value, _ in items]
    low, high = min([0.0, *values]), max([0.0, *values])
    span = (high - low) or 1.0
    zero = 100 * -low / span
    rows = []
    for label, value, text in items:
        start, width = (zero, 100 * value / span) if value >= 0 else (100 * (value - low) / span, 100 * -value / span)
        colour = "for" if value >= 0 else "against"
        rows.append(
            f'<span>{escape(label)}</span><span class="track">'
            f'<i style="left:{start:.2f}%;width:{width:.2f}%;background:var(--{colour})"></i>'
            f'<b style="left:{zero:.2f}%"></b></span><span class="value">{escape(text)}</span>'
        )
    return f'<div class="bars" role="group" aria-label="{escape(alternative)}">' + "\n".join(rows) + "</div>"


def lines(
    series: list[tuple[str, list[float], list[float]]],
    x_label: str,
    y_label: str,
    alternative: str,
    marks: list[tuple[float, str]] = (),
    levels: list[tuple[float, str]] = (),
) -> str:
    """Return an SVG of lines, with a legend where there are several.

    Args:
        series: [(name, x, y)].
        marks: vertical lines, [(x, text)]; levels: horizontal ones, [(y, text)].
        alternative: what the chart shows, in words.
    """
    xs = np.concatenate([*(np.asarray(x, dtype=float) for _, x, _ in series), [x for x, _ in marks]])
    ys = np.concatenate([*(np.asarray(y, dtype=float) for _, _, y in series), [y for y, _ in levels]])
    x_ticks, y_ticks = ticks(xs.min(), xs.max()), ticks(ys.min(), ys.max())
    (x0, x1), (y0, y1) = (_range(values, at) for values, at in ((xs, x_ticks), (ys, y_ticks)))

    def place(x, y):
        across = LEFT + (np.asarray(x, dtype=float) - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
        down = HEIGHT - BOTTOM - (np.asarray(y, dtype=float) - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)
        return across, down

    drawn = []
    for value in x_ticks:
        x, bottom = place(value, y0)
        drawn.append(_line(x, TOP, x, bottom, "line"))
        drawn.append(_text(x, bottom + 14, f"{value:g}", "middle"))
    for value in y_ticks:
        left, y = place(x0, value)
        drawn.append(_line(left, y, WIDTH - RIGHT, y, "line"))
        drawn.append(_text(left - 4, y + 4, f"{value:g}", "end"))
    for y, _ in levels:
        _, down = place(x0, y)
        drawn.append(_line(LEFT, down, WIDTH - RIGHT, down, "quiet", "4 3"))
    for number, (_, x, y) in enumerate(series):
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(*place(x, y)))
        style = f'stroke="var(--{COLOURS[number % 5]})" stroke-dasharray="{DASHES[number % 5]}"'
        drawn.append(f'<polyline fill="none" stroke-width="2" {style} points="{points}"/>')
    for x, text in marks:
        across, _ = place(x, y0)
        drawn.append(_line(across, TOP, across, HEIGHT - BOTTOM, "text", width=2))
        left = across > WIDTH / 2  # of the mark, so that its text fits
        drawn.append(_text(across + (-4 if left else 4), TOP + 10, text, "end" if left else "start"))
    for y, text in levels:
        _, down = place(x0, y)
        drawn.append(_text(LEFT + 4, down + (12 if down < TOP + 14 else -4), text, "start"))
    drawn.append(_text((LEFT + WIDTH) / 2, HEIGHT - 6, x_label, "middle"))
    drawn.append(
        f'<text transform="translate(11 {(TOP + HEIGHT - BOTTOM) / 2:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>"
    )
    legend = _legend([name for name, _, _ in series]) if len(series) > 1 else ""
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(alternative)}">'
        + "\n".join(drawn)
        + f"</svg>{legend}"
    )


def ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers within low and high."""
    if not high > low:
        return [float(low)]
    rough = (high - low) / 5
    power = 10.0 ** np.floor(np.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    whole = np.arange(np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9) + 1)
    return (whole * step + 0.0).tolist()  # + 0.0: no minus zero


def _range(values, at):
    low, high = min(values.min(), *at), max(values.max(), *at)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _line(x1, y1, x2, y2, colour: str, dash: str = "", width: float = 1) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="var(--{colour})" '
        f'stroke-width="{width}" stroke-dasharray="{dash}"/>'
    )


def _text(x, y, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _legend(names: list[str]) -> str:
    samples = (
        f'<svg width="30" height="10" aria-hidden="true">'
        f"{_line(0, 5, 30, 5, COLOURS[number % 5], DASHES[number % 5], 2)}</svg> {escape(name)}"
        for number, name in enumerate(names)
    )
    return '<p class="quiet">' + " &nbsp; ".join(f"<span>{sample}</span>" for sample in samples) + "</p>"
