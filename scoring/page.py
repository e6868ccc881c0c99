"""Self-contained HTML pages that need no network and no script: text, tables, charts, recordings.
Entry points: page, section, paragraph, facts, table, picture, player; all take plain text and escape it.

Every function returns HTML as text, page() joins such parts. Charts come from scoring/charts.py, or as PNG.
"""

import base64
import html

# Colours are named by what they mean; the dark set follows the reader's system.
STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --text: #1b1f24; --quiet: #57606a; --line: #d0d7de; --box: #f6f8fa;
  --for: #0b6e4f; --against: #b3261e; --first: #1f5fbf; --second: #c05a00; --third: #6f42c1; }
@media (prefers-color-scheme: dark) { :root { --ground: #15181c; --text: #e6e9ed; --quiet: #9aa4af; --line: #3a424b;
  --box: #1e2329; --for: #4cc38a; --against: #ff8177; --first: #6cb0ff; --second: #ffb057; --third: #c3a2ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 62rem; background: var(--ground); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0.3rem 0; }
h2 { font-size: 1.2rem; margin: 2rem 0 0.5rem; padding-top: 0.5rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.2rem 0 0.3rem; }
a { color: var(--first); }
p { max-width: 46rem; }
.quiet, figcaption { color: var(--quiet); font-size: 0.875rem; }
figcaption { margin: 0.3rem 0; }
.large { font-size: 1.35rem; font-weight: 600; margin: 0.5rem 0; }
.note { border-left: 4px solid var(--second); background: var(--box); padding: 0.5rem 0.75rem; }
.box { overflow-x: auto; max-height: 32rem; border: 1px solid var(--line); border-radius: 6px; margin: 0.5rem 0; }
table { border-collapse: collapse; font-size: 0.875rem; font-variant-numeric: tabular-nums; }
.box table { width: 100%; }
th, td { padding: 0.25rem 0.6rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
.box th { position: sticky; top: 0; background: var(--box); white-space: nowrap; }
.box td { white-space: nowrap; }
td.number, th.number { text-align: right; }
.facts th { font-weight: 600; padding-left: 0; color: var(--quiet); }
.facts td { overflow-wrap: anywhere; }
figure { margin: 0.75rem 0; }
figure img { max-width: 100%; height: auto; background: #ffffff; border-radius: 6px; }
audio { width: 100%; max-width: 30rem; display: block; }
.contents { display: flex; flex-wrap: wrap; gap: 0.3rem 0.9rem; max-height: 14rem; overflow-y: auto; padding: 0.5rem;
  list-style: none; border: 1px solid var(--line); border-radius: 6px; margin: 0.5rem 0; }
.bars { display: grid; grid-template-columns: max-content minmax(6rem, 1fr) max-content; gap: 2px 0.6rem;
  max-width: 46rem; font-size: 0.875rem; font-variant-numeric: tabular-nums; align-items: center; }
.bars .value { text-align: right; }
.track { position: relative; height: 0.9rem; background: var(--box); }
.track i { position: absolute; top: 0; bottom: 0; }
.track b { position: absolute; top: -1px; bottom: -1px; width: 1px; background: var(--text); }
svg.chart { width: 100%; max-width: 40rem; height: auto; display: block; }
svg.chart text { fill: var(--quiet); font-size: 11px; paint-order: stroke; stroke: var(--ground); stroke-width: 3px; }
"""


def escape(text) -> str:
    """Return text that is shown as it is, in elements and in attributes."""
    return html.escape(str(text), quote=True)


def page(title: str, parts: list[str], subtitle: str = "") -> str:
    """Return a whole document."""
    below = f'<p class="quiet">{escape(subtitle)}</p>\n' if subtitle else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n'
        f"<body>\n<h1>{escape(title)}</h1>\n{below}" + "\n".join(parts) + "\n</body>\n</html>\n"
    )


def section(title: str, parts: list[str], anchor: str = "", level: int = 2) -> str:
    """Return a headed part of a page; `anchor` is what contents() links to."""
    mark = f' id="{escape(anchor)}"' if anchor else ""
    return f"<section{mark}>\n<h{level}>{escape(title)}</h{level}>\n" + "\n".join(parts) + "\n</section>"


def contents(entries: list[tuple[str, str]]) -> str:
    """Return links to the sections of a page: [(anchor, what is shown)]."""
    links = "".join(f'<li><a href="#{escape(anchor)}">{escape(text)}</a></li>' for anchor, text in entries)
    return f'<nav><ul class="contents">{links}</ul></nav>'


def paragraph(text: str, kind: str = "") -> str:
    """Return a paragraph; kind: "", "quiet" (small print), "large" (the result), "note" (a warning)."""
    return f'<p class="{escape(kind)}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def facts(values: dict[str, str]) -> str:
    """Return names with their values."""
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in values.items())
    return f'<table class="facts">{rows}</table>'


def table(columns: list[str], rows: list[list], caption: str = "") -> str:
    """Return a table that scrolls in its own box; numbers (and None, an empty cell) stand on the right.

    Floats are given three decimals; give text where that does not fit.
    """
    right = [all(row[i] is None or isinstance(row[i], (int, float)) for row in rows) for i in range(len(columns))]
    marks = [' class="number"' if flag else "" for flag in right]
    head = "".join(f'<th scope="col"{mark}>{escape(name)}</th>' for mark, name in zip(marks, columns))
    body = "".join(
        "<tr>" + "".join(f"<td{mark}>{_cell(value)}</td>" for mark, value in zip(marks, row)) + "</tr>\n"
        for row in rows
    )
    above = paragraph(caption, "quiet") if caption else ""
    # a box that scrolls must be reachable by the keyboard
    return (
        f'{above}<div class="box" tabindex="0" role="region" aria-label="{escape(caption or columns[0])}"><table>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>"
    )


def _cell(value) -> str:
    if value is None or value != value:
        return ""
    # + 0.0: no minus zero
    return escape(f"{value + 0.0:.3f}") if isinstance(value, float) else escape(value)


def picture(data: bytes, alternative: str, caption: str = "", kind: str = "image/png") -> str:
    """Return an image of bytes; `alternative` says in words what it shows."""
    image = f'<img src="{data_uri(data, kind)}" alt="{escape(alternative)}">'
    return f"<figure>{image}{_caption(caption)}</figure>"


def figure(drawing: str, caption: str = "") -> str:
    """Return a chart of scoring/charts.py with a caption."""
    return f"<figure>{drawing}{_caption(caption)}</figure>"


def _caption(text: str) -> str:
    return f"<figcaption>{escape(text)}</figcaption>" if text else ""


def player(label: str, data: bytes | None, kind: str = "audio/wav", absent: str = "not given") -> str:
    """Return a recording to listen to; without `data`, a line that says why there is none."""
    if data is None:
        return paragraph(f"{label}: no recording to play ({absent})", "quiet")
    sound = f'<audio controls preload="metadata" aria-label="{escape(label)}" src="{data_uri(data, kind)}"></audio>'
    return f"<figure><figcaption>{escape(label)}</figcaption>{sound}</figure>"


def data_uri(data: bytes, kind: str) -> str:
    """Return bytes as an address that holds them."""
    return f"data:{escape(kind)};base64,{base64.b64encode(data).decode()}"
