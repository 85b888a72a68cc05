"""What IMAP shows: the only messages that count."""

import imaplib
import re
from concurrent.futures import ThreadPoolExecutor


def _open(port, account):
    imap = imaplib.IMAP4("127.0.0.1", port)
    imap.login(*account)
    return imap


def next_uids(port, accounts):
    """The UIDNEXT of each INBOX: what comes later has no lower UID, so it need not be looked through."""
    def of(account):
        imap = _open(port, account)
        _, (answer,) = imap.status("INBOX", "(UIDNEXT)")
        imap.logout()
        return int(re.search(rb"UIDNEXT (\d+)", answer).group(1))

    # Checking a password takes a while, and is no part of what is measured.
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(of, accounts))


def messages_of(port, accounts, run_id, first):
    """The Message-IDs of a run in all INBOXes, each as often as a message carries it; from the UIDs in
    `first` on, one for each account."""
    wanted = re.compile(rb"<(" + run_id.encode() + rb"\.[0-9]+)@")
    seen = []
    for number, account in enumerate(accounts):
        imap = _open(port, account)
        _, (total,) = imap.select("INBOX", readonly=True)
        if int(total) > 0:
            uids = f"{first[number]}:*"
            _, data = imap.uid("FETCH", uids, "(BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])")
            for part in data:
                found = wanted.search(part[1]) if isinstance(part, tuple) else None
                if found:
                    seen.append(found.group(1).decode())
        imap.logout()
    return seen


def acknowledged(log):
    """The same of what the load program has had a `250` for: the file that its `--log` wrote."""
    with open(log) as lines:
        return {re.match(r"<?([^@<]+)@", line).group(1) for line in lines if line.strip()}
