"""The first page: is it there, does it work, is it quick, what does it cost."""

from kit import (
    M, OURS, P, S, board, heatmap, increase, lines, names_of_values, percentiles, quantile, rate, row, share, stat,
)  # fmt: skip

REQUESTS = rate("choreoai_requests_total", M)
BY_ENDPOINT = rate("choreoai_requests_total", P, "endpoint")
ERRORS = rate("choreoai_errors_total", f"{P},{OURS}")


def now():
    """The numbers one looks at first."""
    down = [names_of_values({"0": ("DOWN", "red")})]
    quiet = [names_of_values({"0": ("none", "green")})]
    alerts = 'count(ALERTS{job=~"$job",alertstate="firing",alertname!="Watchdog"}) or vector(0)'
    good = rate("choreoai_requests_total", f'{M},status=~"2.."')
    return [
        stat("Status", "Gateway instances that answer Prometheus. 0 is an outage.", "none",
             f"sum(up{{{S}}})", mappings=down, empty="DOWN"),
        stat("Alerts firing", "Alerts of this gateway that fire now; the watchdog, which always fires, is left out.",
             "none", alerts, mappings=quiet, steps=[{"color": "green", "value": None}, {"color": "orange", "value": 1}]),
        stat("Models routable", "Models that can be reached through at least one instance.", "none",
             f"sum(max by (provider, model) (choreoai_model_available{{{M}}}))"),
        stat("Uptime", "Since the youngest instance started.", "dtdurations",
             f"time() - max(process_start_time_seconds{{{S}}})"),
        stat("Requests in flight", "Calls that have begun and not ended, streams included.", "short",
             f"sum(choreoai_requests_in_flight{{{S}}})"),
        stat("Active connections", "Client connections open now.", "short",
             f"sum(choreoai_active_connections{{{S}}})"),
        stat("Request rate", "Calls answered per second.", "reqps", REQUESTS, graph="area"),
        stat("Success rate", "Calls answered with a 2xx status. Refusals that callers cause count as not successful.",
             "percentunit", share(good, REQUESTS, idle=1)),
        stat("Error rate", "Calls that failed through our or a provider's fault, broken streams included.",
             "percentunit", share(ERRORS, rate("choreoai_requests_total", P))),
        stat("P95 latency", "Nineteen of twenty calls are answered within this time, streams to their last byte.", "s",
             quantile(0.95, "choreoai_request_duration_seconds", P)),
        stat("P95 time to first token", "Nineteen of twenty streams show their first token within this time.", "s",
             quantile(0.95, "choreoai_time_to_first_token_seconds", M)),
        stat("Tokens in range", "Input and output tokens in the time range shown.", "short",
             increase("choreoai_tokens_total", M)),
        stat("Cost in range", "What providers charge for the time range shown, by the price table.", "currencyUSD",
             increase("choreoai_cost_total", M)),
    ]  # fmt: skip


def traffic():
    """Who asks for what."""
    streamed = rate("choreoai_streaming_requests_total", M)
    return [
        lines("Request rate by endpoint", "Calls per second for each endpoint.", "reqps",
              [(rate("choreoai_requests_total", M, "endpoint"), "{{endpoint}}")], 8),
        lines("Request rate by status", "Calls per second for each HTTP status. A stream that broke late still has a 200.",
              "reqps", [(rate("choreoai_requests_total", M, "status"), "{{status}}")], 8),
        lines("Streaming share", "Share of the calls that stream.", "percentunit",
              [(share(streamed, REQUESTS), "streamed")], 8, max=1),
    ]  # fmt: skip


def errors():
    """What goes wrong."""
    by_endpoint = rate("choreoai_errors_total", f"{P},{OURS}", "endpoint")
    return [
        lines("Error rate by endpoint", "Share of each endpoint's calls that failed through our or a provider's fault.",
              "percentunit", [(share(by_endpoint, BY_ENDPOINT), "{{endpoint}}")], limit="threshold:error_ratio"),
        lines("Errors by type", "Failed calls per second, callers' own mistakes included.", "ops",
              [(rate("choreoai_errors_total", P, "error_type"), "{{error_type}}")]),
    ]  # fmt: skip


def latency():
    """How long it takes."""
    return [
        lines("Request latency percentiles", "Time from a call's arrival to its last byte.", "s",
              percentiles("choreoai_request_duration_seconds", P), limit="threshold:latency_seconds", exemplars=True),
        heatmap("Request latency distribution", "How many calls took how long; dots are traces.", "s",
                "choreoai_request_duration_seconds", P),
    ]  # fmt: skip


def money():
    """What it uses up."""
    return [
        lines("Tokens per second by type", "Input and output tokens; cached and reasoning tokens are within them.", "short",
              [(rate("choreoai_tokens_total", M, "type"), "{{type}}")]),
        lines("Cost per hour by provider", "What an hour at the present pace costs.", "currencyUSD",
              [(rate("choreoai_cost_total", M, "provider") + " * 3600", "{{provider}}")]),
    ]  # fmt: skip


def dashboard():
    """The dashboard as Grafana reads it."""
    rows = [row("Now", now()), row("Traffic", traffic()), row("Errors", errors()), row("Latency", latency()),
            row("Tokens and cost", money())]  # fmt: skip
    return board("choreoai-overview", "ChoreoAI / Overview", "Is the gateway there, does it work, is it quick, what does it cost.", "M", rows)
