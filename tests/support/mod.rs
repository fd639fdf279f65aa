//! What the stories stand on: a gateway to start, a provider to lie, a client to misbehave, numbers to read.
//! It must not know any one story.

#[path = "../../providers/tests/aws.rs"]
pub mod aws;
pub mod balancer;
pub mod client;
pub mod cloud;
pub mod collector;
pub mod dialect;
pub mod gateway;
pub mod http;
pub mod metrics;
pub mod native;
pub mod prometheus;
pub mod provider;

use std::time::Duration;

/// The longest that any single wait of a test may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How often a condition is looked at while waiting for it.
pub const GLANCE: Duration = Duration::from_millis(10);

/// The future's value, or a panic that names what was waited for.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited too long for {what}"))
}

/// `count` words that are one token each for o200k, as a continuation of other text.
pub fn words(count: usize) -> Vec<String> {
    const WORDS: [&str; 20] = [
        " the", " and", " of", " to", " in", " is", " you", " that", " it", " was", " for", " on", " are", " with", " they",
        " this", " have", " from", " one", " word",
    ];
    (0..count).map(|n| WORDS[n * 7 % WORDS.len()].to_owned()).collect()
}

/// Set by `make test`: what a test needs must be there, skipping is a failure.
const COMPLETE: &str = "CHOREOAI_TEST_COMPLETE";

/// Whether this program can be started; says that the test is skipped where it cannot.
pub fn has_tool(name: &str) -> bool {
    has_program(name) || skip(&format!("{name} is not installed"))
}

/// Whether this program can be started, for checks that are made where it is at hand.
pub fn has_program(name: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|folder| folder.join(name).is_file())
}

/// Says that a test is skipped, and why; with `make test` that is a failure. Always `false`.
pub fn skip(why: &str) -> bool {
    assert!(std::env::var_os(COMPLETE).is_none(), "{why}; `make test` needs it");
    println!("SKIPPED: {why}");
    false
}
