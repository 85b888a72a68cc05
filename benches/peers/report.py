"""The found numbers, to be read."""

COLUMNS = [
    ("server", "server", "{}"),
    ("bytes", "bytes", "{}"),
    ("sess", "sessions", "{}"),
    ("visible", "visible", "{}"),
    ("msg/s", "messages_per_second", "{:.0f}"),
    ("MB/s", "megabytes_per_second", "{:.1f}"),
    ("p50 ms", "p50_us", "ms"),
    ("p99 ms", "p99_us", "ms"),
    ("p99.9 ms", "p999_us", "ms"),
    ("CPU µs/msg", "server_cpu_us_per_message", "{:.0f}"),
    ("disk B/B", "written_per_byte", "{:.2f}"),
    ("flush/msg", "flushes_per_message", "{:.3f}"),
    ("errors", "errors", "{}"),
]


def _cell(row, key, form):
    value = row[key]
    return f"{value / 1000:.2f}" if form == "ms" else form.format(value)


def line(row):
    return (
        f"{row['messages_per_second']:.0f} messages/s, {row['megabytes_per_second']:.1f} MB/s, "
        f"p50 {row['p50_us'] / 1000:.2f} ms, p99 {row['p99_us'] / 1000:.2f} ms, "
        f"{row['server_cpu_us_per_message']:.0f} µs CPU, {row['written_per_byte']:.2f} bytes written "
        f"per byte, {row['flushes_per_message']:.3f} flushes per message, {row['lost']} lost"
    )


def _grid(lines):
    widths = [max(len(cells[i]) for cells in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths))
        )
        for cells in lines
    )


def _ratios(found):
    """Kura against each peer at the same load, and against the bare disk."""
    rows = {(row["server"], row["bytes"], row["sessions"]): row for row in found["rows"]}
    disk = found["disk"]
    out = []
    for (server, size, sessions), row in rows.items():
        if server != "kura":
            continue
        for (peer, peer_size, peer_sessions), other in rows.items():
            if peer != "kura" and (peer_size, peer_sessions) == (size, sessions):
                rate = row["messages_per_second"] / max(1e-9, other["messages_per_second"])
                cpu = other["server_cpu_us_per_message"] / max(
                    1e-9, row["server_cpu_us_per_message"]
                )
                out.append(
                    f"{size} bytes, {sessions} sessions: {rate:.1f}x {peer}, at 1/{cpu:.1f} of its CPU"
                )
        shares = ", ".join(
            f"{row['megabytes_per_second'] / point['megabytes_per_second']:.0%} at "
            f"{point['bytes'] >> 10} KiB {'pre-written' if point['prewritten'] else 'fresh'}"
            for point in disk["points"]
            if point["bytes"] >= 256 << 10
        )
        out.append(
            f"{size} bytes, {sessions} sessions: of the disk's synced sequential bandwidth {shares}"
        )
        if "half_load" in row:
            times = row["half_load"]["p99_us"] / disk["flush_4k_p50_us"]
            out.append(
                f"{size} bytes, {sessions} sessions: p99 at half load "
                f"{row['half_load']['p99_us'] / 1000:.2f} ms, {times:.1f}x the disk's own p50 flush"
            )
        if "own_written_per_byte" in row:
            out.append(
                f"{size} bytes, {sessions} sessions: by its own count {row['own_written_per_byte']:.2f} "
                f"bytes written per byte, {row['own_flushes_per_message']:.3f} flushes per message"
            )
    return out


def table(found):
    lines = [[title for title, _, _ in COLUMNS]]
    for row in found["rows"]:
        lines.append([_cell(row, key, form) for _, key, form in COLUMNS])
    disk = [
        f"  {p['bytes'] >> 10:>5} KiB {'pre-written' if p['prewritten'] else 'fresh':<12}"
        f"p50 {p['p50_us']:>7.0f} µs   p99 {p['p99_us']:>7.0f} µs   {p['megabytes_per_second']:>7.1f} MB/s"
        for p in found["disk"]["points"]
    ]
    head = (
        f"commit {found['commit']}, {found['date']}, Linux {found['kernel']}, {found['cores']} cores, "
        f"device {found['device']}, seed {found['seed']}, load average before {found['load_average']:.1f}"
    )
    parts = [head, "Bare disk, O_DIRECT write + fdatasync:\n" + "\n".join(disk), _grid(lines)]
    ratios = _ratios(found)
    if ratios:
        parts.append("\n".join(ratios))
    return "\n\n".join(parts)
