"""Where the time of a call goes, and how streams feel."""

from kit import M, P, S, board, heatmap, lines, mean, percentiles, quantile, rate, row


def split():
    """Ours, the provider's, the queue's."""
    parts = [
        (mean("choreoai_queue_wait_seconds", P), "waiting for a slot"),
        (mean("choreoai_upstream_request_duration_seconds", M), "provider"),
        (mean("choreoai_overhead_seconds", S), "gateway"),
    ]
    return [
        lines("Mean request time split", "Mean seconds of a call in the queue, at the provider and in the gateway itself.", "s",
              parts, stacked=True, fill=40),
        lines("Gateway overhead percentiles", "Time in the gateway that is not the provider's.", "s",
              percentiles("choreoai_overhead_seconds", S), limit="threshold:overhead_seconds", exemplars=True),
        lines("Latency p95 by endpoint", "Nineteen of twenty calls of an endpoint end within this time.", "s",
              [(quantile(0.95, "choreoai_request_duration_seconds", P, "endpoint"), "{{endpoint}}")], exemplars=True),
        lines("Upstream (inference) time percentiles", "Time of one attempt at the provider.", "s",
              percentiles("choreoai_upstream_request_duration_seconds", M), exemplars=True),
    ]  # fmt: skip


def streaming():
    """What a reader of a stream notices."""
    return [
        lines("Time to first token", "From a call's arrival to the first token that reaches the caller.", "s",
              percentiles("choreoai_time_to_first_token_seconds", M),
              limit="threshold:time_to_first_token_seconds", exemplars=True),
        lines("Time per output token", "Between one token and the next, once a stream runs.", "s",
              percentiles("choreoai_time_per_output_token_seconds", M), exemplars=True),
        heatmap("TTFT heatmap", "How many streams began after how long; dots are traces.", "s",
                "choreoai_time_to_first_token_seconds", M),
        lines("Streams cut short", "Streams that ended early, by the side that ended them.", "ops",
              [(rate("choreoai_stream_aborts_total", S, "side"), "{{side}}")]),
    ]  # fmt: skip


def dashboard():
    """The dashboard as Grafana reads it."""
    rows = [row("Where the time goes", split()), row("Streaming", streaming())]
    return board("choreoai-latency", "ChoreoAI / Latency and streaming", "Where the time of a call goes, and how streams feel.", "M", rows)
