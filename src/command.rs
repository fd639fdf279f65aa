//! The commands of the command line.
//! It must not know how they are carried out, beyond which rooms to call.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use choreoai::app::App;
use choreoai::config::{self, Config, ConfigError, LogFormat};
use choreoai::house::{self, House};
use choreoai::meter::Meter;
use choreoai::metrics::Metrics;
use choreoai::reload::Reloader;
use choreoai::trace::Tracer;
use choreoai::{demo, probe, report, server, telemetry, upstream};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

const USAGE: &str = "\
ChoreoAI Gateway: an OpenAI-compatible gateway in front of every LLM provider

usage:
  choreoai [serve] [--config FILE]    run the gateway
  choreoai check [--config FILE]      check a configuration; print routes, limits and unpriced models
  choreoai demo-provider [--port N]   run the demo provider alone
  choreoai --version | --help
";

/// How long the runtime may take to drop what is left.
const LAST_TASKS: Duration = Duration::from_secs(1);

type Failure = Box<dyn std::error::Error>;

enum Command {
    Serve(Option<PathBuf>),
    Check(Option<PathBuf>),
    DemoProvider(u16),
    Version,
    Help,
}

/// Runs what the arguments say.
pub(crate) fn run(arguments: impl Iterator<Item = String>) -> ExitCode {
    let started = Instant::now();
    let done = match parse(arguments) {
        Ok(Command::Serve(path)) => serve(path, started),
        Ok(Command::Check(path)) => check(path),
        Ok(Command::DemoProvider(port)) => demo_provider(port),
        Ok(Command::Version) => say(&format!("choreoai {}\n", env!("CARGO_PKG_VERSION"))),
        Ok(Command::Help) => say(USAGE),
        Err(message) => Err(format!("{message}\n\n{USAGE}").into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to be told when standard error is closed.
            let _ = writeln!(std::io::stderr(), "choreoai: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: impl Iterator<Item = String>) -> Result<Command, String> {
    let (mut command, mut config, mut port) = (None, None, None);
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        let (flag, inline) = match argument.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (argument.as_str(), None),
        };
        let mut value = || inline.clone().or_else(|| arguments.next()).ok_or_else(|| format!("{flag} needs a value"));
        match flag {
            "--config" | "-c" => config = Some(PathBuf::from(value()?)),
            "--port" => port = Some(value()?.parse::<u16>().map_err(|_| "--port needs a port number".to_owned())?),
            "--help" | "-h" | "help" => return Ok(Command::Help),
            "--version" | "-V" | "version" => return Ok(Command::Version),
            "serve" | "check" | "demo-provider" if command.is_none() => command = Some(flag.to_owned()),
            other => return Err(format!("`{other}` is not known here")),
        }
    }
    Ok(match command.as_deref() {
        Some("check") => Command::Check(config),
        Some("demo-provider") => Command::DemoProvider(port.unwrap_or(0)),
        _ => Command::Serve(config),
    })
}

fn say(text: &str) -> Result<(), Failure> {
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

fn check(path: Option<PathBuf>) -> Result<(), Failure> {
    let config = Config::load(path.as_deref())?;
    say(&report::of(&config)?)
}

fn demo_provider(port: u16) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        say(&format!("demo provider on http://{}/v1\n", listener.local_addr()?))?;
        tokio::select! {
            served = demo::serve(listener) => served?,
            () = told(count_stops()?, 1) => {}
        }
        Ok(())
    })
}

fn serve(path: Option<PathBuf>, started: Instant) -> Result<(), Failure> {
    let config = Config::load(path.as_deref())?;
    let metrics = Arc::new(Metrics::new()?);
    let dropped = metrics.telemetry_dropped.with_label_values(&["logs"]);
    let at_terminal = if std::io::stdout().is_terminal() { LogFormat::Text } else { LogFormat::Json };
    let flusher =
        telemetry::start((config.log.format.unwrap_or(at_terminal), config.log.source), &config::log_filter(), move || {
            dropped.inc()
        })?;
    // For the door, the signals and what goes on beside the calls; calls run on workers of their own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let served = runtime.block_on(open_and_serve(config, metrics, started));
    let stopping = Instant::now();
    runtime.shutdown_timeout(LAST_TASKS);
    if let Ok(left) = &served {
        let shutdown_seconds = (*left + stopping.elapsed()).as_secs_f64();
        tracing::info!(target: "choreoai", shutdown_seconds, "shut down");
    }
    drop(flusher);
    served.map(|_| ())
}

/// Serves until told to stop; gives the time that stopping took.
async fn open_and_serve(mut config: Config, metrics: Arc<Metrics>, started: Instant) -> Result<Duration, Failure> {
    // A signal that nobody listens for would end the process.
    let (hangup, stops) = (signal(SignalKind::hangup())?, count_stops()?);
    let read = config.clone();
    let demo = if config.providers.is_empty() { Some(demo::configuration(demo::start(0).await?)) } else { None };
    if let Some((provider, prices)) = demo.clone() {
        config.providers.push(provider);
        config.prices.extend(prices);
    }
    metrics
        .build_info
        .with_label_values(&[env!("CARGO_PKG_VERSION"), option_env!("CHOREOAI_COMMIT").unwrap_or("unknown")])
        .set(1);
    let listen = config.server.listen;
    let limits = house::limits(&config.rate_limit, &metrics)?;
    let (tracer, spans) = config.traces.as_ref().map(|traces| start_traces(traces, &metrics)).transpose()?.unzip();
    let meter = Meter::new(Arc::clone(&metrics)).traced(tracer).logging(config.log.sample_success);
    let house = House::build(config, Arc::clone(&metrics), meter, limits.clone())?;
    metrics.config_was_read();
    let listener = TcpListener::bind(listen).await.map_err(|error| ConfigError(format!("cannot listen on {listen}: {error}")))?;
    let address = listener.local_addr()?;
    metrics.startup_duration.set(started.elapsed().as_secs_f64());
    tracing::info!(target: "choreoai", startup_seconds = started.elapsed().as_secs_f64(), "listening on http://{address}");
    // To standard error: standard output is for log lines.
    std::io::stderr().write_all(report::welcome(&house, address, demo.is_some()).as_bytes())?;
    let app = App::new(house);
    let reloading = tokio::spawn(Reloader::new(app.clone(), read, demo).run(hangup));
    let probing = tokio::spawn(probe::run(app.clone()));
    let mut since = Instant::now();
    let leave = async {
        told(stops.clone(), 1).await;
        since = Instant::now();
        reloading.abort();
        probing.abort();
    };
    server::serve(listener, app, leave, told(stops.clone(), 2)).await?;
    limits.close().await;
    if let Some(spans) = spans {
        spans.close().await;
    }
    Ok(since.elapsed())
}

/// The way of spans to their receiver.
fn start_traces(config: &config::Traces, metrics: &Metrics) -> Result<(Tracer, telemetry::traces::Exporter), Failure> {
    let client = upstream::to_collector(&config.endpoint, config.timeout)?;
    telemetry::traces::start(config, client, metrics.telemetry_dropped.with_label_values(&["traces"]))
}

/// How often the process was asked to end, by SIGTERM or SIGINT.
fn count_stops() -> std::io::Result<watch::Receiver<u32>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (count, counted) = watch::channel(0);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            count.send_modify(|stops| *stops += 1);
        }
    });
    Ok(counted)
}

/// Ready when the process was asked so often.
async fn told(mut stops: watch::Receiver<u32>, times: u32) {
    if stops.wait_for(|stops| *stops >= times).await.is_err() {
        std::future::pending().await
    }
}
