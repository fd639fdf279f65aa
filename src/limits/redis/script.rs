//! The Lua scripts, how one is called, and what the answer of `admit` says.
//! It must not know connections' lives, deadlines or policies.

use std::sync::LazyLock;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Arg, Cmd, ErrorKind, FromRedisValue, RedisError, RedisResult, ServerErrorKind, Value};

use crate::limits::rule::Limit;

/// One script and the name by which Redis keeps it.
pub(super) struct Script {
    code: &'static str,
    sha: String,
}

/// Every script there is.
pub(super) struct Scripts {
    pub(super) admit: Script,
    pub(super) give_back: Script,
    pub(super) report: Script,
    pub(super) renew: Script,
    pub(super) beat: Script,
}

pub(super) static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| Scripts {
    admit: Script::new(concat!(include_str!("window.lua"), include_str!("admit.lua"))),
    give_back: Script::new(concat!(include_str!("window.lua"), include_str!("give_back.lua"))),
    report: Script::new(concat!(include_str!("window.lua"), include_str!("report.lua"))),
    renew: Script::new(concat!(include_str!("window.lua"), include_str!("renew.lua"))),
    beat: Script::new(concat!(include_str!("window.lua"), include_str!("beat.lua"))),
});

impl Script {
    fn new(code: &'static str) -> Self {
        Self { code, sha: redis::Script::new(code).get_hash().to_owned() }
    }

    /// Begins a call of this script with its keys; its arguments follow.
    pub(super) fn call(&self, keys: &[&str]) -> Cmd {
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

/// What `admit.lua` decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ruling {
    Admitted,
    /// By which of the rules that were asked, by which of its figures, for how long.
    Refused {
        index: usize,
        limit: Limit,
        wait: Duration,
    },
    /// Nobody waited for the answer any more; nothing was taken.
    TooLate,
}

/// One rule's window in the answer: calls and tokens in it, its newest slot (if any).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) requests: u64,
    pub(super) tokens: u64,
    pub(super) newest: Option<u64>,
}

/// The answer of `admit.lua`.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) ruling: Ruling,
    /// Redis' time, in milliseconds since 1970.
    pub(super) ms: i64,
    /// Per rule that was asked.
    pub(super) sums: Vec<Sum>,
}

impl Verdict {
    /// Reads an answer.
    pub(super) fn read(answer: Value) -> RedisResult<Self> {
        let numbers = Vec::<i64>::from_redis_value(answer)?;
        let [verdict, ms, index, figure, wait, rules @ ..] = numbers.as_slice() else {
            return Err(RedisError::from((ErrorKind::UnexpectedReturnType, "the answer of the admit script is too short")));
        };
        let ruling = match verdict {
            0 => Ruling::Admitted,
            1 => Ruling::Refused {
                index: usize::try_from(*index).unwrap_or(0),
                limit: [Limit::Requests, Limit::Tokens, Limit::Concurrency][unsigned(*figure).min(2) as usize],
                wait: Duration::from_millis(unsigned(*wait)),
            },
            _ => Ruling::TooLate,
        };
        let sums = rules.chunks_exact(4).map(|rule| Sum {
            requests: unsigned(rule[0]),
            tokens: unsigned(rule[1]),
            newest: u64::try_from(rule[2]).ok(),
        });
        Ok(Self { ruling, ms: *ms, sums: sums.collect() })
    }
}

/// Numbers that are never below zero but by a fault of the data; such a fault counts as nothing.
fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
