"""How full the gateway is: queues, connections, load against what was planned."""

from kit import P, S, board, lines, quantile, rate, row, share


def load():
    """What is under way and what waits."""
    return [
        lines("Queue size", "Calls that wait for a free slot of a provider.", "short",
              [(f"sum by (provider) (choreoai_queue_size{{{P}}})", "{{provider}}")], limit="threshold:queue_size"),
        lines("Queue wait p95", "How long calls waited for a slot.", "s",
              [(quantile(0.95, "choreoai_queue_wait_seconds", P, "provider"), "{{provider}}")], empty="nobody waited"),
        lines("Requests in flight", "Calls that have begun and not ended.", "short",
              [(f"sum by (endpoint) (choreoai_requests_in_flight{{{S}}})", "{{endpoint}}")], 6),
        lines("Attempts in flight", "Attempts under way at each provider; also those read on after their caller left.", "short",
              [(f"sum by (provider) (choreoai_attempts_in_flight{{{P}}})", "{{provider}}")], 6),
        lines("Active connections", "Client connections, by instance.", "short",
              [(f"sum by (instance) (choreoai_active_connections{{{S}}})", "{{instance}}")], 6,
              limit="threshold:active_connections"),
        lines("Request rate vs limit", "All calls against the rate this installation was planned for.", "reqps",
              [(rate("choreoai_requests_total", S), "requests")], 6, limit="threshold:requests_per_second"),
    ]  # fmt: skip


def connections():
    """How the gateway reaches its providers."""
    reused = rate("choreoai_upstream_connections_reused_total", P, "provider")
    created = rate("choreoai_upstream_connections_created_total", P, "provider")
    return [
        lines("Connection reuse", "Share of upstream calls that found an open connection. Idle counts as full reuse.",
              "percentunit", [(share(reused, f"({reused} + {created})", idle=1), "{{provider}}")],
              limit="threshold:connection_reuse_ratio", max=1),
        lines("New connections", "Connections opened to a provider, each with its handshakes.", "ops",
              [(created, "{{provider}}")]),
    ]  # fmt: skip


def dashboard():
    """The dashboard as Grafana reads it."""
    rows = [row("Load and queues", load()), row("Upstream connections", connections())]
    return board("choreoai-capacity", "ChoreoAI / Capacity and queues", "How full the gateway is.", "P", rows)
