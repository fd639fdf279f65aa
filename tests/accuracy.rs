//! Metering accuracy (`make accuracy`): for every way a call can go, what the provider billed beside
//! what the gateway booked, in tokens and in USD, and what the client saw of it.
//! It must not know how the gateway counts; only the fake provider's bill and `/metrics`.

mod bill;
mod cases;
mod foreign;
mod leaving;
mod native;
mod wires;

use std::sync::Arc;

use futures_util::StreamExt;

use crate::support::client::{Connection, Request, Saw};
use crate::support::gateway::Gateway;
use crate::support::http::End;
use crate::support::metrics::Scrape;
use crate::support::provider::{Exchange, FakeProvider};
use bill::{Bill, Tokens};
use cases::{Case, How, Leaves, Sees};

/// Cases under way at the same time.
const AT_ONCE: usize = 6;

/// How far an estimate may be off.
const TOLERANCE: f64 = 0.05;

/// One attempt a call, and no breaker: so many failures are this table's purpose.
const ONCE: &str = "api_key = \"sk-fake\"\nretry = { attempts = 1 }\nbreaker = { failures = 1000000 }\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accuracy() {
    let provider = Arc::new(FakeProvider::start().await);
    let cases = cases::all();
    let gateway = Arc::new(Gateway::start(configuration(&provider, &cases)).await);
    let rows = futures_util::stream::iter(cases).map(|case| play(case, provider.clone(), gateway.clone()));
    let rows: Vec<Row> = rows.buffered(AT_ONCE).collect().await;
    Row::print_all(&rows);
    let sent: usize = provider.count();
    let settled = gateway.scrape().count("choreoai_settlements_total", &[]);
    println!("attempts sent {sent}, settlements {settled}");
    let wrong: Vec<String> = rows.iter().flat_map(Row::faults).collect();
    assert!(wrong.is_empty(), "{} faults:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(sent as u64, settled, "every attempt settles once");
}

fn configuration(provider: &FakeProvider, cases: &[Case]) -> String {
    let url = provider.url();
    let mut toml = String::from("[server]\nallow_anonymous = true\n");
    for kind in crate::support::dialect::DIALECTS.map(|dialect| dialect.kind) {
        let unpriced: Vec<_> =
            cases.iter().filter(|case| !case.priced && case.provider == kind).map(|case| &case.model).collect();
        toml += &format!("[providers.{kind}]\nkind = \"{kind}\"\nbase_url = \"{url}\"\nmodels = {unpriced:?}\n{ONCE}");
    }
    for kind in wires::WIRES.map(wires::Wire::kind) {
        let base = format!("http://{}", provider.address);
        toml += &format!("[providers.{kind}]\nbase_url = \"{base}\"\nregion = \"us-east-1\"\n{ONCE}");
    }
    let common = format!("kind = \"openai\"\nbase_url = \"{url}\"\n{ONCE}");
    toml += &format!("[providers.drain]\n{common}on_disconnect = \"drain\"\n");
    toml += &format!("[providers.impatient]\n{common}timeouts = {{ first_byte = \"20s\", idle = \"700ms\", total = \"30s\" }}\n");
    for case in cases.iter().filter(|case| case.priced) {
        toml += &bill::price_table(case.provider, &case.model);
    }
    toml
}

/// One line of the table.
struct Row {
    case: Case,
    billed: Tokens,
    billed_cost: u64,
    booked: Tokens,
    booked_cost: u64,
    settled: u64,
    marked: u64,
    sent: u64,
    marks: String,
    saw: String,
    fault: Option<String>,
}

async fn play(case: Case, provider: Arc<FakeProvider>, gateway: Arc<Gateway>) -> Row {
    let script = case.script.clone();
    provider.on(&case.model, move |exchange| script(exchange));
    let request = Request::new("POST", case.path).json(&case.request);
    let (mut saw, mut fault) = (String::new(), None);
    for _ in 0..case.warm_up {
        call(&case, &request, &provider, &gateway).await;
    }
    let before = gateway.settled(&case.model, case.warm_up as u64).await;
    for _ in 0..case.calls {
        (saw, fault) = call(&case, &request, &provider, &gateway).await;
    }
    let exchanges = provider.until(&case.model, |all| all.iter().all(|exchange| exchange.over)).await;
    let scrape = gateway.settled(&case.model, exchanges.len() as u64).await;
    let mut row = Row::new(case, &exchanges, &scrape, saw, fault);
    row.take_off(&before);
    row
}

async fn call(case: &Case, request: &Request, provider: &FakeProvider, gateway: &Gateway) -> (String, Option<String>) {
    match case.leaves {
        Leaves::Never if case.request["stream"] == true => {
            let saw = request.open(gateway.address).await.rest().await;
            (saw.summary(), fault_in_stream(&case.sees, &saw))
        }
        Leaves::Never => {
            let answer = request.send(gateway.address).await;
            let wished = if let Sees::Refused(status) = case.sees { status } else { 200 };
            let fault =
                (answer.status != wished).then(|| format!("status {} instead of {wished}: {}", answer.status, answer.text()));
            (answer.status.to_string(), fault)
        }
        Leaves::BeforeFirst(how) => {
            let mut connection = Connection::open(gateway.address).await;
            connection.write(&request.bytes()).await;
            provider.until(&case.model, |all| !all.is_empty()).await;
            leave(connection, how).await;
            ("left before the first chunk".into(), None)
        }
        Leaves::After(contents, how) => {
            let mut stream = request.open(gateway.address).await;
            stream.contents(contents).await;
            leave(stream.connection, how).await;
            (format!("left after {contents} chunks"), None)
        }
    }
}

async fn leave(connection: Connection, how: How) {
    match how {
        How::Close => connection.close().await,
        How::Reset => connection.reset(),
    }
}

fn fault_in_stream(sees: &Sees, saw: &Saw) -> Option<String> {
    let wished = match *sees {
        Sees::Complete { usage } => (200, 1, false, usage),
        Sees::Cut => (200, 0, true, false),
        Sees::Refused(status) => return (saw.status != status).then(|| format!("status {} instead of {status}", saw.status)),
    };
    let got = (saw.status, saw.ends(), saw.error().is_some(), saw.usage().is_some());
    if got != wished {
        return Some(format!("client saw (status, ends, error, usage) = {got:?} instead of {wished:?}: {:?}", saw.data().last()));
    }
    (saw.end == End::Cut).then(|| "the client's connection was cut".to_owned())
}

impl Row {
    fn new(case: Case, exchanges: &[Exchange], scrape: &Scrape, saw: String, fault: Option<String>) -> Self {
        let (billed, billed_cost) = case.bill.of(&exchanges[case.warm_up.min(exchanges.len())..]);
        let labels = [("provider", case.provider), ("model", case.model.as_str())];
        let settlements: Vec<_> =
            scrape.series("choreoai_settlements_total", &labels).filter(|sample| sample.value > 0.0).collect();
        let marks = settlements.iter().map(|sample| format!("{}/{}", sample.labels["outcome"], sample.labels["usage_source"]));
        let marks = marks.collect::<Vec<_>>().join(" ");
        let marked = |wished: &(&str, &str)| {
            scrape.count("choreoai_settlements_total", &[labels[0], labels[1], ("outcome", wished.0), ("usage_source", wished.1)])
        };
        Self {
            billed,
            billed_cost,
            booked: Tokens::booked(scrape, &labels),
            booked_cost: bill::booked_cost(scrape, &labels),
            settled: scrape.count("choreoai_settlements_total", &labels),
            marked: case.marks.iter().map(marked).sum(),
            sent: exchanges.len() as u64,
            marks,
            saw,
            fault,
            case,
        }
    }

    /// Leaves out what was booked before.
    fn take_off(&mut self, before: &Scrape) {
        let labels = [("provider", self.case.provider), ("model", self.case.model.as_str())];
        let earlier = Tokens::booked(before, &labels);
        self.booked = self.booked.less(earlier);
        self.booked_cost -= bill::booked_cost(before, &labels);
    }

    fn faults(&self) -> Vec<String> {
        let mut faults: Vec<String> = self.fault.iter().cloned().collect();
        if self.case.bill.is_exact() {
            if self.billed != self.booked {
                faults.push(format!("billed {:?}, booked {:?}", self.billed, self.booked));
            }
            if self.billed_cost != self.booked_cost {
                faults.push(format!("billed {} pUSD, booked {} pUSD", self.billed_cost, self.booked_cost));
            }
        } else if self.booked.total().abs_diff(self.billed.total()) > self.case.in_flight {
            for (what, ratio) in [("tokens", self.token_ratio()), ("USD", self.cost_ratio())] {
                if (ratio - 1.0).abs() > TOLERANCE {
                    faults.push(format!("{what} are off: booked / billed = {ratio:.3}"));
                }
            }
        }
        if self.sent != self.case.attempts {
            faults.push(format!("{} attempts were sent instead of {}", self.sent, self.case.attempts));
        }
        if self.settled != self.sent || self.marked != self.sent {
            faults.push(format!("{} attempts settled as [{}] instead of {:?}", self.sent, self.marks, self.case.marks));
        }
        faults.into_iter().map(|fault| format!("  {} ({}): {fault}", self.case.name, self.case.provider)).collect()
    }

    fn token_ratio(&self) -> f64 {
        ratio(self.booked.total(), self.billed.total())
    }

    fn cost_ratio(&self) -> f64 {
        ratio(self.booked_cost, self.billed_cost)
    }

    fn print_all(rows: &[Self]) {
        println!(
            "\n{:<46} {:<11} {:>13} {:>13} {:>6} {:>14} {:>14} {:>6}  {:<34} {}",
            "case",
            "provider",
            "billed in/out",
            "booked in/out",
            "ratio",
            "billed USD",
            "booked USD",
            "ratio",
            "outcome/usage_source",
            "client saw"
        );
        for row in rows {
            println!(
                "{:<46} {:<11} {:>13} {:>13} {:>6.3} {:>14} {:>14} {:>6.3}  {:<34} {}",
                row.case.name,
                row.case.provider,
                format!("{}/{}", row.billed.input, row.billed.output),
                format!("{}/{}", row.booked.input, row.booked.output),
                row.token_ratio(),
                bill::usd(row.billed_cost),
                bill::usd(row.booked_cost),
                row.cost_ratio(),
                row.marks,
                row.saw,
            );
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a ratio for people and a tolerance of per cents")]
fn ratio(booked: u64, billed: u64) -> f64 {
    match (booked, billed) {
        (0, 0) => 1.0,
        (_, 0) => f64::INFINITY,
        (booked, billed) => booked as f64 / billed as f64,
    }
}

/// Whether the bill needs only what the provider reported.
impl Bill {
    fn is_exact(&self) -> bool {
        !matches!(self, Self::Counted { .. })
    }
}
