"""The head of the page: where the numbers are from, what makes them worth less, the goals."""

import goals
from data import losses
from plot import escape, micros, number, size


def facts(data):
    found = [*of_the_run(data.run), *of_the_host(data), *of_the_disk(data)]
    versions = dict.fromkeys(r["version"] for r in data.rows if r["server"] != "kura")
    peers = "; ".join(versions) or "not measured in this run"
    found.append(("peers, as Debian configures them", peers))
    items = [f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in found]
    items.append(
        '<div class="full"><dt>command</dt>'
        f"<dd><code>{escape(data.run['command'])}</code></dd></div>"
    )
    return f'<dl class="facts">{"".join(items)}</dl>'


def of_the_run(run):
    binary, commit = run["binary"], (run["commit"] or "not in a git tree")[:17]
    if binary["given"]:
        built = (
            f"{binary['version']}, given with --kura: its commit is not known. Built "
            f"{binary['built']}, SHA-256 {binary['sha256'][:16]}…"
        )
    else:
        built = f"{binary['version']}, built from that commit"
    took = f"{number(run['seconds'])} s in all" if "seconds" in run else "not finished"
    return [
        ("date", run["date"]),
        ("commit of the tree", commit + (" with changes not committed" if run["dirty"] else "")),
        ("binary", built),
        ("seed", run["seed"]),
        ("scale", f"{run['scale']}, {took}"),
        ("load average before", f"{run['load_average_before']:.2f}"),
    ]


def of_the_host(data):
    run, profile = data.run, data.profile
    found = "none"
    if profile:
        found = ("" if profile["name"] == "measured" else f"{profile['name']}, ") + profile["from"]
    return [
        ("kernel", run["kernel"]),
        ("memory", size(run["memory_bytes"])),
        ("profile", found),
        ("cores", f"{run['cores']} × {run['cpu_model']}, the load's too"),
        ("device", run["device"]),
        ("file system", run["file_system"].replace(",", ", ")),
    ]


def of_the_disk(data):
    if not data.disk:
        return []
    after = "not measured after them"
    if data.disk_after:
        after = f"{micros(data.disk_after['flush_4k_p50_us'])} after them"
    before = f"{micros(data.flush_us())} before the loads"
    return [("4 KiB flush of the bare disk, p50", f"{before}, {after}")]


def warnings(data, found):
    """What makes the numbers worth less."""
    lines = [f"Wrong: {each}" for each in losses(found)]
    lines += [f"Failed: {each['what']}: {each['why']}" for each in data.failed]
    errors = sum(row["errors"] for row in data.rows)
    if errors:
        lines.append(
            f"{errors} messages were refused or went wrong under load; the tables say where."
        )
    if data.run["load_average_before"] > data.run["cores"] / 2:
        lines.append(
            "The machine was busy before the run began: its load average was "
            f"{data.run['load_average_before']:.1f}."
        )
    busy = sum(
        max(row["background_bytes_per_second"], row["background_after_bytes_per_second"]) > 2e6
        for row in data.rows
    )
    if busy:
        lines.append(
            f"Others wrote more than 2 MB/s to the device around {busy} of {len(data.rows)} loads: "
            "counts by the device are off there."
        )
    if data.disk and data.disk_after:
        before, after = data.flush_us(), data.disk_after["flush_4k_p50_us"]
        if max(before, after) > 1.5 * min(before, after):
            lines.append(
                f"The bare disk changed under the run: a flush of 4 KiB took {micros(before)} before the "
                f"loads and {micros(after)} after them."
            )
    if data.run["scale"] != "full":
        lines.append(
            f"A {data.run['scale']} run: short loads, fewer points. A first look, not a verdict."
        )
    for each in (data.profile or {}).get("findings", []):
        lines.append(f"Profile, {each['severity']}: {each['what']}; {each['mend']}.")
    if not lines:
        return ""
    return (
        '<div class="warn"><ul>' + "".join(f"<li>{escape(x)}</li>" for x in lines) + "</ul></div>"
    )


def verdicts(data):
    signs = {
        goals.MET: ("met", "✓ met"),
        goals.MISSED: ("missed", "✗ missed"),
        goals.OPEN: ("none", "– not measured"),
    }
    rows = "".join(
        f"<tr><th>{escape(v.what)}</th><td>{escape(v.goal)}</td><td>{escape(v.found)}</td>"
        f'<td class="{signs[v.status][0]}">{signs[v.status][1]}</td></tr>'
        for v in goals.all_of(data)
    )
    return (
        '<section id="goals"><h2>Goals</h2><p>What the design asks for, and what this run found.</p>'
        '<div class="wide"><table class="goals"><thead><tr><th>what</th><th>goal</th><th>found</th>'
        "<th></th></tr>"
        f"</thead><tbody>{rows}</tbody></table></div></section>"
    )
