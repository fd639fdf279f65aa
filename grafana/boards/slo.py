"""What we promised, how much of the allowed failure is used up, and how fast."""

from kit import board, gauge, lines, row

OBJECTIVES = {
    "requests-availability": ("Availability", "calls that do not fail through our or a provider's fault"),
    "ttft-latency": ("Time to first token", "streams that begin within 2.5 s"),
    "gateway-overhead": ("Gateway overhead", "calls of which the gateway takes no more than 10 ms"),
}
WINDOWS = ("5m", "1h", "6h", "3d")
LEFT = [{"color": "red", "value": None}, {"color": "orange", "value": 0.25}, {"color": "green", "value": 0.5}]


def budget_left(slo):
    """1 is untouched, 0 is used up, below 0 is overdrawn. Events weigh alike whenever they happened; no event costs nothing."""
    selector = f'{{job=~"$job",slo="{slo}"}}'
    errors = f"sum(sum_over_time(slo:sli_errors:rate5m{selector}[$__range]))"
    events = f"sum(sum_over_time(slo:sli_events:rate5m{selector}[$__range]))"
    return f'1 - ({errors} / ({events} > 0) or 0 * {events}) / scalar(max(slo:error_budget:ratio{{slo="{slo}"}}))'


def burn_rate(slo, window):
    """How many times faster than allowed. 1 lasts exactly the period."""
    selector = f'{{job=~"$job",slo="{slo}"}}'
    ratio = f"max(slo:sli_error:ratio_rate{window}{selector})"
    idle = f"0 * max(slo:sli_events:rate5m{selector})"
    return f'({ratio} or {idle}) / scalar(max(slo:error_budget:ratio{{slo="{slo}"}}))'


def objective(slo, title, good):
    """The two panels of one objective."""
    rates = [(burn_rate(slo, window), window) for window in WINDOWS]
    return row(
        title,
        [
            gauge(f"Error budget left: {title}", f"Share of the allowed failures not yet used in the time range shown. Good are {good}.",
                  "percentunit", budget_left(slo), 8, min=0, max=1, steps=LEFT),
            lines(f"Burn rate: {title}", "How many times faster than allowed failures come, over four windows. 14.4 and 6 page, 3 and 1 ask for attention.",
                  "short", rates, 16),
        ],
    )  # fmt: skip


def dashboard():
    """The dashboard as Grafana reads it."""
    rows = [objective(slo, title, good) for slo, (title, good) in OBJECTIVES.items()]
    return board("choreoai-slo", "ChoreoAI / SLO and error budget", "What we promised and how much of the allowed failure is used up.", "S", rows)
