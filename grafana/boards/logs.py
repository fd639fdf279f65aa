"""Logs and traces. Needs the profiles `logging` and `tracing`; without them its panels cannot reach their sources."""

from kit import JAEGER, LOKI, board, datasource_variable, row

STREAM = '{service="choreoai"}'


def loki_target(expression, legend=""):
    """One LogQL query."""
    return {"datasource": LOKI, "editorMode": "code", "expr": expression, "legendFormat": legend, "queryType": "range", "refId": "A"}


def volume():
    """Log lines over time."""
    return {
        "type": "timeseries",
        "title": "Log volume by level",
        "description": "Log lines in each step of the graph, by level.",
        "datasource": LOKI,
        "fieldConfig": {
            "defaults": {
                "custom": {"drawStyle": "bars", "fillOpacity": 80, "stacking": {"group": "A", "mode": "normal"}},
                "noValue": "no log line in this time range",
                "unit": "short",
            },
            "overrides": [],
        },
        "gridPos": {"h": 7, "w": 24, "x": 0, "y": 0},
        "options": {
            "legend": {"calcs": ["sum"], "displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [loki_target(f"sum by (level) (count_over_time({STREAM} | json [$__auto]))", "{{level}}")],
    }


def lines_of(title, description, expression, width):
    """Log lines, newest first."""
    return {
        "type": "logs",
        "title": title,
        "description": description,
        "datasource": LOKI,
        "gridPos": {"h": 10, "w": width, "x": 0, "y": 0},
        "options": {
            "dedupStrategy": "none",
            "enableLogDetails": True,
            "prettifyLogMessage": False,
            "showCommonLabels": False,
            "showLabels": False,
            "showTime": True,
            "sortOrder": "Descending",
            "wrapLogMessage": False,
        },
        "targets": [loki_target(expression)],
    }


def traces():
    """The newest traces of the gateway."""
    return {
        "type": "table",
        "title": "Recent traces",
        "description": "The newest traces of the gateway; a click opens the trace with its attempts.",
        "datasource": JAEGER,
        "fieldConfig": {"defaults": {"custom": {}, "noValue": "no trace in this time range", "unit": "short"}, "overrides": []},
        "gridPos": {"h": 10, "w": 24, "x": 0, "y": 0},
        "options": {"cellHeight": "sm", "showHeader": True},
        "targets": [{"datasource": JAEGER, "limit": 50, "queryType": "search", "refId": "A", "service": "choreoai"}],
    }


def dashboard():
    """The dashboard as Grafana reads it."""
    errors = lines_of("Errors", "Lines of level ERROR.", f'{STREAM} | json | level="ERROR"', 12)
    slow = lines_of("Slow requests", "Calls that took longer than five seconds.", f"{STREAM} | json | duration > 5", 12)
    sources = [datasource_variable("loki", "Loki", "loki"), datasource_variable("jaeger", "Jaeger", "jaeger")]
    rows = [row("Logs", [volume(), errors, slow]), row("Traces", [traces()])]
    return board("choreoai-logs", "ChoreoAI / Logs and traces", "Log lines and traces; needs the profiles logging and tracing.", "S", rows, sources)
