"""suite.json as one HTML page: no scripts, nothing from elsewhere, readable in light and in dark."""

import goals
import show_flush
import show_loads
import show_store
from data import Data, Malformed, losses
from plot import escape, micros, number, size

SECTIONS = [
    show_flush.flush, show_loads.throughput, show_loads.latency, show_loads.sizes,
    show_store.recovery, show_store.compaction,
]
__all__ = ["Malformed", "draw", "losses"]

STYLE = """
:root { color-scheme: light dark;
  --page: #f9f9f7; --card: #fcfcfb; --ink: #0b0b0b; --soft: #52514e; --mute: #85837d;
  --grid: #e6e5df; --axis: #c3c2b7; --edge: #e3e2dc;
  --blue: #2a78d6; --orange: #eb6834; --violet: #4a3aa7; --aqua: #1baf7a; --grey: #8b8983;
  --good: #006300; --bad: #c0302f; --warn-back: #fdf3dc; --warn-ink: #5c4300; }
@media (prefers-color-scheme: dark) { :root {
  --page: #0d0d0d; --card: #1a1a19; --ink: #ffffff; --soft: #c3c2b7; --mute: #97958d;
  --grid: #2c2c2a; --axis: #4a4945; --edge: #2c2c2a;
  --blue: #3987e5; --orange: #d95926; --violet: #9085e9; --aqua: #199e70; --grey: #8b8983;
  --good: #3fbf3f; --bad: #e66767; --warn-back: #2d2410; --warn-ink: #f0d79a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; letter-spacing: -.01em; }
h2 { font-size: 19px; margin: 0 0 6px; }
p { margin: 0 0 14px; max-width: 90ch; color: var(--soft); }
section { margin-top: 44px; }
nav { margin: 12px 0 20px; display: flex; flex-wrap: wrap; gap: 4px 18px; }
a { color: var(--blue); text-decoration: none; } a:hover { text-decoration: underline; }
.open { font-style: italic; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(250px, 1fr)); gap: 10px 28px;
  background: var(--card); border: 1px solid var(--edge); border-radius: 10px; padding: 16px 20px; margin: 0; }
.facts div { min-width: 0; } .facts .full { grid-column: 1 / -1; }
.facts dt { font-size: 12px; color: var(--mute); }
.facts dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
code { font: 13px/1.5 ui-monospace, "DejaVu Sans Mono", monospace; }
.warn { background: var(--warn-back); color: var(--warn-ink); border-radius: 8px; padding: 10px 16px;
  margin: 14px 0 0; } .warn ul { margin: 0; padding-left: 18px; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(520px, 100%), 1fr)); gap: 16px; }
figure { margin: 0; background: var(--card); border: 1px solid var(--edge); border-radius: 10px;
  padding: 14px 16px 8px; min-width: 0; display: flex; flex-direction: column; }
figcaption { font-weight: 600; margin-bottom: 4px; }
figure > svg { width: 100%; height: auto; margin-top: auto; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 0 0 8px; padding: 0;
  font-size: 12.5px; color: var(--soft); }
.legend li { display: flex; align-items: center; gap: 6px; }
.key { width: 24px; height: 12px; flex: none; }
svg text { font: 11px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: var(--mute); }
svg text.label { font-size: 12px; fill: var(--soft); } svg text.note, svg text.name { fill: var(--soft); }
svg text.note { paint-order: stroke; stroke: var(--card); stroke-width: 3px; stroke-linejoin: round; }
.grid { stroke: var(--grid); stroke-width: 1; } .axis { stroke: var(--axis); stroke-width: 1; }
.leader { stroke: var(--axis); stroke-width: 1; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.line.dashed { stroke-dasharray: 2 5; } .line.goal { stroke-dasharray: 7 4; stroke-width: 2; stroke-linecap: butt; }
.dot { stroke: var(--card); stroke-width: 1.5; }
.line.kura { stroke: var(--blue); } .dot.kura, .bar.kura { fill: var(--blue); }
.line.maildir { stroke: var(--orange); } .dot.maildir, .bar.maildir { fill: var(--orange); }
.line.mdbox { stroke: var(--violet); } .dot.mdbox, .bar.mdbox { fill: var(--violet); }
.line.lmtp { stroke: var(--aqua); } .dot.lmtp, .bar.lmtp { fill: var(--aqua); }
.line.disk { stroke: var(--grey); } .dot.disk, .bar.disk { fill: var(--grey); }
.line.ink { stroke: var(--ink); }
details { margin-top: 12px; } summary { cursor: pointer; color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin-top: 8px; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 14px 4px 0; text-align: right; border-bottom: 1px solid var(--edge); font-weight: 400; }
thead th { color: var(--mute); font-size: 12px; vertical-align: bottom; }
th:first-child { text-align: left; }
table.goals { width: 100%; } .goals th, .goals td { text-align: left; vertical-align: top; padding: 7px 18px 7px 0; }
.goals td:last-child { white-space: nowrap; padding-right: 0; }
.met { color: var(--good); font-weight: 600; } .missed { color: var(--bad); font-weight: 600; }
.none { color: var(--mute); }
"""


def facts(data):
    run, said = data.run, data.profile
    binary = run["binary"]
    commit = run["commit"] or "not in a git tree"
    tree = commit[:12] + (" with changes that are not committed" if run["dirty"] else "")
    if binary["given"]:
        of = (f"{binary['version']}, given with --kura: its commit is not known. "
              f"Built {binary['built']}, SHA-256 {binary['sha256'][:16]}…")
    else:
        of = f"{binary['version']}, built from that commit"
    found = [
        ("date", run["date"], ""), ("commit of the tree", tree, ""), ("binary", of, ""),
        ("seed", run["seed"], ""),
        ("scale", f"{run['scale']}, {number(run['seconds'])} s in all" if "seconds" in run
         else f"{run['scale']}, not finished", ""),
        ("kernel", run["kernel"], ""), ("memory", size(run["memory_bytes"]), ""),
    ]
    if said:
        profile = said["profile"]
        device, files = profile["device"], profile["file_system"]
        found += [
            ("profile", said["from"] if said["name"] == "measured" else f"{said['name']}, {said['from']}", ""),
            ("cores", f"{run['cores']} × {profile['host']['cpu_model']}, the load's too", ""),
            ("device", ", ".join(filter(None, [run["device"], device["model"], device["write_cache"],
                                               "FUA" if device["fua"] else "no FUA", device["scheduler"]])), ""),
            ("file system", f"{files['kind']} ({files['options']})", ""),
        ]
    else:
        found += [("profile", "none", ""), ("cores", run["cores"], ""), ("device", run["device"], "")]
    found.append(("load average before", f"{run['load_average_before']:.2f}", ""))
    if data.disk:
        after = data.disk_after
        found.append(("4 KiB flush of the bare disk, p50", f"{micros(data.flush_us())} before the loads, " + (
            f"{micros(after['flush_4k_p50_us'])} after them" if after else "not measured after them"), ""))
    versions = dict.fromkeys(r["version"] for r in data.rows if r["server"] != "kura")
    peers = "; ".join(versions) or "not measured in this run"
    found += [("peers, as Debian configures them", peers, ""), ("command", run["command"], "full")]
    return '<dl class="facts">' + "".join(
        f'<div class="{kind}"><dt>{escape(name)}</dt><dd>'
        + (f"<code>{escape(text)}</code>" if name == "command" else escape(text)) + "</dd></div>"
        for name, text, kind in found
    ) + "</dl>"


def warnings(data, found):
    """What makes the numbers worth less."""
    lines = [f"Wrong: {each}" for each in losses(found)]
    lines += [f"Failed: {each['what']}: {each['why']}" for each in data.failed]
    errors = sum(row["errors"] for row in data.rows)
    if errors:
        lines.append(f"{errors} messages were refused or went wrong under load; the tables say where.")
    if data.run["load_average_before"] > data.run["cores"] / 2:
        lines.append("The machine was busy before the run began: its load average was "
                     f"{data.run['load_average_before']:.1f}.")
    busy = sum(
        max(row["background_bytes_per_second"], row["background_after_bytes_per_second"]) > 2e6
        for row in data.rows
    )
    if busy:
        lines.append(f"Others wrote more than 2 MB/s to the device around {busy} of {len(data.rows)} loads: "
                     "counts by the device are off there.")
    if data.disk and data.disk_after:
        before, after = data.flush_us(), data.disk_after["flush_4k_p50_us"]
        if max(before, after) > 1.5 * min(before, after):
            lines.append(f"The bare disk changed under the run: a flush of 4 KiB took {micros(before)} before the "
                         f"loads and {micros(after)} after them.")
    if data.run["scale"] != "full":
        lines.append(f"A {data.run['scale']} run: short loads, fewer points. A first look, not a verdict.")
    for each in (data.profile or {}).get("findings", []):
        lines.append(f"Profile, {each['severity']}: {each['what']}; {each['mend']}.")
    if not lines:
        return ""
    return '<div class="warn"><ul>' + "".join(f"<li>{escape(x)}</li>" for x in lines) + "</ul></div>"


def verdicts(data):
    signs = {goals.MET: ("met", "✓ met"), goals.MISSED: ("missed", "✗ missed"),
             goals.OPEN: ("none", "– not measured")}
    rows = "".join(
        f"<tr><th>{escape(v.what)}</th><td>{escape(v.goal)}</td><td>{escape(v.found)}</td>"
        f'<td class="{signs[v.status][0]}">{signs[v.status][1]}</td></tr>'
        for v in goals.all_of(data)
    )
    return ('<section id="goals"><h2>Goals</h2><p>What the design asks for, and what this run found.</p>'
            '<div class="wide"><table class="goals"><thead><tr><th>what</th><th>goal</th><th>found</th><th></th></tr>'
            f"</thead><tbody>{rows}</tbody></table></div></section>")


def draw(found):
    """The page; `Malformed` when something is not there or not what it should be."""
    try:
        data = Data(found)
        body = facts(data) + warnings(data, found) + verdicts(data)
        body += "".join(section(data) for section in SECTIONS)
    except KeyError as problem:
        raise Malformed(f"it lacks {problem}") from problem
    except (TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError) as problem:
        raise Malformed(f"a value is not what it should be ({problem})") from problem
    names = [("goals", "Goals"), ("flush", "Flush curve"), ("throughput", "Throughput"),
             ("latency", "Latency"), ("sizes", "Sizes"), ("recovery", "Recovery"),
             ("compaction", "Compaction")]
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title in names)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Kura benchmarks, {escape(data.run['date'])}</title><style>{STYLE}</style></head><body><main>"
        "<h1>Kura: the benchmark suite</h1><p>Everything in one run on one host: Kura, the bare disk, and "
        "Debian's Postfix and Dovecot. Believe the ratios; absolute numbers are this host's.</p>"
        f"<nav>{links}</nav>{body}</main></body></html>\n"
    )
