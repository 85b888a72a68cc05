"""suite.json as one HTML page: no scripts, nothing from elsewhere, readable in light and in dark."""

import os

import head
import show_compaction
import show_fetch
import show_flush
import show_latency
import show_recovery
import show_sizes
import show_throughput
from data import Data, Malformed, losses
from plot import escape

SECTIONS = [
    show_flush.flush, show_throughput.throughput, show_latency.latency, show_sizes.sizes,
    show_recovery.recovery, show_compaction.compaction, show_fetch.fetch,
]
__all__ = ["Malformed", "draw", "losses"]


def draw(found):
    """The page; `Malformed` when something is not there or not what it should be."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "page.css")) as file:
        style = file.read()
    try:
        data = Data(found)
        body = head.facts(data) + head.warnings(data, found) + head.verdicts(data)
        body += "".join(section(data) for section in SECTIONS)
    except KeyError as problem:
        raise Malformed(f"it lacks {problem}") from problem
    except (TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError) as problem:
        raise Malformed(f"a value is not what it should be ({problem})") from problem
    names = [
        ("goals", "Goals"),
        ("flush", "Flush curve"),
        ("throughput", "Throughput"),
        ("latency", "Latency"),
        ("sizes", "Sizes"),
        ("recovery", "Recovery"),
        ("compaction", "Compaction"),
        ("fetch", "Fetch"),
    ]
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title in names)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Kura benchmarks, {escape(data.run['date'])}</title><style>{style}</style></head>"
        "<body><main><h1>Kura: the benchmark suite</h1><p>Everything in one run on one host: Kura, the "
        "bare disk, and Debian's Postfix and Dovecot. Believe the ratios; absolute numbers are this host's.</p>"
        f"<nav>{links}</nav>{body}</main></body></html>\n"
    )
