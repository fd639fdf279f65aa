//! The one background task: keeps the common connection, renews leases, reports what passed without Redis, and gives back what
//! nobody else does.
//! It must not know how a call is decided; no call ever waits for it.

use std::collections::HashMap;
use std::fmt::Display;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Client, Cmd, ConnectionAddr, FromRedisValue, RedisResult, Value};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::back::{Then, once_more};
use super::batch::Named;
use super::line::BATCH;
use super::link::{self, Connection, late};
use super::script::{SCRIPTS, Script};
use super::{GiveBack, Job, Shared, UNTOLD, millis, patiently, tag};
use crate::limits::ledger::Ledger;
use crate::limits::memory::Told;

/// How often a replica says that it lives.
const BEAT: Duration = Duration::from_secs(1);

/// How long it counts as living after it last said so.
const LIFE: Duration = Duration::from_secs(10);

/// The pause between attempts to find Redis again: from this, doubling, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// See [`FIRST_PAUSE`].
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// After an outage every replica stays with its own count this long (or as long as the outage was, if that was shorter), so
/// that all have reported what they let pass before any takes the shared count for the whole.
const GRACE: Duration = Duration::from_secs(2);

/// The deadline of what no call waits for, where that of calls is not longer.
const UNHURRIED: Duration = Duration::from_millis(500);

/// What a replica learns when it says that it lives.
struct Beat {
    replicas: u64,
    epoch: u64,
}

struct Clerk {
    /// The node that has our keys, when a cluster named another than the configured one.
    node: Option<(String, u16)>,
    generation: u64,
    /// Since when nobody counts for all; `None` before the first contact.
    gone_since: Option<Instant>,
    renewed: Instant,
    jobs: Vec<Job>,
}

/// Works until the limits are dropped, or leave.
pub(super) async fn serve(shared: Weak<Shared>, trouble: Arc<Notify>, mut inbox: mpsc::Receiver<Job>) {
    let mut clerk = Clerk { node: None, generation: 0, gone_since: None, renewed: Instant::now(), jobs: Vec::new() };
    let mut pause = FIRST_PAUSE;
    loop {
        let Some(here) = shared.upgrade() else { return };
        match clerk.come_back(&here).await {
            Ok(connection) => {
                drop(here);
                if clerk.attend(&shared, connection, &trouble, &mut inbox).await.is_break() {
                    return;
                }
                clerk.gone_since = Some(Instant::now());
                pause = FIRST_PAUSE;
            }
            Err(error) => {
                here.link.down(&error, &*here.observer);
                drop(here);
                // Not all replicas at the same moment.
                sleep(pause.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

impl Clerk {
    /// Finds Redis, makes sure that it answers and writes in time, and reports to it; then opens the door for calls.
    async fn come_back(&mut self, shared: &Shared) -> RedisResult<Connection> {
        let client = match &self.node {
            Some(node) => at_node(&shared.client, node)?,
            None => shared.client.clone(),
        };
        let connection = match self.connect(shared, &client).await {
            Ok(connection) => connection,
            Err(error) => {
                let moved = error.redirect_node().and_then(|(node, _)| node.rsplit_once(':'));
                self.node = moved.and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)));
                return Err(error);
            }
        };
        let beat = self.beat(shared, &connection, shared.options.deadline).await?;
        let known = shared.epoch.swap(beat.epoch, Ordering::Relaxed);
        self.report(shared, &connection, known != 0 && known != beat.epoch).await?;
        let renewed = self.renew(shared, &connection).await?;
        if let Some(gone_since) = self.gone_since {
            sleep(gone_since.elapsed().min(GRACE)).await;
            self.report(shared, &connection, false).await?;
            self.beat(shared, &connection, shared.options.deadline).await?;
        }
        self.generation += 1;
        let connection = Connection { multiplexed: connection, generation: self.generation, client };
        shared.link.up(connection.clone(), &*shared.observer);
        // What passed between the last report and the opening of the door.
        self.report(shared, &connection.multiplexed, false).await?;
        let mut backs = ended_since(shared, renewed);
        backs.append(&mut shared.backs.take(UNTOLD, true));
        self.give_back(shared, &connection.multiplexed, backs).await?;
        Ok(connection)
    }

    async fn connect(&self, shared: &Shared, client: &Client) -> RedisResult<MultiplexedConnection> {
        let connection = link::connect(client, shared.options.connect).await?;
        // The first beat of a connection may have to bring the script along; the next is held to the deadline of calls.
        self.beat(shared, &connection, unhurried(shared)).await?;
        Ok(connection)
    }

    /// Serves one connection until it gives trouble; breaks when there is nobody left to serve.
    async fn attend(
        &mut self,
        shared: &Weak<Shared>,
        connection: Connection,
        trouble: &Notify,
        inbox: &mut mpsc::Receiver<Job>,
    ) -> ControlFlow<()> {
        let mut beats = interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut jobs = std::mem::take(&mut self.jobs);
            let came = tokio::select! {
                () = trouble.notified() => None,
                count = inbox.recv_many(&mut jobs, BATCH) => Some(count),
                _ = beats.tick() => Some(usize::MAX),
            };
            let Some(here) = shared.upgrade() else { return ControlFlow::Break(()) };
            let began_ms = here.clock.now_ms();
            let done = match came {
                None if here.link.is_open(connection.generation) => Ok(ControlFlow::Continue(())),
                None => return ControlFlow::Continue(()),
                Some(0) => return ControlFlow::Break(()),
                Some(usize::MAX) => self.chores(&here, &connection.multiplexed).await,
                Some(_) => self.do_jobs(&here, &connection.multiplexed, &mut jobs).await,
            };
            jobs.clear();
            self.jobs = jobs;
            match done {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => return ControlFlow::Break(()),
                Err(error) if error.is_io_error() && here.heard_since(began_ms) => {
                    tracing::debug!(reason = %error, "Redis answers calls, but not what can wait");
                }
                Err(error) => {
                    here.link.trip(connection.generation, &error as &dyn Display, &*here.observer);
                    return ControlFlow::Continue(());
                }
            }
        }
    }

    /// What is done once per [`BEAT`].
    async fn chores(&mut self, shared: &Shared, connection: &MultiplexedConnection) -> RedisResult<ControlFlow<()>> {
        let beat = self.beat(shared, connection, unhurried(shared)).await?;
        let known = shared.epoch.swap(beat.epoch, Ordering::Relaxed);
        let lost = known != beat.epoch;
        self.report(shared, connection, lost).await?;
        // What nobody took along, because Redis was gone for a moment, or a worker is.
        self.give_back(shared, connection, shared.backs.take(UNTOLD, true)).await?;
        if lost || self.renewed.elapsed() >= shared.options.lease / 3 {
            let renewed = self.renew(shared, connection).await?;
            self.give_back(shared, connection, ended_since(shared, renewed)).await?;
        }
        Ok(ControlFlow::Continue(()))
    }

    async fn do_jobs(
        &self,
        shared: &Shared,
        connection: &MultiplexedConnection,
        jobs: &mut Vec<Job>,
    ) -> RedisResult<ControlFlow<()>> {
        let (mut backs, mut goodbye) = (Vec::new(), None);
        for job in jobs.drain(..) {
            match job {
                Job::GiveBack(back) => backs.push(back),
                Job::Report => {}
                Job::Leave(done) => goodbye = Some(done),
            }
        }
        // First: where a call passed here and its late question passed there as well, its room is not free in between.
        if shared.owing.swap(false, Ordering::Relaxed) {
            self.report(shared, connection, false).await?;
        }
        if goodbye.is_some() {
            backs.append(&mut shared.backs.take(UNTOLD, true));
        }
        self.give_back(shared, connection, backs).await?;
        let Some(done) = goodbye else { return Ok(ControlFlow::Continue(())) };
        let left = self.say(shared, connection, Duration::ZERO, unhurried(shared)).await;
        let _ = done.send(());
        left.map(|_| ControlFlow::Break(()))
    }

    /// Gives back what ended calls held. What was not sent waits for the next time, and of what may have been heard the places.
    async fn give_back(&self, shared: &Shared, connection: &MultiplexedConnection, mut backs: Vec<GiveBack>) -> RedisResult<()> {
        while !backs.is_empty() {
            let unsent = backs.split_off(backs.len().min(BATCH));
            let command = Named::in_batch(&[], &backs).command(shared, &[], &backs);
            if let Err(error) = within(unhurried(shared), &SCRIPTS.count, connection, command).await {
                let (again, lost) = once_more(backs);
                let kept = again.into_iter().chain(unsent).map(|back| shared.backs.push(back, true));
                let lost = lost + kept.filter(|then| matches!(then, Then::Lost)).count();
                if lost > 0 {
                    shared.observer.lost(lost as u64);
                }
                return Err(error);
            }
            backs = unsent;
        }
        Ok(())
    }

    async fn beat(&self, shared: &Shared, connection: &MultiplexedConnection, deadline: Duration) -> RedisResult<Beat> {
        let beat = self.say(shared, connection, LIFE, deadline).await?;
        shared.replicas.store(beat.replicas.max(1), Ordering::Relaxed);
        Ok(beat)
    }

    async fn say(
        &self,
        shared: &Shared,
        connection: &MultiplexedConnection,
        life: Duration,
        deadline: Duration,
    ) -> RedisResult<Beat> {
        let tag = tag(&shared.options.prefix);
        let keys = [format!("{tag}:replicas"), format!("{tag}:epoch")];
        let mut command = SCRIPTS.beat.call(&keys.each_ref().map(String::as_str));
        let shift = shared.shift.load(Ordering::Relaxed);
        command.arg(shift).arg(&shared.replica).arg(millis(life)).arg(fastrand::u64(1..1 << 50));
        let answer = within(deadline, &SCRIPTS.beat, connection, command).await?;
        let (ms, replicas, epoch) = <(i64, u64, u64)>::from_redis_value(answer)?;
        shared.set_clock(ms, shift);
        Ok(Beat { replicas, epoch })
    }

    /// Tells Redis what this replica let pass and Redis does not know; everything of the last minute if Redis forgot it.
    async fn report(&self, shared: &Shared, connection: &MultiplexedConnection, everything: bool) -> RedisResult<()> {
        for cell in shared.ledgers.cells() {
            let (now_ms, grid) = (shared.clock.now_ms(), cell.span.grid());
            let told = cell.lock().tell(everything, now_ms);
            for told in told.chunks(BATCH) {
                let mut command = SCRIPTS.report.call(&[&cell.keys.window]);
                command.arg(shared.shift.load(Ordering::Relaxed)).arg(grid.slot_ms).arg(grid.reach);
                for Told { slot, requests, tokens } in told {
                    command.arg(grid.slot_of(now_ms).saturating_sub(*slot)).arg(requests).arg(tokens);
                }
                if let Err(error) = within(unhurried(shared), &SCRIPTS.report, connection, command).await {
                    cell.lock().owe(told);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Renews the leases of calls that run, and puts back those that a restart lost. What ends meanwhile may be given back by
    /// another connection and then be put back by this one, or not be told at all: see [`ended_since`].
    async fn renew(&mut self, shared: &Shared, connection: &MultiplexedConnection) -> RedisResult<Places> {
        self.renewed = Instant::now();
        let running = shared.running().clone();
        let places: Vec<_> = running
            .iter()
            .flat_map(|(lease, ledgers)| ledgers.iter().map(|ledger| (shared.lease_name(*lease), &ledger.cell.keys.leases)))
            .collect();
        for places in places.chunks(BATCH) {
            let keys: Vec<&str> = places.iter().map(|(_, key)| key.as_str()).collect();
            let mut command = SCRIPTS.renew.call(&keys);
            command.arg(shared.shift.load(Ordering::Relaxed)).arg(millis(shared.options.lease));
            for (lease, _) in places {
                command.arg(lease);
            }
            within(unhurried(shared), &SCRIPTS.renew, connection, command).await?;
        }
        Ok(running)
    }
}

/// The places that calls hold, by the number of their lease.
type Places = HashMap<u64, Vec<Arc<Ledger>>>;

/// The places of calls that ran, and that they hold no longer: given back once more, or at last.
fn ended_since(shared: &Shared, ran: Places) -> Vec<GiveBack> {
    let running = shared.running();
    let ended = ran.into_iter().filter_map(|(lease, mut places)| {
        let still = running.get(&lease).map_or(&[][..], Vec::as_slice);
        places.retain(|place| !still.iter().any(|held| Arc::ptr_eq(place, held)));
        (!places.is_empty()).then(|| GiveBack::places(places, lease))
    });
    ended.collect()
}

fn unhurried(shared: &Shared) -> Duration {
    UNHURRIED.max(shared.options.deadline)
}

async fn within(deadline: Duration, script: &Script, connection: &MultiplexedConnection, command: Cmd) -> RedisResult<Value> {
    patiently(deadline, pin!(script.run(connection.clone(), command))).await.ok_or_else(|| late("a script"))?
}

/// The same account on another node of a cluster. All our keys are in one slot, so one other node is all there can be.
fn at_node(client: &Client, (host, port): &(String, u16)) -> RedisResult<Client> {
    let info = client.get_connection_info().clone();
    let address = match info.addr().clone() {
        ConnectionAddr::Tcp(configured, _) => ConnectionAddr::Tcp(named(host, configured), *port),
        ConnectionAddr::TcpTls { host: configured, insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host: named(host, configured), port: *port, insecure, tls_params }
        }
        other => other,
    };
    Client::open(info.set_addr(address))
}

/// A cluster that does not know its own address names none, and means the one that was asked.
fn named(host: &str, configured: String) -> String {
    if host.is_empty() { configured } else { host.to_owned() }
}
