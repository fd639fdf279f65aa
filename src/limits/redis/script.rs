//! The Lua scripts, how one is called, and what the answer of `count` says.
//! It must not know connections' lives, deadlines or policies.

use std::sync::LazyLock;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Arg, Cmd, ErrorKind, RedisError, RedisResult, ServerErrorKind, ToRedisArgs, Value};

use crate::limits::rule::Limit;

/// One script and the name by which Redis keeps it.
pub(super) struct Script {
    code: &'static str,
    sha: String,
}

/// Every script there is.
pub(super) struct Scripts {
    pub(super) count: Script,
    pub(super) report: Script,
    pub(super) renew: Script,
    pub(super) beat: Script,
}

pub(super) static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| Scripts {
    count: Script::new(concat!(include_str!("window.lua"), include_str!("count.lua"))),
    report: Script::new(concat!(include_str!("window.lua"), include_str!("report.lua"))),
    renew: Script::new(concat!(include_str!("window.lua"), include_str!("renew.lua"))),
    beat: Script::new(concat!(include_str!("window.lua"), include_str!("beat.lua"))),
});

impl Script {
    fn new(code: &'static str) -> Self {
        Self { code, sha: redis::Script::new(code).get_hash().to_owned() }
    }

    /// Begins a call of this script with its keys; its arguments follow.
    pub(super) fn call<K: ToRedisArgs>(&self, keys: &[K]) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&self.sha).arg(keys.len()).arg(keys);
        command
    }

    /// Runs a call that [`Script::call`] began. A Redis that does not know the script is given it.
    pub(super) async fn run(&self, mut connection: MultiplexedConnection, command: Cmd) -> RedisResult<Value> {
        match command.query_async(&mut connection).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                let mut whole = redis::cmd("EVAL");
                whole.arg(self.code);
                for argument in command.args_iter().skip(2) {
                    if let Arg::Simple(bytes) = argument {
                        whole.arg(bytes);
                    }
                }
                whole.query_async(&mut connection).await
            }
            answer => answer,
        }
    }
}

/// What `count.lua` decided about one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ruling {
    Admitted,
    /// By which of the rules it obeys, by which of its figures, for how long.
    Refused {
        index: usize,
        limit: Limit,
        wait: Duration,
    },
}

/// One rule's window in the answer: calls and tokens in it, its newest slot (if any); and how many calls run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) requests: u64,
    pub(super) tokens: u64,
    pub(super) newest: Option<u64>,
    pub(super) running: u64,
}

/// The answer of `count.lua`.
#[derive(Debug)]
pub(super) struct Reply {
    /// Redis' time, in milliseconds since 1970.
    pub(super) ms: i64,
    /// `None`: nobody waited for the answer any more, and nothing was taken.
    pub(super) verdicts: Option<Verdicts>,
}

/// What became of the calls that were asked about.
#[derive(Debug)]
pub(super) struct Verdicts {
    /// Per rule, as it is after all of them.
    pub(super) sums: Vec<Sum>,
    /// Per call.
    pub(super) rulings: Vec<Ruling>,
}

/// Numbers in the answer per rule, and per call.
const PER_RULE: usize = 4;
const PER_CALL: usize = 3;

impl Reply {
    /// Reads the answer about so many calls under so many rules.
    pub(super) fn read(answer: Value, rules: usize, calls: usize) -> RedisResult<Self> {
        let (numbers, _) = match &answer {
            Value::BulkString(bytes) => bytes.as_chunks(),
            _ => Default::default(),
        };
        let numbers: Vec<i64> = numbers.iter().map(|number| i64::from_be_bytes(*number)).collect();
        match numbers.as_slice() {
            [ms] => Ok(Self { ms: *ms, verdicts: None }),
            [ms, told @ ..] if told.len() == rules * PER_RULE + calls * PER_CALL => {
                let (sums, rulings) = told.split_at(rules * PER_RULE);
                let sums = sums.chunks_exact(PER_RULE).map(Sum::of).collect();
                let rulings = rulings.chunks_exact(PER_CALL).map(Ruling::of).collect();
                Ok(Self { ms: *ms, verdicts: Some(Verdicts { sums, rulings }) })
            }
            _ => Err(RedisError::from((ErrorKind::UnexpectedReturnType, "the answer of the count script has another length"))),
        }
    }
}

impl Sum {
    fn of(numbers: &[i64]) -> Self {
        Self {
            requests: unsigned(numbers[0]),
            tokens: unsigned(numbers[1]),
            newest: u64::try_from(numbers[2]).ok(),
            running: unsigned(numbers[3]),
        }
    }
}

impl Ruling {
    fn of(numbers: &[i64]) -> Self {
        let Some(index) = usize::try_from(numbers[0]).ok().and_then(|which| which.checked_sub(1)) else { return Self::Admitted };
        let limit = [Limit::Requests, Limit::Tokens, Limit::Concurrency][unsigned(numbers[1]).min(2) as usize];
        Self::Refused { index, limit, wait: Duration::from_millis(unsigned(numbers[2])) }
    }
}

/// Numbers that are never below zero but by a fault of the data; such a fault counts as nothing.
fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
