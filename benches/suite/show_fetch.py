"""The page's plot of FETCH ENVELOPE."""

import goals
import plot
from blocks import missing, section, table
from goals import median
from plot import Axis, escape, micros, number

NAMES = {"kura": "Kura", "dovecot-lmtp-mdbox": "Dovecot, mdbox", "dovecot-lmtp-maildir": "Dovecot, maildir"}
STYLES = {"kura": "kura", "dovecot-lmtp-mdbox": "lmtp", "dovecot-lmtp-maildir": "maildir"}


def fetch(data):
    title = "FETCH ENVELOPE"
    if not data.fetch:
        return missing("fetch", title)
    rows = [
        (NAMES[f["server"]], f["state"], ", ".join(micros(seconds * 1e6) for seconds in f["seconds"]))
        for f in data.fetch
    ]
    picture = plot.bars(
        "Envelopes of a mailbox", "Milliseconds, the median.", Axis("milliseconds", form=number),
        [(f["state"], [(NAMES[f["server"]], median(f["seconds"]) * 1e3, STYLES[f["server"]])])
         for f in data.fetch],
    )
    words = (
        f"{data.fetch[0]['messages']:,} messages in one mailbox, one session, from the command to its last "
        f"line. Cold: the server has just been started and the page cache is empty; warm: the same was asked "
        f"just before. The goal is {goals.FETCH_TIMES}x Dovecot's warm rate with Kura cold."
    )
    return section("fetch", title, escape(words), picture, table(["server", "state", "times"], rows))
