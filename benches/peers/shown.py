"""What IMAP shows: the only messages that count."""

import imaplib
import re


def count(port, accounts, run_ids):
    """Distinct Message-IDs of the given runs in all INBOXes, and how many messages carry them."""
    wanted = re.compile(rb"<((?:" + "|".join(run_ids).encode() + rb")\.[0-9]+)@")
    seen, messages = set(), 0
    for address, password in accounts:
        imap = imaplib.IMAP4("127.0.0.1", port)
        imap.login(address, password)
        _, (total,) = imap.select("INBOX", readonly=True)
        if int(total) > 0:
            _, data = imap.fetch("1:*", "(BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])")
            for part in data:
                found = wanted.search(part[1]) if isinstance(part, tuple) else None
                if found:
                    messages += 1
                    seen.add(found.group(1))
        imap.logout()
    return len(seen), messages
