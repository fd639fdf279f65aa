"""What a dashboard is made of: PromQL building blocks, panels, rows, variables, links, annotations.

Must not know any metric of the gateway but those its variables are filled from.
"""

# Selectors: which gateway (S), which provider too (P), which model too (M).
S = 'job=~"$job",instance=~"$instance"'
P = S + ',provider=~"$provider"'
M = P + ',model=~"$model"'

# Failures that are ours or a provider's; the rest is the caller's own doing.
OURS = (
    'error_type!~"invalid_request|unauthorized|forbidden|not_found|'
    'rate_limited|budget_exceeded|blocked|client_disconnect|deadline_exceeded"'
)

PROMETHEUS = {"type": "prometheus", "uid": "${datasource}"}
LOKI = {"type": "loki", "uid": "${loki}"}
JAEGER = {"type": "jaeger", "uid": "${jaeger}"}
GRID = 24


# --- PromQL -----------------------------------------------------------------------------------------------------------


def total(inner, by=""):
    """A sum, over everything or by labels."""
    return f"sum by ({by}) ({inner})" if by else f"sum({inner})"


def rate(metric, selector, by=""):
    """Events per second."""
    braces = f"{{{selector}}}" if selector else ""
    return total(f"rate({metric}{braces}[$__rate_interval])", by)


def increase(metric, selector, by="", window="$__range"):
    """Events in the time range shown, or in a window."""
    return total(f"increase({metric}{{{selector}}}[{window}])", by)


def share(part, whole, idle=0):
    """Part of a whole: 0 before the first event of the part, and `idle` while there is nothing at all; never NaN."""
    resting = f"0 * {whole}" if idle == 0 else f"{idle} + 0 * {whole}"
    return f"({part} or 0 * {whole}) / ({whole} > 0) or {resting}"


def quantile(q, metric, selector, by=""):
    """A quantile of a histogram over all its label sets, or by labels; absent (not NaN) while nothing happens."""
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({q}, {rate(metric + '_bucket', selector, labels)}) >= 0"


def mean(metric, selector):
    """The mean of a histogram; absent while nothing happens."""
    return f"{rate(metric + '_sum', selector)} / ({rate(metric + '_count', selector)} > 0)"


def percentiles(metric, selector):
    """Median, 95th and 99th percentile as three queries with their legends."""
    return [(quantile(q, metric, selector), name) for q, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))]


# --- Panels -----------------------------------------------------------------------------------------------------------


def targets(queries, instant=False, table=False, exemplars=False):
    """Prometheus queries of one panel: (expression, legend) pairs."""
    made = []
    for letter, (expression, legend) in zip("ABCDEFGH", queries):
        made.append(
            {
                "datasource": PROMETHEUS,
                "editorMode": "code",
                "expr": expression,
                "exemplar": exemplars,
                "format": "table" if table else "time_series",
                "instant": instant,
                "legendFormat": legend,
                "range": not instant,
                "refId": letter,
            }
        )
    return made


def panel(kind, title, description, unit, queries, width, height, options, custom=None, **more):
    """The parts that every panel with PromQL behind it has."""
    defaults = {
        "color": {"mode": more.get("color", "palette-classic")},
        "custom": custom or {},
        "mappings": more.get("mappings", []),
        "noValue": more.get("empty", "nothing in this time range"),
        "thresholds": {"mode": "absolute", "steps": more.get("steps", [{"color": "green", "value": None}])},
        "unit": unit,
    }
    for bound in ("min", "max", "decimals"):
        if bound in more:
            defaults[bound] = more[bound]
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": PROMETHEUS,
        "fieldConfig": {"defaults": defaults, "overrides": more.get("overrides", [])},
        "gridPos": {"h": height, "w": width, "x": 0, "y": 0},
        "options": options,
        "targets": targets(queries, more.get("instant", False), more.get("table", False), more.get("exemplars", False)),
        "transformations": more.get("transformations", []),
    }


def stat(title, description, unit, query, width=4, legend="", **more):
    """One number now."""
    options = {
        "colorMode": "value",
        "graphMode": more.pop("graph", "none"),
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "auto",
        "wideLayout": True,
    }
    more.setdefault("color", "thresholds")
    more.setdefault("empty", "idle")
    return panel("stat", title, description, unit, [(query, legend)], width, 4, options, **more)


def lines(title, description, unit, queries, width=12, height=8, **more):
    """Lines over time. `limit` names a threshold series: it is drawn dashed, so the number stands in one place only."""
    limit = more.pop("limit", None)
    if limit:
        queries = queries + [(f"max({limit})", "alert")]
        more["overrides"] = more.get("overrides", []) + [dashed_red("alert")]
    custom = {
        "drawStyle": "line",
        "fillOpacity": more.pop("fill", 8),
        "lineWidth": 1,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"group": "A", "mode": "normal" if more.pop("stacked", False) else "none"},
    }
    options = {
        "legend": {"calcs": ["lastNotNull", "max"], "displayMode": "table", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    more.setdefault("min", 0)
    return panel("timeseries", title, description, unit, queries, width, height, options, custom, **more)


def dashed_red(name):
    """How the line of a threshold looks."""
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [
            {"id": "color", "value": {"fixedColor": "red", "mode": "fixed"}},
            {"id": "custom.lineStyle", "value": {"dash": [10, 10], "fill": "dash"}},
            {"id": "custom.fillOpacity", "value": 0},
            {"id": "custom.stacking", "value": {"group": "limit", "mode": "none"}},
        ],
    }


def heatmap(title, description, unit, metric, selector, width=12):
    """How a histogram's observations spread over time."""
    options = {
        "calculate": False,
        "cellGap": 1,
        "color": {"exponent": 0.5, "fill": "dark-orange", "mode": "scheme", "scheme": "Oranges", "steps": 64},
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "tooltip": {"mode": "single", "yHistogram": False},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": unit},
    }
    query = increase(metric + "_bucket", selector, "le", "$__rate_interval")
    made = panel("heatmap", title, description, unit, [(query, "{{le}}")], width, 8, options, exemplars=True)
    made["targets"][0]["format"] = "heatmap"
    return made


def pie(title, description, unit, query, legend, width=6):
    """Who has how much of it."""
    options = {
        "displayLabels": ["percent"],
        "legend": {"displayMode": "table", "placement": "right", "showLegend": True, "values": ["percent", "value"]},
        "pieType": "donut",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "tooltip": {"mode": "single", "sort": "none"},
    }
    return panel("piechart", title, description, unit, [(query, legend)], width, 8, options, instant=True)


def bars(title, description, unit, query, legend, width=12):
    """A ranking, as horizontal bars."""
    options = {
        "displayMode": "gradient",
        "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": False},
        "maxVizHeight": 300,
        "minVizHeight": 10,
        "minVizWidth": 0,
        "namePlacement": "auto",
        "orientation": "horizontal",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "showUnfilled": True,
        "sizing": "auto",
        "valueMode": "color",
    }
    return panel("bargauge", title, description, unit, [(query, legend)], width, 8, options, instant=True, min=0)


def gauge(title, description, unit, query, width=6, **more):
    """A number on its scale."""
    options = {
        "minVizHeight": 75,
        "minVizWidth": 75,
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "showThresholdLabels": False,
        "showThresholdMarkers": True,
        "sizing": "auto",
    }
    more.setdefault("color", "thresholds")
    return panel("gauge", title, description, unit, [(query, "")], width, 8, options, instant=True, **more)


def table(title, description, unit, queries, names, hidden, width=24, **more):
    """Rows of instant values; `names` gives columns their headings, `hidden` leaves columns out."""
    options = {"cellHeight": "sm", "showHeader": True}
    organize = {
        "id": "organize",
        "options": {"excludeByName": {name: True for name in ["Time", *hidden]}, "renameByName": names},
    }
    transformations = [{"id": "merge", "options": {}}, organize]
    custom = {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False}
    return panel(
        "table", title, description, unit, queries, width, 8, options, custom,
        instant=True, table=True, transformations=transformations, **more,
    )  # fmt: skip


def states(title, description, queries, mappings, width=12):
    """Which state it was in, over time."""
    custom = {"fillOpacity": 70, "lineWidth": 0}
    options = {
        "alignValue": "left",
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False},
        "mergeValues": True,
        "rowHeight": 0.9,
        "showValue": "auto",
        "tooltip": {"mode": "single", "sort": "none"},
    }
    return panel(
        "state-timeline", title, description, "none", queries, width, 8, options, custom,
        mappings=[names_of_values(mappings)], color="thresholds",
    )  # fmt: skip


def names_of_values(pairs):
    """A mapping from values to (text, colour)."""
    return {
        "type": "value",
        "options": {
            value: {"color": color, "index": index, "text": text}
            for index, (value, (text, color)) in enumerate(pairs.items())
        },
    }


# --- The dashboard ----------------------------------------------------------------------------------------------------


def row(title, panels):
    """A heading and the panels under it."""
    return (title, panels)


def place(rows):
    """Panels left to right, wrapped at the grid's width, numbered from 1."""
    placed, y = [], 0
    for title, panels in rows:
        heading = {"type": "row", "title": title, "collapsed": False, "panels": []}
        heading["gridPos"] = {"h": 1, "w": GRID, "x": 0, "y": y}
        placed.append(heading)
        x, y, tallest = 0, y + 1, 0
        for one in panels:
            size = one["gridPos"]
            if x + size["w"] > GRID:
                x, y, tallest = 0, y + tallest, 0
            size["x"], size["y"] = x, y
            x, tallest = x + size["w"], max(tallest, size["h"])
            placed.append(one)
        y += tallest
    return [{"id": number, **one} for number, one in enumerate(placed, start=1)]


def datasource_variable(name, label, kind):
    """Which of the data sources of one kind to ask."""
    return {
        "name": name,
        "label": label,
        "type": "datasource",
        "query": kind,
        "current": {"selected": True, "text": label, "value": kind},
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "options": [],
        "refresh": 1,
        "regex": "",
    }


def label_variable(name, query, all_value):
    """A choice of label values; all of them unless the reader picks."""
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": PROMETHEUS,
        "definition": query,
        "query": {"query": query, "refId": name},
        "allValue": all_value,
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "hide": 0,
        "includeAll": True,
        "multi": True,
        "options": [],
        "refresh": 2,
        "regex": "",
        "sort": 1,
    }


def variables(extent):
    """The variables a dashboard needs for its selectors: "S", "P" or "M". All of a label that may be empty is `.*`."""
    asked = f'choreoai_requests_total{{{S}}}'
    chosen = [
        datasource_variable("datasource", "Prometheus", "prometheus"),
        label_variable("job", "label_values(choreoai_build_info, job)", ".+"),
        label_variable("instance", 'label_values(choreoai_build_info{job=~"$job"}, instance)', ".+"),
    ]
    if extent in "PM":
        chosen.append(label_variable("provider", f"label_values({asked}, provider)", ".*"))
    if extent == "M":
        chosen.append(label_variable("model", f'label_values(choreoai_requests_total{{{P}}}, model)', ".*"))
    return chosen


def annotation(name, expression, color, title, text, tags):
    """Marks in time, on every panel."""
    return {
        "datasource": PROMETHEUS,
        "enable": True,
        "expr": expression,
        "hide": False,
        "iconColor": color,
        "name": name,
        "step": "60s",
        "tagKeys": tags,
        "textFormat": text,
        "titleFormat": title,
    }


def annotations():
    """Restarts and firing alerts."""
    restarts = f"changes(process_start_time_seconds{{{S}}}[2m]) > 0"
    alerts = 'ALERTS{job=~"$job",alertstate="firing",alertname!="Watchdog"}'
    return [
        annotation("Restarts", restarts, "blue", "restart", "{{instance}}", "job,instance"),
        annotation("Alerts", alerts, "red", "{{alertname}}", "{{severity}} {{provider}}", "alertname,severity"),
    ]


def links():
    """To the other dashboards, taking time range and variables along."""
    return [
        {
            "asDropdown": True,
            "icon": "external link",
            "includeVars": True,
            "keepTime": True,
            "tags": ["choreoai"],
            "targetBlank": False,
            "title": "ChoreoAI",
            "tooltip": "",
            "type": "dashboards",
            "url": "",
        }
    ]


def board(uid, title, description, extent, rows, more_variables=()):
    """A whole dashboard."""
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["choreoai"],
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "schemaVersion": 41,
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "version": 1,
        "annotations": {"list": annotations()},
        "links": links(),
        "templating": {"list": [*variables(extent), *more_variables]},
        "panels": place(rows),
    }
