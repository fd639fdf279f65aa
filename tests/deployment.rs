//! The samples of docs/deployment.md, looked at by the programs that would read them, and beside the
//! gateway's own rules. It must not know how a sample is worded beyond that.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use choreoai::config::Config;
use serde_json::Value;

use crate::support::has_program;

/// What whoever stops the process must wait for beyond delay and grace.
const SPARE: Duration = Duration::from_secs(5);

fn page() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/deployment.md")).unwrap()
}

/// The only fenced block of this language.
fn sample(language: &str) -> String {
    let page = page();
    let opening = format!("```{language}\n");
    let mut blocks = page.split(&opening).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned());
    let only = blocks.next().unwrap_or_else(|| panic!("no block of {language}"));
    assert!(blocks.next().is_none(), "more than one block of {language}");
    only
}

fn written(name: &str, text: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("deployment-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// YAML as JSON, by the Python that the monitoring's checks use too.
fn yaml(text: &str) -> Vec<Value> {
    const PROGRAM: &str = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(sys.stdin))))";
    for python in ["python3", "/usr/bin/python3"] {
        let command = Command::new(python).args(["-c", PROGRAM]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let Ok(mut child) = command else { continue };
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        if output.status.success() {
            return serde_json::from_slice(&output.stdout).unwrap();
        }
    }
    panic!("no Python with PyYAML could read\n{text}");
}

fn seconds(value: &Value) -> Duration {
    Duration::from_secs(value.as_u64().unwrap_or_else(|| panic!("{value} is no number of seconds")))
}

#[test]
fn the_kubernetes_sample_keeps_the_gateways_rules() {
    let objects = yaml(&sample("yaml"));
    let of_kind = |kind: &str| objects.iter().find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"));
    let toml = of_kind("ConfigMap")["data"]["choreoai.toml"].as_str().unwrap();
    let secret = |name: &str| match name {
        "OPENAI_API_KEY" | "TEAM_A_KEY" => Some("sk-secret".to_owned()),
        "REDIS_URL" => Some("redis://redis:6379".to_owned()),
        _ => None,
    };
    let config = Config::from_text(toml, &secret).unwrap();
    let pod = &of_kind("Deployment")["spec"]["template"];
    let container = &pod["spec"]["containers"][0];
    let before = seconds(&container["lifecycle"]["preStop"]["sleep"]["seconds"]);
    let patience = seconds(&pod["spec"]["terminationGracePeriodSeconds"]);
    let leaving = config.server.shutdown_delay + config.server.shutdown_grace;
    assert!(patience >= before + leaving + SPARE, "{patience:?} is not enough for {before:?} and {leaving:?}");
    let readiness = &container["readinessProbe"];
    let noticed = seconds(&readiness["periodSeconds"]) * readiness["failureThreshold"].as_u64().unwrap().try_into().unwrap();
    assert!(noticed < before, "taken out of the Service before SIGTERM");
    assert_eq!(readiness["httpGet"]["path"], "/ready");
    for probe in ["livenessProbe", "startupProbe"] {
        assert_eq!(container[probe]["httpGet"]["path"], "/live");
    }
    assert_eq!(container["ports"][0]["containerPort"], config.server.listen.port());
    let mount = container["volumeMounts"][0]["mountPath"].as_str().unwrap();
    assert_eq!(container["args"][2], format!("{mount}/choreoai.toml"));
    let labels = &pod["metadata"]["labels"];
    for (kind, selector) in [("Service", "/spec/selector"), ("PodDisruptionBudget", "/spec/selector/matchLabels")] {
        assert_eq!(of_kind(kind).pointer(selector), Some(labels), "{kind} chooses the pods");
    }
    let replicas = of_kind("Deployment")["spec"]["replicas"].as_u64().unwrap();
    assert!(of_kind("PodDisruptionBudget")["spec"]["minAvailable"].as_u64().unwrap() < replicas, "a node can be drained");
}

#[test]
fn the_systemd_unit_is_one_and_waits_long_enough() {
    let unit = sample("ini");
    let value = |key: &str| unit.lines().find_map(|line| line.strip_prefix(&format!("{key}="))).unwrap();
    let patience = Duration::from_secs(value("TimeoutStopSec").parse().unwrap());
    assert!(patience >= Duration::from_secs(5 + 60) + SPARE, "the samples' delay and grace");
    // The program is tried where it is, so that what the unit says of its arguments is true.
    let binary = env!("CARGO_BIN_EXE_choreoai");
    let config = written("choreoai.toml", "[providers.openai]\napi_key = \"sk-x\"\n");
    let before = value("ExecStartPre").replace("/usr/local/bin/choreoai", binary);
    let before = before.replace("/etc/choreoai/choreoai.toml", config.to_str().unwrap());
    let words: Vec<&str> = before.split(' ').collect();
    let output = Command::new(words[0]).args(&words[1..]).env_clear().output().unwrap();
    assert!(output.status.success(), "{before}: {}", said(&output));
    if has_program("systemd-analyze") {
        let there = unit.replace("/usr/local/bin/choreoai", binary);
        let path = written("choreoai.service", &there);
        let output = Command::new("systemd-analyze").arg("verify").arg(&path).output().unwrap();
        let about_it: Vec<String> =
            said(&output).lines().filter(|line| line.contains("choreoai.service")).map(str::to_owned).collect();
        assert!(about_it.is_empty(), "{about_it:?}");
    }
}

#[test]
fn the_balancers_accept_their_samples() {
    let haproxy = sample("haproxy");
    assert!(haproxy.contains("uri /ready"));
    if has_program("haproxy") {
        let output = Command::new("haproxy").args(["-c", "-f"]).arg(written("haproxy.cfg", &haproxy)).output().unwrap();
        assert!(output.status.success() && !said(&output).contains("[WARNING]"), "{}", said(&output));
    }
    let nginx = sample("nginx");
    assert!(nginx.contains("proxy_buffering off;"));
    if has_program("nginx") {
        let folder = written("x", "").parent().unwrap().display().to_string();
        let whole = format!("error_log stderr;\npid {folder}/nginx.pid;\nevents {{}}\nhttp {{\naccess_log off;\n{nginx}\n}}\n");
        let path = written("nginx.conf", &whole);
        let output = Command::new("nginx").args(["-t", "-p", &folder, "-c"]).arg(path).output().unwrap();
        assert!(output.status.success() && !said(&output).contains("[warn]"), "{}", said(&output));
    }
}
