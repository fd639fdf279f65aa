//! Asks providers from time to time whether they are there, where the configuration wants it, and lets
//! those that are not rest before a call has to find out. Nothing of it is a call: it is never billed.
//! It must not know how a provider is asked, or who would call it.

use std::collections::HashMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinSet;
use tokio::time::sleep_until;

use crate::app::App;
use crate::house::{House, Provider};
use crate::router;

/// Probes in a row that must fail: one alone is often the network's hiccup.
const FAILURES: u32 = 2;

/// What is known of one provider.
#[derive(Debug)]
struct Round {
    due: Instant,
    is_running: bool,
    failures: u32,
}

/// Asks for as long as the gateway runs, always under the configuration that is in use.
pub async fn run(app: App) {
    let mut rounds: HashMap<String, Round> = HashMap::new();
    let mut running: JoinSet<(String, bool)> = JoinSet::new();
    loop {
        let next = begin(&app.house(), &mut rounds, &mut running, router::now());
        tokio::select! {
            () = until(next) => {}
            () = app.moved() => {}
            Some(Ok((name, is_there))) = running.join_next() => {
                if let Some(round) = rounds.get_mut(&name) {
                    round.is_running = false;
                    take_in(&app.house(), (&name, is_there), round, router::now());
                }
            }
        }
    }
}

/// Waits for whom to ask next; where nobody is to be asked, for ever.
async fn until(next: Option<Instant>) {
    match next {
        Some(next) => sleep_until(next.into()).await,
        None => pending().await,
    }
}

/// Asks everybody whose turn it is; says when the next one's is.
fn begin(
    house: &House,
    rounds: &mut HashMap<String, Round>,
    running: &mut JoinSet<(String, bool)>,
    now: Instant,
) -> Option<Instant> {
    rounds.retain(|name, _| house.probed().any(|provider| provider.config.name == *name));
    for provider in house.probed() {
        let Some(probe) = provider.config.probe else { continue };
        // Replicas that start together need not ask together.
        let first = || Round { due: now + probe.every.mul_f64(fastrand::f64()), is_running: false, failures: 0 };
        let round = rounds.entry(provider.config.name.clone()).or_insert_with(first);
        // A configuration that asks more often is not kept waiting for a turn under the one before.
        round.due = round.due.min(now + probe.every);
        if now >= round.due && !round.is_running {
            (round.due, round.is_running) = (now + probe.every, true);
            running.spawn(ask(Arc::clone(provider)));
        }
    }
    // Whoever is being asked is looked at again when that is over.
    rounds.values().filter(|round| !round.is_running).map(|round| round.due).min()
}

async fn ask(provider: Arc<Provider>) -> (String, bool) {
    let is_there = provider.is_there().await;
    (provider.config.name.clone(), is_there)
}

/// Counts an answer, and draws the consequence.
fn take_in(house: &House, (name, is_there): (&str, bool), round: &mut Round, now: Instant) {
    house.metrics.probes.with_label_values(&[name, if is_there { "ok" } else { "failed" }]).inc();
    if is_there {
        if round.failures >= FAILURES {
            tracing::info!(target: "choreoai", provider = name, "the provider is there again");
        }
        round.failures = 0;
        return;
    }
    round.failures += 1;
    if round.failures == FAILURES {
        tracing::warn!(target: "choreoai", provider = name, "the provider is not there: its models rest until it is");
    }
    let every = house.probed().find(|provider| provider.config.name == name).and_then(|provider| provider.config.probe);
    if let Some(probe) = every.filter(|_| round.failures >= FAILURES) {
        // Until the next probe has had its say, and the one call after it that decides.
        house.rest(name, now, probe.every + probe.timeout);
    }
}
