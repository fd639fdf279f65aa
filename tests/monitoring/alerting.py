#!/usr/bin/env python3
"""Holds Alertmanager's configuration to amtool, every alert to its receiver, and inhibition to what should silence what.

Must not need a running Alertmanager.
"""

import re
import subprocess
import sys

import yaml

import project

CONFIG = project.ROOT / "alerts" / "alertmanager.yml"
TEMPLATES = project.ROOT / "alerts" / "templates"
SECRETS = re.compile(r"^\s*(?:- )?(api_url|routing_key|service_key|auth_password|password|credentials|bearer_token|url):\s*(\S+)")

# (what fires, what else fires, whether the second is silenced)
INHIBITION = [
    ({"alertname": "ServiceDown", "job": "choreoai"}, {"alertname": "HighErrorRate", "job": "choreoai"}, True),
    ({"alertname": "ServiceDown", "job": "choreoai"}, {"alertname": "InstanceDown", "job": "choreoai"}, True),
    ({"alertname": "ServiceDown", "job": "choreoai"}, {"alertname": "Watchdog"}, False),
    ({"alertname": "ServiceDown", "job": "choreoai"}, {"alertname": "PrometheusRuleFailures", "job": "prometheus"}, False),
    ({"alertname": "VeryHighLatency", "job": "choreoai"}, {"alertname": "HighLatency", "job": "choreoai"}, True),
    ({"alertname": "VeryHighLatency", "job": "choreoai"}, {"alertname": "HighErrorRate", "job": "choreoai"}, False),
    ({"alertname": "HighLatency", "job": "choreoai"}, {"alertname": "HighLatencyModerate", "job": "choreoai"}, True),
    ({"alertname": "HighErrorRate", "job": "choreoai"}, {"alertname": "ProviderHighErrorRate", "job": "choreoai", "provider": "a"}, True),
    ({"alertname": "CircuitBreakerOpen", "job": "choreoai", "provider": "a"},
     {"alertname": "ProviderHighErrorRate", "job": "choreoai", "provider": "a"}, True),
    ({"alertname": "CircuitBreakerOpen", "job": "choreoai", "provider": "a"},
     {"alertname": "ProviderHighErrorRate", "job": "choreoai", "provider": "b"}, False),
    ({"alertname": "HighMemoryUsageCritical", "job": "choreoai", "instance": "a"},
     {"alertname": "HighMemoryUsageWarning", "job": "choreoai", "instance": "b"}, False),
    ({"alertname": "GatewayErrorBudgetBurnFast", "job": "choreoai", "slo": "x"},
     {"alertname": "GatewayErrorBudgetBurnSlow", "job": "choreoai", "slo": "x"}, True),
]  # fmt: skip


def configuration():
    """The parsed file."""
    return yaml.safe_load(CONFIG.read_text(encoding="utf-8"))


def amtool(*arguments):
    """(exit status, what it prints, what it complains of)."""
    done = subprocess.run(["amtool", *map(str, arguments)], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout.strip(), done.stderr.strip()


def check_configuration():
    """Whether Alertmanager would start with it."""
    status, output, complaint = amtool("check-config", CONFIG)
    return (output + "\n" + complaint).splitlines() if status else []


def expected_receiver(labels):
    """Who should hear an alert of these labels."""
    if labels["severity"] == "warning" and labels["area"] in ("cost", "billing"):
        return "mail"
    return {"none": "deadman", "critical": "pager", "warning": "chat", "info": "nobody"}[labels["severity"]]


def check_routes():
    """Whether every alert goes where its severity says, and what nobody foresaw goes to nobody."""
    found = []
    wanted = {name: (rule["labels"], expected_receiver(rule["labels"])) for name, rule in project.alerts().items()}
    wanted["SomebodyElsesAlert"] = ({"severity": "strange"}, "nobody")
    for name, (labels, receiver) in wanted.items():
        pairs = [f"{key}={value}" for key, value in {"alertname": name, "job": "choreoai", **labels}.items()]
        _, output, _ = amtool("config", "routes", "test", f"--config.file={CONFIG}", *pairs)
        if output != receiver:
            found.append(f"{name} goes to {output!r}, not to {receiver!r}")
    return found


def check_secrets():
    """Whether the file holds a secret, or an address beyond this machine."""
    found = []
    for number, line in enumerate(CONFIG.read_text(encoding="utf-8").splitlines(), start=1):
        match = SECRETS.match(line)
        if match and not match.group(2).startswith("http://127.0.0.1:"):
            found.append(f"line {number}: {match.group(1)} belongs in a secret file")
    return found


def check_templates():
    """Whether every template a receiver names is defined."""
    defined = {name for path in TEMPLATES.glob("*.tmpl") for name in re.findall(r'define "([^"]+)"', path.read_text("utf-8"))}
    named = set(re.findall(r'template "([^"]+)"', CONFIG.read_text(encoding="utf-8")))
    return [f"template {name} is nowhere defined" for name in sorted(named - defined)]


def matches(matchers, labels):
    """Whether labels satisfy every matcher, as Alertmanager reads them."""
    tests = {
        "=": lambda have, want: have == want,
        "!=": lambda have, want: have != want,
        "=~": lambda have, want: re.fullmatch(want, have) is not None,
        "!~": lambda have, want: re.fullmatch(want, have) is None,
    }
    for matcher in matchers:
        label, operator, value = re.fullmatch(r'(\w+)\s*(=~|!~|!=|=)\s*"?(.*?)"?', matcher).groups()
        if not tests[operator](labels.get(label, ""), value):
            return False
    return True


def silences(rule, source, target):
    """Whether one inhibition rule lets the source silence the target."""
    return (
        matches(rule["source_matchers"], source)
        and matches(rule["target_matchers"], target)
        and all(source.get(label, "") == target.get(label, "") for label in rule["equal"])
    )


def check_inhibition():
    """Whether what should be silenced is, and nothing else."""
    found, known = [], project.alerts()
    inhibit = configuration()["inhibit_rules"]
    for source, target, wanted in INHIBITION:
        for labels in (source, target):
            labels.update(known[labels["alertname"]]["labels"])
        if any(silences(rule, source, target) for rule in inhibit) != wanted:
            verb = "does not silence" if wanted else "silences"
            found.append(f"{source['alertname']} {verb} {target['alertname']} ({target})")
    text = CONFIG.read_text(encoding="utf-8").split("inhibit_rules:")[1].split("receivers:")[0]
    named = {name for value in re.findall(r'alertname[=!~]+"([^"]+)"', text) for name in value.split("|")}
    return found + [f"inhibition names {name}, which is no alert" for name in sorted(named - set(known))]


def main():
    """Run every check; the exit status is 1 when one finds something."""
    good = [
        project.report("amtool accepts alertmanager.yml", check_configuration()),
        project.report("every alert reaches its receiver", check_routes()),
        project.report("inhibition silences what follows from a cause, and no more", check_inhibition()),
        project.report("alertmanager.yml holds no secret", check_secrets()),
        project.report("every template is defined", check_templates()),
    ]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
