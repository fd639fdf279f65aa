"""Who was refused and why: keys, limits, and the store behind the limits."""

from kit import S, board, lines, percentiles, rate, row, share, states

BACKEND = {"0": ("ok", "green"), "1": ("degraded", "red")}


def access():
    """Callers without a right to call."""
    refused = f'{S},error_type=~"unauthorized|forbidden"'
    rejected = f'{S},error_type=~"invalid_request|not_found"'
    return [
        lines("Authentication failures", "Calls refused for a missing, wrong or insufficient key.", "ops",
              [(rate("choreoai_errors_total", refused, "error_type"), "{{error_type}}")], empty="nobody was refused"),
        lines("Rejected requests", "Calls that made no sense or named nothing we have. A burst is a broken client or a scan.", "ops",
              [(rate("choreoai_errors_total", rejected, "error_type"), "{{error_type}}")], empty="nothing was rejected"),
    ]  # fmt: skip


def limits():
    """Callers over their limit."""
    refused = rate("choreoai_requests_total", f'{S},status="429"')
    return [
        lines("Rate limit hits", "Calls that met a limit, by whose limit it was and what it limits.", "ops",
              [(rate("choreoai_rate_limit_hits_total", S, "scope, limit"), "{{scope}} {{limit}}")], empty="no limit was met"),
        lines("429 share", "Share of all calls that were told to come back later.", "percentunit",
              [(share(refused, rate("choreoai_requests_total", S)), "429")], max=1),
        states("Rate limit backend", "Whether the store behind the limits answers. Degraded: each replica decides by its policy.",
               [(f"max by (backend) (choreoai_rate_limit_backend_state{{{S}}})", "{{backend}}")], BACKEND),
        lines("Degraded decisions", "Limits decided without the shared store.", "ops",
              [(rate("choreoai_rate_limit_degraded_total", S), "decisions")]),
        lines("Least left of a key's limit", "The share of each key's limits per minute that is left. With rate_limit.report_remaining.",
              "percentunit", [(f"min by (key, limit) (choreoai_rate_limit_remaining_ratio{{{S}}})", "{{key}} {{limit}}")],
              empty="rate_limit.report_remaining is off", max=1),
        lines("Limit script time", "How long the shared store takes to decide; every call waits for it once.", "s",
              percentiles("choreoai_rate_limit_script_seconds", S), empty="limits are kept in memory"),
    ]  # fmt: skip


def dashboard():
    """The dashboard as Grafana reads it."""
    rows = [row("Access", access()), row("Limits", limits())]
    return board("choreoai-security", "ChoreoAI / Security and limits", "Who was refused and why.", "S", rows)
