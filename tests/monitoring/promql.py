"""Reads PromQL far enough to say which metrics, labels and groupings it names.

Must not decide what is right, and is no full parser: promtool parses every expression besides.
"""

import re
from dataclasses import dataclass, field

KEYWORDS = {
    "and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right", "bool", "offset",
    "inf", "nan", "start", "end",
}  # fmt: skip
GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)|(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
    r"""|(?P<window>\[[^\]]*\])|(?P<number>\d[\w.]*(?:[eE][+-]?\d+)?)"""
    r"""|(?P<name>[a-zA-Z_:$][\w:$]*)|(?P<op>=~|!~|!=|==|>=|<=|[-+*/%^<>=(){},@])"""
)


@dataclass
class Selector:
    """One metric as an expression names it: its matchers, its range, the functions around it."""

    metric: str
    matchers: list = field(default_factory=list)  # (label, operator, value)
    window: str = ""
    inside: tuple = ()
    position: int = 0

    def labels(self):
        """The labels it filters on."""
        return {label for label, _, _ in self.matchers}


@dataclass
class Grouping:
    """A by, on, group_left … with its labels and, for an aggregation, the span of what it aggregates."""

    word: str
    labels: list
    start: int
    end: int


def tokens(expression):
    """(kind, text, position) of everything but space; raises ValueError on what PromQL does not have."""
    position, found = 0, []
    while position < len(expression):
        match = TOKEN.match(expression, position)
        if not match:
            raise ValueError(f"cannot read PromQL at {expression[position:position + 20]!r}")
        if match.lastgroup != "space":
            found.append((match.lastgroup, match.group(), position))
        position = match.end()
    return found


def matching(stream, index):
    """The index of the parenthesis that closes the one at `index`."""
    depth = 0
    for place in range(index, len(stream)):
        depth += {"(": 1, ")": -1}.get(stream[place][1], 0)
        if depth == 0:
            return place
    raise ValueError("a parenthesis is not closed")


def read_matchers(stream, index):
    """The matchers from the brace at `index` on, and the index after the closing brace."""
    found, index = [], index + 1
    while stream[index][1] != "}":
        if stream[index][1] == ",":
            index += 1
            continue
        label, operator, value = (stream[index + step][1] for step in range(3))
        found.append((label, operator, value[1:-1].replace("\\\\", "\\")))
        index += 3
    return found, index + 1


def text_at(stream, index):
    """The token's text, or nothing past the end."""
    return stream[index][1] if index < len(stream) else ""


def read(expression):
    """(selectors, groupings) of an expression."""
    stream, selectors, groupings, functions = tokens(expression), [], [], []
    index = 0
    while index < len(stream):
        kind, text, position = stream[index]
        if kind == "name" and text in GROUPING and text_at(stream, index + 1) == "(":
            close = matching(stream, index + 1)
            labels = [part[1] for part in stream[index + 2 : close] if part[0] == "name"]
            scope = (0, len(expression))
            if text in ("by", "without") and text_at(stream, close + 1) == "(":
                scope = (stream[close + 1][2], stream[matching(stream, close + 1)][2])
            groupings.append(Grouping(text, labels, *scope))
            index = close + 1
        elif kind == "name" and text_at(stream, index + 1) == "(":
            functions.append((text, matching(stream, index + 1)))
            index += 1
        elif kind == "name" and text_at(stream, index + 1) in ("by", "without"):
            index += 1
        elif (kind == "name" and text.lower() not in KEYWORDS) or text == "{":
            inside = tuple(name for name, close in functions if close > index)
            one = Selector(text if kind == "name" else "", inside=inside, position=position)
            index += kind == "name"
            if text_at(stream, index) == "{":
                one.matchers, index = read_matchers(stream, index)
            if index < len(stream) and stream[index][0] == "window":
                one.window, index = stream[index][1], index + 1
            selectors.append(one)
        else:
            index += 1
    return selectors, groupings


def selectors(expression):
    """Every metric an expression names."""
    return read(expression)[0]
