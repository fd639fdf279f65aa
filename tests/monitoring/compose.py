#!/usr/bin/env python3
"""Holds the compose file to docker-compose 1.29 for every profile, and every service to what a shipped stack must have.

Must not need an engine: `config` reads the file only.
"""

import itertools
import re
import subprocess
import sys

import yaml

import project

FILE = project.ROOT / "docker-compose.monitoring.yml"
PROFILES = ("redis", "tracing", "logging")
# Service -> (profile, ports by default)
SERVICES = {
    "api": (None, {8000}),
    "prometheus": (None, {9090}),
    "grafana": (None, {3000}),
    "alertmanager": (None, {9093}),
    "redis": ("redis", {6379}),
    "redis-exporter": ("redis", set()),
    "jaeger": ("tracing", {16686, 4317, 4318}),
    "loki": ("logging", {3100}),
    "alloy": ("logging", {12345}),
}
# Images that hold nothing to run a check with.
WITHOUT_HEALTHCHECK = {"loki"}
NEWER_KEYS = {"name", "configs", "develop", "secrets", "models"}


def parsed():
    """The file with its anchors resolved."""
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


def check_config():
    """What docker-compose says for every combination of profiles."""
    found = []
    for count in range(len(PROFILES) + 1):
        for chosen in itertools.combinations(PROFILES, count):
            flags = [part for profile in chosen for part in ("--profile", profile)]
            command = ["docker-compose", "-f", str(FILE), *flags, "config", "-q"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            if done.returncode:
                found.append(f"{'+'.join(chosen) or 'no profile'}: {done.stderr.strip()}")
                return found
    return found


def check_services():
    """The services, profiles and ports that users know by name."""
    services, found = parsed()["services"], []
    for name in sorted(set(services) ^ set(SERVICES)):
        found.append(f"service {name} is {'missing' if name in SERVICES else 'not in the list of this check'}")
    for name in sorted(set(services) & set(SERVICES)):
        profile, ports = SERVICES[name]
        if services[name].get("profiles", []) != ([profile] if profile else []):
            found.append(f"{name}: its profile should be {profile}")
        found += [f"{name}: {what}" for what in check_ports(services[name].get("ports", []), ports)]
    return found


def check_ports(published, wanted):
    """Loopback only, movable by a variable, the usual numbers by default."""
    found, seen = [], set()
    for port in published:
        match = re.fullmatch(r"127\.0\.0\.1:\$\{[A-Z_]+:-(\d+)\}:\d+", port)
        if match:
            seen.add(int(match.group(1)))
        else:
            found.append(f"port {port} is not on loopback, or no variable moves it")
    return found + ([f"publishes {sorted(seen)}, not {sorted(wanted)}"] if seen != wanted else [])


def check_service(name, service):
    """What every service must have."""
    found = []
    if "build" not in service and not re.fullmatch(r"[\w./-]+:v?\d[\w.-]*", service["image"]):
        found.append(f"image {service['image']} is not pinned to a version")
    check = service.get("healthcheck", {})
    if not check.get("test") and name not in WITHOUT_HEALTHCHECK:
        found.append("has no health check")
    limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
    if not {"cpus", "memory"} <= set(limits):
        found.append("has no limit on cpus and memory")
    if service.get("logging", {}).get("options", {}).get("max-size") is None:
        found.append("its logs grow without end")
    if service.get("networks") != ["monitoring"]:
        found.append("is not on the network `monitoring`")
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        if source.startswith("./") and not (project.ROOT / source).exists():
            found.append(f"mounts {source}, which is not there")
    return [f"{name}: {what}" for what in found]


def check_whole():
    """What the file as a whole must have."""
    content, found = parsed(), []
    found += [f"{key}: is newer than docker-compose 1.29" for key in content if key in NEWER_KEYS]
    used = {volume.split(":")[0] for one in content["services"].values() for volume in one.get("volumes", [])}
    named = {name for name in used if not name.startswith(("./", "/"))}
    if named != set(content["volumes"]):
        found.append(f"volumes declared and used differ: {sorted(named ^ set(content['volumes']))}")
    if "${PROM_RETENTION:-30d}" not in FILE.read_text(encoding="utf-8"):
        found.append("retention is not set by PROM_RETENTION")
    told = content["services"]["api"]["environment"]
    spoken = {"http://jaeger:4317": "grpc", "http://jaeger:4318": "http/protobuf"}
    endpoint, protocol = (re.search(r":-([^}]*)", told[f"OTEL_EXPORTER_OTLP_{key}"]).group(1) for key in ("ENDPOINT", "PROTOCOL"))
    if spoken.get(endpoint) != protocol:
        found.append(f"spans go to {endpoint} as {protocol}, which nobody speaks there")
    return found


def check_provisioning():
    """Grafana's data sources: fixed uids, and links only to one another."""
    path = project.ROOT / "grafana" / "provisioning" / "datasources" / "datasources.yml"
    text = path.read_text(encoding="utf-8")
    uids = {one["uid"] for one in yaml.safe_load(text)["datasources"]}
    named = set(re.findall(r"datasourceUid: (\w+)", text))
    found = [f"a link leads to the data source {uid}, which is not there" for uid in sorted(named - uids)]
    return found + ([] if uids == {"prometheus", "alertmanager", "jaeger", "loki"} else [f"uids are {sorted(uids)}"])


def check_neighbours():
    """The files of Loki, Jaeger and Filebeat: YAML, and every part of Jaeger's pipeline is configured."""
    found = []
    for path in [*project.ROOT.glob("logging/*.yml"), *project.ROOT.glob("tracing/*.yml")]:
        try:
            yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as problem:
            found.append(f"{path.name}: {problem}")
    if found:
        return found
    jaeger = yaml.safe_load((project.ROOT / "tracing" / "jaeger.yml").read_text(encoding="utf-8"))
    for part in ("receivers", "processors", "exporters"):
        for name in jaeger["service"]["pipelines"]["traces"][part]:
            found += [] if name in jaeger[part] else [f"jaeger.yml: {part} {name} is named and not configured"]
    found += [f"jaeger.yml: extension {name} is not configured" for name in jaeger["service"]["extensions"] if name not in jaeger["extensions"]]
    store = jaeger["extensions"]["jaeger_query"]["storage"]["traces"]
    if {store, jaeger["exporters"]["jaeger_storage_exporter"]["trace_storage"]} - set(jaeger["extensions"]["jaeger_storage"]["backends"]):
        found.append("jaeger.yml: traces go to or come from a store that is not there")
    return found


def main():
    """Run every check; the exit status is 1 when one finds something."""
    each = [what for name, service in parsed()["services"].items() for what in check_service(name, service)]
    good = [
        project.report("docker-compose accepts the file with every profile", check_config()),
        project.report("services, profiles and ports are the known ones", check_services()),
        project.report("every service is pinned, limited, watched and rotated", each),
        project.report("the file as a whole", check_whole()),
        project.report("Grafana's data sources", check_provisioning()),
        project.report("Loki's, Jaeger's and Filebeat's files", check_neighbours()),
    ]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
