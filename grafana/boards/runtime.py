"""The process, its telemetry, and the monitoring itself."""

from kit import S, board, lines, names_of_values, rate, row, stat, states, table

RELOAD = {"0": ("refused", "red"), "1": ("in effect", "green")}


def process():
    """What the operating system sees."""
    return [
        lines("Memory", "Resident memory of each instance.", "bytes",
              [(f"process_resident_memory_bytes{{{S}}}", "{{instance}}")], 8, limit="threshold:memory_warning_bytes"),
        lines("CPU cores", "Cores each instance keeps busy.", "short",
              [(f"rate(process_cpu_seconds_total{{{S}}}[$__rate_interval])", "{{instance}}")], 8),
        lines("Open file descriptors", "Share of the allowed descriptors in use. Each connection takes one.", "percentunit",
              [(f"process_open_fds{{{S}}} / process_max_fds{{{S}}}", "{{instance}}")], 8, max=1),
        table("Version", "What runs where.", "none", [(f"choreoai_build_info{{{S}}}", "")], {},
              ["__name__", "job", "service", "env", "Value"], 12),
        stat("Startup time", "From the start of the process to its first readiness; the slowest instance.", "s",
             f"max(choreoai_startup_duration_seconds{{{S}}})", 4),
        states("Configuration", "Whether the last configuration read was accepted.",
               [(f"min by (instance) (choreoai_config_last_reload_successful{{{S}}})", "{{instance}}")], RELOAD, 8),
        stat("Configuration age", "Since the configuration in use was read; the instance that lags most.", "s",
             f"max(time() - choreoai_config_last_reload_success_timestamp_seconds{{{S}}})", 8),
        lines("Reloads", "Times the configuration was read again, by what came of it.", "ops",
              [(rate("choreoai_config_reloads_total", S, "result"), "{{result}}")], 8),
        lines("Configurations in memory", "One, and for a while the ones before. A number that stays up is a leak.", "short",
              [(f"choreoai_configs_in_use{{{S}}}", "{{instance}}")], 8),
    ]  # fmt: skip


def telemetry():
    """What was lost on the way out, and what watching costs."""
    return [
        lines("Telemetry dropped", "Spans and log lines given up so that calls need not wait.", "ops",
              [(rate("choreoai_telemetry_dropped_total", S, "signal"), "{{signal}}")], 8),
        lines("Scrape duration", "How long Prometheus takes to read each instance.", "s",
              [(f"scrape_duration_seconds{{{S}}}", "{{instance}}")], 8),
        lines("Series per scrape", "Series each instance exposes. Growth without new models or keys is a label gone wild.", "short",
              [(f"scrape_samples_post_metric_relabeling{{{S}}}", "{{instance}}")], 8),
    ]  # fmt: skip


def watching():
    """Whether alerts would reach anybody."""
    quiet = [names_of_values({"0": ("none", "green")})]
    return [
        stat("Targets down", "Scrape targets of any job that do not answer.", "none", "count(up == 0) or vector(0)", 4,
             mappings=quiet, steps=[{"color": "green", "value": None}, {"color": "red", "value": 1}]),
        lines("Rule evaluation failures", "Rules that could not be evaluated; alerts in that group are blind.", "ops",
              [(rate("prometheus_rule_evaluation_failures_total", "", "rule_group"), "{{rule_group}}")], 10),
        lines("Notification errors", "Alerts that Prometheus could not hand to Alertmanager.", "ops",
              [(rate("prometheus_notifications_errors_total", "", "alertmanager"), "{{alertmanager}}")], 10),
    ]  # fmt: skip


def dashboard():
    """The dashboard as Grafana reads it."""
    rows = [row("Process", process()), row("Telemetry", telemetry()), row("Prometheus and Alertmanager", watching())]
    return board("choreoai-runtime", "ChoreoAI / Runtime and monitoring health", "The process, its telemetry, and the monitoring itself.", "S", rows)
