"""Tokens and money, by provider, model and key, and whether the books are complete."""

from kit import M, S, bars, board, gauge, increase, lines, rate, row, share, stat

REQUESTS = rate("choreoai_requests_total", M)
ANSWERED = rate("choreoai_requests_total", f'{M},status=~"2.."')


def tokens():
    """How many."""
    return [
        lines("Tokens by provider", "Input and output tokens per second.", "short",
              [(rate("choreoai_tokens_total", M, "provider"), "{{provider}}")]),
        lines("Input vs output tokens", "Tokens per second by direction.", "short",
              [(rate("choreoai_tokens_total", M, "type"), "{{type}}")]),
        gauge("Tokens in the last hour", "All tokens of the last hour. HighTokenUsage compares them to its threshold.", "short",
              increase("choreoai_tokens_total", M, window="1h"), 6, min=0),
        lines("Parts of the tokens", "Cached, cache-writing, reasoning and audio tokens: parts of the totals, never added to them.",
              "short", [(rate("choreoai_token_details_total", M, "type"), "{{type}}")], 18),
    ]  # fmt: skip


def cost():
    """How much."""
    return [
        lines("Cost by provider", "What an hour at the present pace costs.", "currencyUSD",
              [(rate("choreoai_cost_total", M, "provider") + " * 3600", "{{provider}}")]),
        bars("Cost by model in range", "What each model cost in the time range shown.", "currencyUSD",
             increase("choreoai_cost_total", M, "model"), "{{model}}"),
        lines("Cost per 1k requests", "Mean price of a thousand calls.", "currencyUSD",
              [("1000 * " + rate("choreoai_cost_total", M) + f" / ({REQUESTS} > 0) or 0 * {REQUESTS}", "per 1,000")], 18),
        stat("Projected month", "The last 24 hours, thirty times.", "currencyUSD",
             "30 * " + increase("choreoai_cost_total", M, window="24h"), 6),
    ]  # fmt: skip


def keys():
    """For whom. Keys are known by their configured names, never by their secrets."""
    return [
        lines("Requests by key", "Calls per second of each configured key.", "reqps",
              [(rate("choreoai_key_requests_total", S, "key"), "{{key}}")], 8),
        lines("Tokens by key", "Tokens per second of each configured key.", "short",
              [(rate("choreoai_key_tokens_total", S, "key, type"), "{{key}} {{type}}")], 8),
        bars("Cost by key in range", "What each key cost in the time range shown.", "currencyUSD",
             increase("choreoai_key_cost_total", S, "key"), "{{key}}", 8),
    ]  # fmt: skip


def books():
    """Is the bill right."""
    missing = rate("choreoai_usage_missing_total", M)
    settled = rate("choreoai_settlements_total", M)
    estimated = rate("choreoai_settlements_total", f'{M},usage_source="estimated"')
    return [
        lines("Answers without usage", "Share of the answers for which a provider reported no usage; they are estimated.",
              "percentunit", [(share(missing, ANSWERED), "without usage")], 8, limit="threshold:usage_missing_ratio"),
        lines("Settlements by outcome", "Attempts booked, by how they ended. One for each attempt sent.", "ops",
              [(rate("choreoai_settlements_total", M, "outcome"), "{{outcome}}")], 8),
        lines("Settlements by source of usage", "Where the booked numbers come from: the provider, a part, an estimate, or nothing to bill.",
              "ops", [(rate("choreoai_settlements_total", M, "usage_source"), "{{usage_source}}")], 8),
        lines("Estimated share", "Share of the settlements that rest on an estimate.", "percentunit",
              [(share(estimated, settled), "estimated")], 8, max=1),
        lines("Unpriced tokens", "Tokens of models without a price: counted, and free in our books.", "short",
              [(rate("choreoai_unpriced_tokens_total", M, "provider, model"), "{{provider}}/{{model}}")], 8),
        lines("Attempts not booked", "Attempts that ended without a settlement. Above 0 for longer than a moment, money is lost.", "short",
              [(f"job_instance:choreoai_unsettled_attempts:current{{{S}}}", "{{instance}}")], 8,
              limit="threshold:unsettled_attempts"),
    ]  # fmt: skip


def dashboard():
    """The dashboard as Grafana reads it."""
    rows = [row("Tokens", tokens()), row("Cost", cost()), row("Keys", keys()), row("The books", books())]
    return board("choreoai-cost", "ChoreoAI / Tokens and cost", "Tokens and money, by provider, model and key, and whether the books are complete.", "M", rows)
