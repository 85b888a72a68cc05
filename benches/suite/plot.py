"""Plots as inline SVG: lines, bars and ranges, on linear or logarithmic axes.

No colours and no fonts here: everything carries a class, and the page's style sheet says what that
looks like in light and in dark. Each mark has a `<title>`, which browsers show under the mouse; each
plot has a title and a description for those who can't see it.
"""

import dataclasses
import html
import itertools
import math

WIDTH, HEIGHT = 560, 340
LEFT, RIGHT, TOP, BOTTOM = 76, 22, 14, 46
TEXT = 6.3  # mean width of a character at 11 px
_ids = itertools.count(1)


def escape(text):
    return html.escape(str(text), quote=True)


# ── numbers ──────────────────────────────────────────────────────────────────────────────────────


def number(value):
    """Three digits, thousands separated."""
    if value == 0:
        return "0"
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 0.1 else 3
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def short(value):
    """For an axis: 20k, 1.5M."""
    for limit, unit in [(1e9, "G"), (1e6, "M"), (1e4, "k")]:
        if abs(value) >= limit:
            scale = 1e3 if unit == "k" else limit
            return number(value / scale) + unit
    return number(value)


def size(value):
    """Bytes in units of 1024."""
    for limit, unit in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")]:
        if value >= limit:
            return f"{number(value / limit)} {unit}"
    return f"{number(value)} B"


def micros(value):
    """Microseconds, as people say them."""
    if value >= 1e6:
        return f"{number(value / 1e6)} s"
    if value >= 1000:
        return f"{number(value / 1000)} ms"
    return f"{number(value)} µs"


# ── axes ─────────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass
class Axis:
    """One direction of a plot. Without `ticks` they are found; `low` and `high` widen the range."""

    label: str
    log: bool = False
    form: object = short
    ticks: list = None
    low: float = None
    high: float = None

    def fit(self, values):
        """Takes its range from what is to be shown."""
        values = [v for v in values if v is not None and (v > 0 or not self.log)]
        values += [v for v in (self.low, self.high) if v is not None]
        if not values:
            values = [1, 10] if self.log else [0, 1]
        low, high = min(values), max(values)
        if self.log:
            self._fit_log(low, high)
        else:
            self._fit_linear(min(0, low), high)
        return self

    def _fit_log(self, low, high):
        if self.ticks:
            # The ticks around what there is, and those between.
            self.low = max((t for t in self.ticks if t <= low * 1.0001), default=low)
            self.high = min((t for t in self.ticks if t >= high * 0.9999), default=high)
            self.ticks = [t for t in self.ticks if self.low <= t <= self.high]
        elif high / low > 30:
            first, last = math.floor(math.log10(low * 1.05)), math.ceil(math.log10(high / 1.05))
            step = max(1, round((last - first) / 6))
            self.ticks = [10.0**n for n in range(first, last + 1, step)]
            self.low, self.high = 10.0**first, 10.0**last
        else:
            fine = (1, 1.5, 2, 3, 4, 5, 7) if high / low < 4 else (1, 2, 5)
            steps = [m * 10.0**n for n in range(-6, 13) for m in fine]
            first = max((s for s in steps if s <= low * 1.0001), default=low)
            last = min((s for s in steps if s >= high * 0.9999 and s > first), default=high)
            self.ticks = [s for s in steps if first <= s <= last]
            self.low, self.high = first, last
        if self.low == self.high:
            self.low, self.high = self.low / 2, self.high * 2

    def _fit_linear(self, low, high):
        high = high if high > low else low + 1
        raw = (high - low) / 5
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw)
        count = math.ceil(high / step - 1e-9)
        if not self.ticks:
            self.ticks = [n * step for n in range(math.floor(low / step), count + 1)]
        self.low, self.high = min(low, self.ticks[0]), max(high, self.ticks[-1])

    def share(self, value):
        """0 at the low end, 1 at the high one."""
        if self.log:
            value = max(value, self.low / 2)
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


# ── what can be shown ────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass
class Series:
    """A line. `style` is a class of the page: its colour goes with the thing, not with the rank."""

    label: str
    points: list  # (x, y), or (x, y, what to say under the mouse)
    style: str
    dashed: bool = False
    marks: bool = True


@dataclasses.dataclass
class Goal:
    """A line that is to be reached, or a reference: from x to x, all the width without."""

    label: str
    y: float
    start: float = None
    end: float = None
    style: str = "goal"


@dataclasses.dataclass
class Pin:
    """A point worth a name, with the name above or below it."""

    x: float
    y: float
    label: str
    style: str
    say: str = ""


class _Canvas:
    """The frame of a plot: where things are, and what has been drawn."""

    def __init__(self, title, words, height=HEIGHT, left=LEFT, top=TOP):
        self.id = next(_ids)
        self.title, self.words, self.height, self.left, self.top = title, words, height, left, top
        self.right, self.bottom = WIDTH - RIGHT, height - BOTTOM
        self.parts = []

    def add(self, text):
        self.parts.append(text)

    def line(self, x1, y1, x2, y2, style):
        self.add(
            f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
        )

    def text(self, x, y, text, style="tick", anchor="middle", more=""):
        self.add(
            f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>'
            f"{escape(text)}</text>"
        )

    def dot(self, x, y, style, say, radius=3.5):
        self.add(
            f'<circle class="dot {style}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}">'
            f"<title>{escape(say)}</title></circle>"
        )

    def x(self, axis, value):
        return self.left + axis.share(value) * (self.right - self.left)

    def y(self, axis, value):
        return self.bottom - axis.share(value) * (self.bottom - self.top)

    def x_axis(self, axis):
        used = -1e9
        for tick in axis.ticks:
            x, words = self.x(axis, tick), axis.form(tick)
            self.line(x, self.top, x, self.bottom, "grid")
            # A label that would touch the one before it is left out; its line stays.
            half = len(words) * TEXT / 2
            if x - half > used + 6:
                self.text(x, self.bottom + 17, words)
                used = x + half
        self.line(self.left, self.bottom, self.right, self.bottom, "axis")
        self.text((self.left + self.right) / 2, self.height - 8, axis.label, "label")

    def y_axis(self, axis):
        used = 1e9
        for tick in axis.ticks:
            y = self.y(axis, tick)
            self.line(self.left, y, self.right, y, "grid")
            if y + 12 < used:
                self.text(self.left - 8, y + 4, axis.form(tick), anchor="end")
                used = y
        middle = (self.top + self.bottom) / 2
        self.text(13, middle, axis.label, "label", more=f' transform="rotate(-90 13 {middle:.1f})"')

    def svg(self):
        return (
            f'<svg viewBox="0 0 {WIDTH} {self.height}" role="img" '
            f'aria-labelledby="plot{self.id}-title plot{self.id}-words">'
            f'<title id="plot{self.id}-title">{escape(self.title)}</title>'
            f'<desc id="plot{self.id}-words">{escape(self.words)}</desc>'
            + "".join(self.parts) + "</svg>"
        )


def legend(entries):
    """(label, style, kind) with kind `line`, `dashed`, `goal`, `pin` or `box`."""
    items = []
    for label, style, kind in dict.fromkeys(entries):
        if kind == "pin":
            sign = f'<circle class="dot {style}" cx="12" cy="6" r="4.5"/>'
        elif kind == "box":
            sign = f'<rect class="bar {style}" x="6" y="0" width="12" height="12" rx="2"/>'
        else:
            sign = f'<line class="line {style} {kind}" x1="0" y1="6" x2="24" y2="6"/>'
        items.append(
            f'<li><svg class="key" viewBox="0 0 24 12" aria-hidden="true">{sign}</svg>'
            f"{escape(label)}</li>"
        )
    return f'<ul class="legend">{"".join(items)}</ul>'


def figure(title, svg, entries):
    return f"<figure><figcaption>{escape(title)}</figcaption>{legend(entries)}{svg}</figure>"


# ── the plots ────────────────────────────────────────────────────────────────────────────────────


def _goals(canvas, x_axis, y_axis, goals):
    entries = []
    for goal in goals:
        y = canvas.y(y_axis, goal.y)
        start = canvas.left if goal.start is None else canvas.x(x_axis, goal.start)
        end = canvas.right if goal.end is None else canvas.x(x_axis, goal.end)
        if end - start < 24:  # a goal at one place is a bar across it
            start, end = max(canvas.left, start - 12), min(canvas.right, end + 12)
        canvas.add(
            f'<line class="line {goal.style} goal" x1="{start:.1f}" y1="{y:.1f}" x2="{end:.1f}" '
            f'y2="{y:.1f}"><title>{escape(goal.label)}</title></line>'
        )
        entries.append((goal.label, goal.style, "goal"))
    return entries


def _pins(canvas, x_axis, y_axis, pins):
    """Names in rows at the foot of the plot, each with a line to its point, so that none overlap."""
    rows, height, texts = [], 15, []
    for pin in sorted(pins, key=lambda pin: pin.x):
        x, y = canvas.x(x_axis, pin.x), canvas.y(y_axis, pin.y)
        half = len(pin.label) * TEXT / 2
        middle = min(max(x, canvas.left + half + 2), canvas.right - half)
        row = next((n for n, end in enumerate(rows) if middle - half > end + 6), len(rows))
        if row == len(rows):
            rows.append(0)
        rows[row] = middle + half
        foot = canvas.bottom - 8 - row * height
        canvas.line(x, y, x, foot - 10, "leader")
        texts.append((middle, foot, pin.label, "note"))
        canvas.dot(x, y, pin.style, pin.say or pin.label, 5)
    for text in texts:  # above all leaders, which they cut
        canvas.text(*text)


def lines(title, words, x_axis, y_axis, series, goals=(), pins=(), pin_label=""):
    """Lines over numbers. Series without points are left out."""
    series = [each for each in series if each.points]
    x_axis.fit([p[0] for s in series for p in s.points] + [p.x for p in pins])
    y_axis.fit([p[1] for s in series for p in s.points] + [g.y for g in goals])
    canvas = _Canvas(title, words)
    canvas.y_axis(y_axis)
    canvas.x_axis(x_axis)
    entries = []
    for each in series:
        places = [(canvas.x(x_axis, p[0]), canvas.y(y_axis, p[1])) for p in each.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        kind = "dashed" if each.dashed else "line"
        canvas.add(f'<polyline class="line {each.style} {kind}" points="{path}"/>')
        for (x, y), point in zip(places, each.points) if each.marks else ():
            say = point[2] if len(point) > 2 else f"{x_axis.form(point[0])}: {number(point[1])}"
            canvas.dot(x, y, each.style, f"{each.label}, {say}")
        entries.append((each.label, each.style, kind))
    entries += _goals(canvas, x_axis, y_axis, goals)
    if pins:
        _pins(canvas, x_axis, y_axis, pins)
        entries.append((pin_label, pins[0].style, "pin"))
    return figure(title, canvas.svg(), entries)


def bars(title, words, y_axis, groups, goals=()):
    """Bars in groups: (name of the group, [(label, value, style)])."""
    values = [value for _, each in groups for _, value, _ in each]
    y_axis.fit(values + [goal.y for goal in goals])
    canvas = _Canvas(title, words)
    canvas.y_axis(y_axis)
    canvas.line(canvas.left, canvas.bottom, canvas.right, canvas.bottom, "axis")
    room = (canvas.right - canvas.left) / max(1, len(groups))
    entries, texts = [], []
    for number_, (name, each) in enumerate(groups):
        wide = min(56, (room - 24) / max(1, len(each)))
        start = canvas.left + room * (number_ + 0.5) - wide * len(each) / 2
        for label, value, style in each:
            y = canvas.y(y_axis, value)
            canvas.add(
                f'<rect class="bar {style}" x="{start + 1:.1f}" y="{y:.1f}" width="{wide - 2:.1f}" '
                f'height="{max(0, canvas.bottom - y):.1f}" rx="2">'
                f"<title>{escape(f'{label}, {name}: {number(value)}')}</title></rect>"
            )
            texts.append((start + wide / 2, y - 5, number(value), "note"))
            start += wide
            entries.append((label, style, "box"))
        canvas.text(canvas.left + room * (number_ + 0.5), canvas.bottom + 17, name)
    entries += _goals(canvas, None, y_axis, goals)
    for text in texts:
        canvas.text(*text)
    return figure(title, canvas.svg(), entries)


def ranges(title, words, x_axis, rows, goals=(), height=None):
    """A row for each thing, with a few values along one axis: (name, style, [(label, value)]).

    Lengths mean nothing on a logarithmic axis, positions do: hence dots, not bars."""
    height = height or 52 * len(rows) + TOP + BOTTOM + 14
    left = 20 + max([len(name) for name, _, _ in rows] or [0]) * TEXT * 1.05
    x_axis.fit([value for _, _, each in rows for _, value in each] + [goal.y for goal in goals])
    canvas = _Canvas(title, words, height, left, TOP + 8)
    canvas.x_axis(x_axis)
    entries = []
    for goal in goals:
        x = canvas.x(x_axis, goal.y)
        canvas.add(
            f'<line class="line {goal.style} goal" x1="{x:.1f}" y1="{canvas.top}" x2="{x:.1f}" '
            f'y2="{canvas.bottom}"><title>{escape(goal.label)}</title></line>'
        )
        entries.append((goal.label, goal.style, "goal"))
    step = (canvas.bottom - canvas.top) / max(1, len(rows))
    for row, (name, style, each) in enumerate(rows):
        y = canvas.top + step * (row + 0.5) - 3
        places = [canvas.x(x_axis, value) for _, value in each]
        canvas.text(left - 10, y + 4, name, "name", "end")
        canvas.line(min(places), y, max(places), y, f"line {style}")
        used = {-10: -1e9, 18: -1e9}
        for place, (label, value) in zip(places, each):
            canvas.dot(place, y, style, f"{name}, {label}: {x_axis.form(value)}", 5)
            half = len(label) * TEXT / 2
            # Next to each other they would run into one: the next goes below, else
            # the mouse tells it.
            side = next((side for side in used if place - half > used[side] + 3), None)
            if side is not None:
                canvas.text(place, y + side, label, "note")
                used[side] = place + half
    return figure(title, canvas.svg(), entries)
