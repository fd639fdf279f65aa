//! The drift gate: what alerts, dashboards, runbooks and pages name is what a running gateway exposes,
//! and the reverse. It must not know any metric by name.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::gateway::Setup;
use crate::support::skip;

/// Everything that adds a family: two providers, a fallback, a queue, a breaker, keys and limits.
const CONFIGURATION: &str = "
[rate_limit]
requests_per_minute = 1000
report_remaining = true

[providers.one]
kind = \"openai\"
api_key = \"sk-fake\"
max_concurrent = 4

[providers.two]
kind = \"anthropic\"
api_key = \"sk-fake\"

[models.either]
targets = [ { target = \"one/gpt-4o\" }, { target = \"two/claude-sonnet-4-5\", tier = 2 } ]
tokens_per_minute = 1000

[[keys]]
name = \"team\"
key = \"sk-team\"
requests_per_minute = 100
max_concurrent = 3
";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A Python that can read YAML, as `tests/monitoring/run.sh` finds it.
fn python() -> Option<PathBuf> {
    let own = root().join(".tools/monitoring/venv/bin/python");
    let reads_yaml =
        |python: &PathBuf| Command::new(python).args(["-c", "import yaml"]).output().is_ok_and(|output| output.status.success());
    ["python3".into(), "/usr/bin/python3".into(), own].into_iter().find(reads_yaml)
}

fn drift(python: &Path, name: &str, metrics: &str) -> Output {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.txt", std::process::id()));
    std::fs::write(&path, metrics).unwrap();
    Command::new(python).arg("-B").arg(root().join("tests/monitoring/drift.py")).arg(&path).output().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn monitoring_and_gateway_name_the_same_metrics() {
    let Some(python) = python() else {
        skip("no Python with PyYAML");
        return;
    };
    let gateway = Setup::new(CONFIGURATION).start().await;
    let metrics = gateway.scrape().text;
    let said = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let compared = drift(&python, "drift", &metrics);
    assert!(compared.status.success(), "{}", said(&compared));

    // A family more and a family less are both seen.
    let more = format!("{metrics}# TYPE choreoai_unheard_of_total counter\nchoreoai_unheard_of_total 0\n");
    let less: String =
        metrics.lines().filter(|line| !line.contains("choreoai_fallbacks_total")).map(|line| line.to_owned() + "\n").collect();
    for (name, wrong) in [("more", more), ("less", less)] {
        let compared = drift(&python, name, &wrong);
        assert_eq!(compared.status.code(), Some(1), "{name}: {}", said(&compared));
    }
}
