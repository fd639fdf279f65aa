//! A long day of the gateway: calls of every kind, faults and leavers at random, reloads and scrapes
//! beside them, and in the end the question what stayed behind. Run by `make soak`; not part of `make test`.
//! It must not know the gateway's insides.

mod weather;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::gateway::{Gateway, Setup};
use crate::support::metrics::Scrape;
use crate::support::provider::FakeProvider;
use weather::{Faults, Seen};

/// Callers that call one after the other, all the time.
const CALLERS: u64 = 12;
/// Callers that come at once and leave at once, every `SWARM_EVERY`.
const SWARM: usize = 400;
const SWARM_EVERY: Duration = Duration::from_secs(20);
/// Callers of the crowd that leaves at once.
const CROWD: usize = 5_000;
/// How often the configuration changes.
const RELOAD_EVERY: Duration = Duration::from_secs(7);
/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How many looks make one line of the table; its memory is the least of them, because what a swarm takes goes again.
const LINES: usize = 20;
/// The part of the soak in which memory may still grow: the allocator and the tables find their size.
const WARM_UP: f64 = 0.3;
/// How much memory may seem to grow from the end of the warm-up to the end: of its mean, and at least, in KiB.
const MAX_GROWTH: f64 = 0.05;
const MIN_GROWTH_KIB: f64 = 4096.0;
/// A soak shorter than this only shows what is wrong beyond doubt: the allocator has not found its size, and memory may
/// seem to grow by this much of its mean.
const LONG: Duration = Duration::from_secs(600);
const MAX_GROWTH_SHORT: f64 = 0.3;
/// How long things may take to go back to where they were.
const REST: Duration = Duration::from_secs(90);
/// Descriptors and threads that may be more than at first.
const SPARE: usize = 4;

/// The gateway at one moment.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    seconds: f64,
    memory_kib: u64,
    descriptors: usize,
    threads: usize,
    connections: u64,
    in_flight: u64,
    configs: u64,
    calls: u64,
}

impl Look {
    fn at(gateway: &Gateway, began: Instant) -> Self {
        let scrape = gateway.scrape();
        let (descriptors, threads) = gateway.descriptors_and_threads();
        Self {
            seconds: began.elapsed().as_secs_f64(),
            memory_kib: gateway.memory_kib(),
            descriptors,
            threads,
            connections: scrape.count("choreoai_active_connections", &[]),
            in_flight: in_flight(&scrape),
            configs: scrape.count("choreoai_configs_in_use", &[]),
            calls: scrape.count("choreoai_requests_total", &[("method", "POST")]),
        }
    }

    /// The one line for these: the least memory, the most of everything else.
    fn over(looks: &[Self]) -> Self {
        let most = |of: fn(&Self) -> usize| looks.iter().map(of).max().unwrap_or_default();
        let last = looks.last().copied().unwrap_or_default();
        Self {
            memory_kib: looks.iter().map(|look| look.memory_kib).min().unwrap_or_default(),
            descriptors: most(|look| look.descriptors),
            threads: most(|look| look.threads),
            ..last
        }
    }

    fn print(&self, seen: &str) {
        println!(
            "| {:>6.0} | {:>8} | {:>9} | {:>6} | {:>4} | {:>5} | {:>5} | {:>3} | {seen}",
            self.seconds,
            self.calls,
            self.memory_kib,
            self.descriptors,
            self.threads,
            self.connections,
            self.in_flight,
            self.configs
        );
    }
}

/// Calls and attempts that run, and calls that wait; the scrape itself is one.
fn in_flight(scrape: &Scrape) -> u64 {
    let gauges = ["choreoai_requests_in_flight", "choreoai_attempts_in_flight", "choreoai_queue_size"];
    let all: u64 = gauges.iter().map(|gauge| scrape.count(gauge, &[])).sum();
    all - scrape.count("choreoai_requests_in_flight", &[("endpoint", "/metrics")])
}

fn configuration(fakes: &[FakeProvider], number: u64) -> String {
    let provider = |name: &str, fake: &FakeProvider, more: &str| {
        format!(
            "[providers.{name}]\nkind = \"openai\"\nbase_url = \"{}\"\napi_key = \"sk-fake\"\nmodels = {:?}\nmax_concurrent = {}\n\
             timeouts = {{ first_byte = \"2s\", idle = \"1s\", total = \"20s\" }}\nretry = {{ attempts = 2, base = \"10ms\", max = \"200ms\" }}\n\
             breaker = {{ failures = 50, window = \"1s\", open = \"200ms\" }}\n{more}\n",
            fake.url(),
            weather::MODELS,
            200 + number % 3
        )
    };
    let routed = |model: &&str| {
        format!("[models.{model}]\ntargets = [ {{ target = \"one/{model}\" }}, {{ target = \"two/{model}\", tier = 2 }} ]\n")
    };
    let drains = if number.is_multiple_of(2) { "on_disconnect = \"drain\"\ndrain_timeout = \"2s\"" } else { "" };
    "[rate_limit]\nrequests_per_minute = 1000000\n".to_owned()
        + &provider("one", &fakes[0], "")
        + &provider("two", &fakes[1], drains)
        + &weather::MODELS.iter().map(routed).collect::<String>()
        + "[[keys]]\nname = \"team\"\nkey = \"sk-team\"\ntokens_per_minute = 100000000\nmax_concurrent = 2000\n\
           [[keys]]\nname = \"small\"\nkey = \"sk-small\"\nrequests_per_minute = 30\n"
}

/// Least squares: what memory gains in an hour, in KiB.
fn slope_per_hour(lines: &[Look]) -> f64 {
    let count = lines.len() as f64;
    let mean = |of: &dyn Fn(&Look) -> f64| lines.iter().map(of).sum::<f64>() / count;
    let (time, memory) = (mean(&|look| look.seconds), mean(&|look| look.memory_kib as f64));
    let together = mean(&|look| (look.seconds - time) * (look.memory_kib as f64 - memory));
    let spread = mean(&|look| (look.seconds - time).powi(2));
    together / spread.max(f64::MIN_POSITIVE) * 3600.0
}

/// A soak under way.
struct Soak {
    gateway: Gateway,
    fakes: Vec<FakeProvider>,
    seen: Arc<Seen>,
    began: Instant,
    looks: Vec<Look>,
}

impl Soak {
    /// Calls until it is over, and watches.
    async fn last(&mut self, length: Duration, seed: u64) {
        let stop = Arc::new(AtomicBool::new(false));
        let callers: Vec<_> = (0..CALLERS)
            .map(|number| {
                let (seen, stop, address) = (self.seen.clone(), stop.clone(), self.gateway.address);
                tokio::spawn(weather::call_on(address, Faults::seeded(seed + number), seen, stop))
            })
            .collect();
        // The first of each comes within the warm-up, also of a short soak.
        let (swarm_every, reload_every) = (SWARM_EVERY.min(length / 15), RELOAD_EVERY.min(length / 15));
        let (mut swarm_at, mut reload_at, mut reloads) = (swarm_every, reload_every, 0);
        let mut line: Vec<Look> = Vec::new();
        let mut line_at = length / LINES as u32;
        while self.began.elapsed() < length {
            tokio::time::sleep(LOOK_EVERY).await;
            if self.began.elapsed() > swarm_at {
                swarm_at += swarm_every;
                weather::swarm(self.gateway.address, SWARM, &self.seen).await;
            }
            if self.began.elapsed() > reload_at {
                reload_at += reload_every;
                reloads += 1;
                assert!(self.gateway.reload(&configuration(&self.fakes, reloads)).await);
                self.gateway.forget_output();
            }
            line.push(Look::at(&self.gateway, self.began));
            if self.began.elapsed() > line_at {
                line_at += length / LINES as u32;
                let over = Look::over(&std::mem::take(&mut line));
                over.print(&self.seen.summary());
                self.looks.push(over);
            }
        }
        stop.store(true, Ordering::Relaxed);
        for caller in callers {
            caller.await.unwrap();
        }
    }

    /// Waits until things are as before, or for as long as they may take.
    async fn rest(&self, first: Look) -> Look {
        let until = Instant::now() + REST;
        loop {
            let look = Look::at(&self.gateway, self.began);
            let is_back = look.in_flight == 0
                && look.connections <= 1
                && look.configs == 1
                && look.descriptors <= first.descriptors + SPARE
                && look.threads <= first.threads + SPARE;
            if is_back || Instant::now() > until {
                return look;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long; run by `make soak`"]
async fn a_long_day_leaves_nothing_behind() {
    let minutes: f64 = std::env::var("SOAK_MINUTES").ok().and_then(|text| text.parse().ok()).unwrap_or(1.0);
    let seed = std::env::var("SOAK_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(2026);
    let length = Duration::from_secs_f64(minutes * 60.0);
    let fakes = vec![FakeProvider::start_forgetful().await, FakeProvider::start_forgetful().await];
    fakes.iter().for_each(weather::teach);
    let gateway = Setup::new(configuration(&fakes, 0)).env("RUST_LOG", "warn").start().await;
    let first = Look::at(&gateway, Instant::now());
    println!("soak of {minutes} minutes, seed {seed}: {CALLERS} callers, a swarm of {SWARM} every {SWARM_EVERY:?}");
    println!("| second |    calls | least KiB | most fd | thr | conns | calls | cfg | what clients saw");
    first.print("");
    let mut soak = Soak { gateway, fakes, seen: Arc::default(), began: Instant::now(), looks: Vec::new() };
    soak.last(length, seed).await;
    let last = soak.rest(first).await;
    last.print("at rest");
    let warm: Vec<Look> = soak.looks.iter().copied().filter(|look| look.seconds > length.as_secs_f64() * WARM_UP).collect();
    let slope = slope_per_hour(&warm);
    let mean = warm.iter().map(|look| look.memory_kib as f64).sum::<f64>() / warm.len() as f64;
    let growth = slope * (1.0 - WARM_UP) * length.as_secs_f64() / 3600.0;
    let may_grow = if length < LONG { MAX_GROWTH_SHORT } else { MAX_GROWTH };
    let scrape = soak.gateway.scrape();
    let settled = scrape.count("choreoai_settlements_total", &[]);
    let sent: u64 = soak.fakes.iter().map(|fake| fake.count() as u64).sum();
    let checks = [
        ("memory is flat after the warm-up", growth < (may_grow * mean).max(MIN_GROWTH_KIB)),
        ("no call or attempt is left", last.in_flight == 0),
        ("no connection is left", last.connections <= 1),
        ("no descriptor is left", last.descriptors <= first.descriptors + SPARE),
        ("no thread is left", last.threads <= first.threads + SPARE),
        ("one configuration is left", last.configs == 1),
        ("every attempt is settled", settled == scrape.count("choreoai_upstream_requests_total", &[])),
        ("no attempt is settled that was not made, or twice", settled >= sent && settled <= sent + soak.seen.spare(sent)),
        ("no answer was harmed", soak.seen.harmed() == 0),
    ];
    println!("memory: mean {mean:.0} KiB, {slope:+.0} KiB an hour, {growth:+.0} KiB over the {} measured lines", warm.len());
    println!("attempts: {sent} seen by the providers, {settled} settled");
    checks.iter().for_each(|(check, holds)| println!("{} {check}", if *holds { "ok  " } else { "FAIL" }));
    assert!(checks.iter().all(|(_, holds)| *holds), "the soak found something; {}", soak.seen.summary());
}

/// A crowd that leaves at once, each with a bill that never came: what does the count of all of them leave in memory?
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long and many descriptors; run by `make soak`"]
async fn a_crowd_that_leaves_at_once_leaves_its_memory() {
    let fakes = vec![FakeProvider::start_forgetful().await, FakeProvider::start_forgetful().await];
    fakes.iter().for_each(weather::teach_to_wait);
    let toml = configuration(&fakes, 1).replace("max_concurrent = 201", "max_concurrent = 10000");
    let toml = toml.replace("max_concurrent = 2000", "max_concurrent = 10000").replace("idle = \"1s\"", "idle = \"60s\"");
    let gateway = Setup::new(toml.replace("total = \"20s\"", "total = \"120s\"")).env("RUST_LOG", "warn").start().await;
    let (began, seen) = (Instant::now(), Seen::default());
    let look = |what: &str| {
        let look = Look::at(&gateway, began);
        look.print(what);
        look
    };
    // The vocabulary is loaded for the first bill that is missing.
    weather::swarm(gateway.address, 1, &seen).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = look("one has left");
    let mut after = Vec::new();
    for round in 1..=3 {
        let streams = weather::open_streams(gateway.address, CROWD).await;
        look(&format!("{CROWD} streams are open"));
        weather::leave_all(streams, &seen);
        gateway.until("the last bill", |scrape| in_flight(scrape) == 0).await;
        look("all have left");
        tokio::time::sleep(Duration::from_secs(15)).await;
        after.push(look(&format!("a quarter of a minute after crowd {round}")).memory_kib);
    }
    let (first, last) = (after[0], after[after.len() - 1]);
    println!("{} KiB before, {after:?} KiB after each crowd of {CROWD}", before.memory_kib);
    assert!(last < first + first / 10, "each crowd leaves more behind");
}
