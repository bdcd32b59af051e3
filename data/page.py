"""The page of data/report.py: one file without scripts, that needs nothing from anywhere.

Programs and questions are strangers' text: every one passes `safe`, and the page's own policy
forbids scripts besides.
"""
from __future__ import annotations

import base64
import difflib
import html
import io
import re

from data.figures import save

LONGEST = 1500  # letters of a question or a program: web pages are long

STYLE = """
body { margin: 0 auto; max-width: 1100px; padding: 0 16px 40px; color: #111; background: #fff;
       font: 16px/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5em; margin: 1em 0 0.2em; } h2 { font-size: 1.05em; margin: 0 0 0.2em; }
h1 + p { margin-top: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.88em; }
th, td { padding: 3px 10px; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
figure { margin: 0; } figure img { width: 100%; height: auto; display: block; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr));
           gap: 32px; margin-top: 28px; }
figcaption, .note { color: #444; font-size: 0.88em; margin: 0.3em 0; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr));
        gap: 12px; margin: 8px 0; }
pre { margin: 0; padding: 8px; background: #f6f6f6; white-space: pre-wrap; font-size: 0.85em;
      unicode-bidi: isolate; }
del, ins { text-decoration: none; display: block; }
del { background: #ffe3d3; } ins { background: #d6e9f8; }
.task { border-top: 1px solid #ccc; padding: 12px 0; }
"""
KINDS = {"repaired": ("Repaired", "the draft", "its rewrite"),
         "spoilt": ("Spoilt", "the draft", "its rewrite"),
         "sampled": ("Two samples of one task", "a wrong one", "a right one")}


def safe(text, longest=LONGEST) -> str:
    """Text as text: no tag, no control character, no half of a letter, and not too long.

    >>> safe("</script><script>\\x00")
    '&lt;/script&gt;&lt;script&gt;\\ufffd'
    """
    text = str(text)
    if len(text) > longest:
        text = f"{text[:longest]} … ({len(text) - longest:,} more letters)"
    return html.escape(re.sub(r"[^\n\t\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff]", "\ufffd", text))


def table(lines) -> str:
    """[["a", "b"], [1, 2]] -> an HTML table that scrolls by itself where it is too wide."""
    head, *body = ["".join(f"<{tag}>{safe(cell)}</{tag}>" for cell in line)
                   for tag, line in zip(["th"] + ["td"] * len(lines), lines)]
    rows = "".join(f"<tr>{line}</tr>" for line in body)
    return f'<div class="wide"><table><tr>{head}</tr>{rows}</table></div>'


def difference(before: str, after: str) -> tuple[str, str]:
    """Both programs as HTML: lines that only one of them has are marked - and +."""
    old, new = before[:LONGEST].splitlines(), after[:LONGEST].splitlines()
    left, right = [], []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, old, new, False).get_opcodes():
        for side, some, sign, tag in ((left, old[a:b], "-", "del"), (right, new[c:d], "+", "ins")):
            side += [f"  {safe(line)}\n" if kind == "equal" else
                     f"<{tag}>{sign} {safe(line)}</{tag}>" for line in some]
    return "".join(left), "".join(right)


def verdict(record) -> str:
    """What became of a program: "wrong, gives 20: reward 0, r -0.35" """
    r = record.get("self_reward")
    gave = f", gives {record['result']}" if record.get("result") not in (None, "") else ""
    return (f"{record.get('outcome', '')}{gave}: reward {record['reward']}"
            + (f", r {r:.2f} nats per token" if isinstance(r, float) else ""))


def example(kind, before, after) -> str:
    title, first, second = KINDS[kind]
    cells = "".join(
        f'<div><div class="note">{name}: {safe(verdict(record), 300)}</div><pre>{text}</pre></div>'
        for name, record, text in zip((first, second), (before, after),
                                      difference(before["program"], after["program"])))
    answer = f" Known answer: {safe(before['answer'], 100)}." if "answer" in before else ""
    return (f'<div class="task"><h2>{title}</h2><pre>{safe(before["question"])}</pre>'
            f'<p class="note">{safe(before["id"], 100)}.{answer}</p><div class="pair">{cells}</div>'
            "</div>")


def picture(figure, title) -> str:
    """An SVG inside the page, as an image: nothing in it can run, and its names meet no others."""
    file = io.BytesIO()
    save(figure, file, "svg")
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{safe(title)}" src="data:image/svg+xml;base64,{data}">'


def page(title, about, tables, figures, examples, notes) -> str:
    """The whole page. figures: [(question, how to read it, figure)]; tables: [lines]."""
    shown = "".join(
        f"<figure><h2>{safe(question)}</h2>{picture(figure, question)}"
        f"<figcaption>{safe(text)}</figcaption></figure>" for question, text, figure in figures)
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{safe(title)}</title>
<style>{STYLE}</style>
<h1>{safe(title)}</h1>
<p class="note">{safe(about)}</p>
{"".join(f"<p>{table(lines)}</p>" for lines in tables)}
{"".join(f'<p class="note">{safe(note)}</p>' for note in notes)}
<div class="figures">{shown}</div>
{"".join(f"<h1>{safe(head)}</h1>" + "".join(example(*pair) for pair in pairs)
         for head, pairs in examples)}
</html>
"""
