"""What the parts of the page are made of: sections, tables, the axes that many plots share."""

from plot import escape, number

BYTES = [1 << n for n in range(10, 24, 2)]
# The form of an axis for latencies, which are in µs.
MILLISECONDS = {"label": "milliseconds", "log": True, "form": lambda us: number(us / 1000)}


def table(heads, rows, words="The numbers"):
    def cell(kind, text):
        return f"<{kind}>{escape(text)}</{kind}>"

    head = "".join(cell("th", each) for each in heads)
    body = "".join(
        "<tr>" + cell("th", row[0]) + "".join(cell("td", each) for each in row[1:]) + "</tr>"
        for row in rows
    )
    return (
        f'<details><summary>{escape(words)}</summary><div class="wide"><table><thead><tr>{head}'
        f"</tr></thead><tbody>{body}</tbody></table></div></details>"
    )


def section(name, title, words, *parts):
    return (
        f'<section id="{name}"><h2>{escape(title)}</h2><p>{words}</p>'
        f'<div class="plots">{"".join(p for p in parts if p.startswith("<figure"))}</div>'
        f"{''.join(p for p in parts if not p.startswith('<figure'))}</section>"
    )


def missing(name, title, why="Not measured in this run."):
    return (
        f'<section id="{name}"><h2>{escape(title)}</h2><p class="open">{escape(why)}</p></section>'
    )


def count(many, what):
    return f"{number(many)} {what}{'' if many == 1 else 's'}"
