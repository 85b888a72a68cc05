"""FETCH ENVELOPE of a whole mailbox over IMAP, as a client does that opens it for the first time."""

import os
import socket
import time

DROP_CACHES = "/proc/sys/vm/drop_caches"
MESSAGE_BYTES, SESSIONS = 1024, 16


def drop_caches():
    """Empties the page cache. Whether that was allowed."""
    try:
        os.sync()
        with open(DROP_CACHES, "w") as file:
            file.write("3\n")
        return True
    except OSError:
        return False


def fill(server, bench, messages):
    """Puts so many messages into the first account's INBOX."""
    everybody, server.accounts = server.accounts, server.accounts[:1]
    try:
        bench.run(server, messages=messages, sessions=SESSIONS, bytes=MESSAGE_BYTES)
    finally:
        server.accounts = everybody


def envelopes(server):
    """Seconds from the command to its last line, and how many envelopes came."""
    user, password = server.accounts[0]
    with socket.create_connection(("127.0.0.1", server.imap_port), 60) as imap:
        imap.recv(4096)
        _say(imap, f'a LOGIN "{user}" "{password}"', b"a ")
        _say(imap, "b EXAMINE INBOX", b"b ")
        start = time.monotonic()
        answer = _say(imap, "c UID FETCH 1:* (ENVELOPE)", b"c ")
        seconds = time.monotonic() - start
    return seconds, answer.count(b"ENVELOPE (")


def _say(imap, command, tag):
    imap.sendall(command.encode() + b"\r\n")
    pieces, tail = [], b""
    while True:
        piece = imap.recv(1 << 18)
        if not piece:
            raise OSError(f"the connection ended after {command.split()[1]}")
        pieces.append(piece)
        tail = (tail + piece)[-512:]
        last = tail.rstrip(b"\r\n").rpartition(b"\r\n")[2]
        if tail.endswith(b"\r\n") and last.startswith(tag):
            if not last.startswith(tag + b"OK"):
                raise OSError(f"{command.split()[1]}: {last.decode(errors='replace')}")
            return b"".join(pieces)


def measure(server, bench, messages, rounds, say, restart=None):
    """One row for a server, with so many messages more. With `restart`, each round finds a server just
    started, and an empty page cache where we may empty it; without, one that was asked the same just before."""
    if messages:
        fill(server, bench, messages)
        server.envelopes = messages
    is_emptied, seconds, messages = False, [], server.envelopes
    if not restart:
        envelopes(server)
    for _ in range(rounds):
        if restart:
            restart(drop_caches)
            is_emptied = drop_caches()
        spent, there = envelopes(server)
        if there != messages:
            raise OSError(f"{server.name} showed {there} envelopes of {messages} messages")
        seconds.append(spent)
    state = "warm" if not restart else "cold" if is_emptied else "restarted"
    say(f"  {server.name}, {state}: {messages} envelopes in {sorted(seconds)[rounds // 2] * 1000:.0f} ms")
    return {"server": server.name, "state": state, "messages": messages, "seconds": seconds}
