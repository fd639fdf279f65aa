//! The benchmark's command line: measure (`run`, `curves`), train a build (`train`), or play one of the parts (`fake`,
//! `passthrough`).
//! It must not know how anything is measured.

#![forbid(unsafe_code)]

mod contestants;
mod curves;
mod fake;
mod http1;
mod load;
mod passthrough;
mod process;
mod redis;
mod report;
mod run;
mod scenarios;
mod train;
mod wire;

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use tokio::runtime::Builder;
use tokio::task::LocalSet;

use crate::run::{Order, Results};

const USAGE: &str = "usage:
  bench run [--gateway PROGRAM] [--also NAME=HOST:PORT,PID[,KEY[,MODEL]]]… [--rounds N] [--only PART-OF-A-ROW'S-NAME]
            [--streams N] [--results DIRECTORY]
  bench curves --gateway PROGRAM [--results DIRECTORY]    how the cost grows with the work and the configuration
  bench train --gateway PROGRAM                          the load that a build is trained by; nothing is measured
  bench fake --listen HOST:PORT                          the fake provider
  bench passthrough --listen HOST:PORT --upstream HOST:PORT    the bare axum + reqwest pass-through";

fn main() -> ExitCode {
    match command(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            run::say(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn command(args: &[String]) -> io::Result<()> {
    let Some((name, rest)) = args.split_first() else { return Err(io::Error::other(USAGE)) };
    let options = Options::read(rest)?;
    match name.as_str() {
        "run" => measure(&options),
        "curves" => curves(&options),
        "train" => train::run(options.last("gateway").ok_or_else(|| io::Error::other(USAGE))?),
        "fake" => {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            LocalSet::new().block_on(&runtime, fake::serve(options.address("listen")?))
        }
        "passthrough" => {
            let runtime = Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(passthrough::serve(options.address("listen")?, options.address("upstream")?))
        }
        _ => Err(io::Error::other(USAGE)),
    }
}

fn measure(options: &Options) -> io::Result<()> {
    let order = Order {
        gateway: options.last("gateway").map(str::to_owned),
        others: options.all("also").map(str::to_owned).collect(),
        rounds: options.number("rounds", 3)?,
        only: options.last("only").map(str::to_owned),
        streams: options.number("streams", 5000)?,
    };
    let results = run::run(&order)?;
    let table = report::table(&results);
    if let Some(directory) = options.last("results") {
        keep(Path::new(directory), &results, &table)?;
    }
    io::stdout().write_all(table.as_bytes())
}

fn curves(options: &Options) -> io::Result<()> {
    let program = options.last("gateway").ok_or_else(|| io::Error::other(USAGE))?;
    let seen = curves::run(program)?;
    if let Some(directory) = options.last("results") {
        fs::create_dir_all(directory)?;
        fs::write(Path::new(directory).join("curves.json"), serde_json::to_vec_pretty(&seen)?)?;
    }
    io::stdout().write_all(curves::table(&seen).as_bytes())
}

/// The raw results and the table, side by side.
fn keep(directory: &Path, results: &Results, table: &str) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let path = directory.join(format!("{}.json", results.unix_time));
    fs::write(&path, serde_json::to_vec_pretty(results)?)?;
    fs::write(path.with_extension("md"), table)?;
    run::say(&format!("raw results: {}", path.display()));
    Ok(())
}

/// `--name value` pairs.
#[derive(Debug)]
struct Options(Vec<(String, String)>);

impl Options {
    fn read(args: &[String]) -> io::Result<Self> {
        let pairs = args.chunks(2).map(|pair| match pair {
            [name, value] if name.starts_with("--") => Ok((name[2..].to_owned(), value.clone())),
            _ => Err(io::Error::other(USAGE)),
        });
        pairs.collect::<io::Result<_>>().map(Self)
    }

    fn all<'a>(&'a self, name: &'a str) -> impl DoubleEndedIterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn last<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.all(name).next_back()
    }

    fn number(&self, name: &str, default: u32) -> io::Result<u32> {
        let Some(text) = self.last(name) else { return Ok(default) };
        text.parse().map_err(|_| io::Error::other(format!("--{name} {text} is not a number")))
    }

    fn address(&self, name: &str) -> io::Result<SocketAddr> {
        let text = self.last(name).ok_or_else(|| io::Error::other(USAGE))?;
        text.parse().map_err(|_| io::Error::other(format!("--{name} {text} is not HOST:PORT")))
    }
}
