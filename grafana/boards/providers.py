"""Providers and models side by side: who fails, who is slow, who takes over."""

from kit import M, OURS, P, S, board, increase, lines, pie, quantile, rate, row, share, stat, states, table

BREAKER = {"0": ("closed", "green"), "1": ("half-open", "yellow"), "2": ("open", "red")}
AVAILABLE = {"0": ("unavailable", "red"), "1": ("available", "green")}


def traffic():
    """What each provider gets and how it does."""
    errors = rate("choreoai_errors_total", f"{P},{OURS}", "provider")
    requests = rate("choreoai_requests_total", P, "provider")
    return [
        lines("Requests per second by provider", "Calls answered, by the provider that answered. Empty: refused before one was chosen.",
              "reqps", [(rate("choreoai_requests_total", M, "provider"), "{{provider}}")], 9),
        pie("Provider distribution", "Who answered how many of the calls in the time range shown.", "short",
            increase("choreoai_requests_total", M, "provider"), "{{provider}}"),
        lines("Error rate by provider", "Share of a provider's calls that failed through its or our fault.", "percentunit",
              [(share(errors, requests), "{{provider}}")], 9, limit="threshold:provider_error_ratio"),
        lines("Upstream duration p95 by provider", "Time of one attempt at the provider, from sending to its last byte.", "s",
              [(quantile(0.95, "choreoai_upstream_request_duration_seconds", M, "provider"), "{{provider}}")], exemplars=True),
        lines("TTFT p95 by provider", "Time to the first token of a stream.", "s",
              [(quantile(0.95, "choreoai_time_to_first_token_seconds", M, "provider"), "{{provider}}")],
              limit="threshold:time_to_first_token_seconds", exemplars=True),
    ]  # fmt: skip


def trouble():
    """What the gateway did about failures."""
    return [
        lines("Attempts by outcome", "Requests sent to providers, retries and fallbacks included, by how they ended.", "ops",
              [(rate("choreoai_upstream_requests_total", P, "provider, outcome"), "{{provider}} {{outcome}}")]),
        states("Circuit breaker state", "Closed lets calls through, open keeps them away, half-open tries one.",
               [(f"max by (provider) (choreoai_circuit_breaker_state{{{P}}})", "{{provider}}")], BREAKER),
        stat("Breaker trips in range", "How often each breaker opened in the time range shown.", "short",
             increase("choreoai_circuit_breaker_trips_total", P, "provider"), 6, "{{provider}}", decimals=0),
        lines("Retries by reason", "Attempts repeated at the same provider.", "ops",
              [(rate("choreoai_upstream_retries_total", P, "provider, reason"), "{{provider}} {{reason}}")], 9),
        lines("Fallbacks", "Calls handed from one provider to the next.", "ops",
              [(rate("choreoai_fallbacks_total", S, "from_provider, to_provider, reason"),
                "{{from_provider}} → {{to_provider}} ({{reason}})")], 9),
        lines("Probes", "Whether each provider was there when it was asked beside all calls. Flat where none is configured.", "ops",
              [(rate("choreoai_probes_total", P, "provider, result"), "{{provider}} {{result}}")], 24),
        lines("Further attempts not made", "Retries, fallbacks and hedges that were left out because the provider fails and its retry "
              "budget is used up.", "ops",
              [(rate("choreoai_retry_budget_exhausted_total", P, "provider"), "{{provider}}")]),
        lines("Hedges", "Second attempts made beside a slow first one.", "ops",
              [(rate("choreoai_hedges_total", P, "provider"), "{{provider}}")]),
        lines("Keys left alone", "Keys of a provider that it refused and that are not used for a while.", "short",
              [(f"max by (provider) (choreoai_upstream_keys_resting{{{P}}})", "{{provider}}")]),
        lines("Keys refused", "Refusals of a provider's keys: not accepted, no quota left, too fast.", "ops",
              [(rate("choreoai_upstream_key_refusals_total", P, "provider, reason"), "{{provider}} {{reason}}")]),
        lines("Malformed events", "Events of a provider's stream that could not be read and were skipped.", "ops",
              [(rate("choreoai_malformed_events_total", P, "provider"), "{{provider}}")]),
        lines("Quota left at the provider", "What the provider's own rate limit headers last said remains.", "short",
              [(f"min by (provider, kind) (choreoai_upstream_ratelimit_remaining{{{P}}})", "{{provider}} {{kind}}")],
              empty="no provider has told its quota"),
    ]  # fmt: skip


def models():
    """Every model that is used or offered."""
    return [
        table("Model league table", "Calls, tokens and cost of each model in the time range shown.", "short",
              [(increase(f"choreoai_{what}_total", M, "provider, model"), "") for what in ("requests", "tokens", "cost")],
              {"Value #A": "requests", "Value #B": "tokens", "Value #C": "cost"}, [],
              overrides=[{"matcher": {"id": "byName", "options": "cost"},
                          "properties": [{"id": "unit", "value": "currencyUSD"}]}]),
        states("Model availability", "Whether a model can be reached through any instance.",
               [(f"max by (provider, model) (choreoai_model_available{{{M}}})", "{{provider}}/{{model}}")], AVAILABLE),
        lines("Tool calls in answers", "Tool calls that models asked for.", "ops",
              [(rate("choreoai_tool_calls_total", M, "provider, model"), "{{provider}}/{{model}}")]),
    ]  # fmt: skip


def dashboard():
    """The dashboard as Grafana reads it."""
    rows = [row("Providers", traffic()), row("Trouble", trouble()), row("Models", models())]
    return board("choreoai-providers", "ChoreoAI / Providers and models", "Who fails, who is slow, who takes over.", "M", rows)
