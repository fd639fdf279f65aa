//! A real Prometheus beside a gateway, and what it can be asked.
//! It must not know any metric.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::client::Request;
use super::gateway::free_address;

/// A Prometheus that scrapes the gateway every second; it ends when dropped.
pub struct Prometheus {
    child: Child,
    address: SocketAddr,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    pub fn start(target: SocketAddr) -> Self {
        let folder =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("prometheus-{}-{}", std::process::id(), target.port()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let configuration = folder.join("prometheus.yml");
        let text = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n- job_name: choreoai\n  static_configs: [{{targets: ['{target}']}}]\n"
        );
        std::fs::write(&configuration, text).unwrap();
        let address = free_address();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--enable-feature=exemplar-storage")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, address }
    }

    /// The values of all series that a query gives; none while Prometheus is not up yet.
    pub async fn ask(&self, query: &str) -> Vec<f64> {
        let series = self.get("query", query).await;
        series.iter().filter_map(|one: &Value| one["value"][1].as_str()?.parse().ok()).collect()
    }

    /// The trace ids of all exemplars of a series.
    pub async fn exemplars(&self, series: &str) -> Vec<String> {
        let found = self.get("query_exemplars", series).await;
        let exemplars = found.iter().filter_map(|one| one["exemplars"].as_array()).flatten();
        exemplars.filter_map(|one| one["labels"]["trace_id"].as_str().map(str::to_owned)).collect()
    }

    async fn get(&self, what: &str, query: &str) -> Vec<Value> {
        if tokio::net::TcpStream::connect(self.address).await.is_err() {
            return Vec::new();
        }
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let path = format!("/api/v1/{what}?query={encoded}&start=0&end=99999999999");
        let answer = Request::get(&path).send(self.address).await.json();
        answer["data"]["result"].as_array().or(answer["data"].as_array()).cloned().unwrap_or_default()
    }
}
