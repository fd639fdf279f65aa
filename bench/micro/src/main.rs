//! Counts what each hot leaf costs in instructions and allocations, so that a regression is seen by
//! count and not by clock. Each leaf runs under valgrind twice, the second time more often: the
//! difference is the leaf alone, without the program's start.
//! It must not know what the leaves do.

#![forbid(unsafe_code)]

mod leaves;

use std::io::{self, Write};
use std::process::{Command, ExitCode};

use leaves::{LEAVES, Leaf};

/// How often a leaf runs in the shorter and in the longer run.
const TIMES: [u32; 2] = [50, 250];

/// A leaf that needs more than this many times its recorded instructions has regressed.
const TOLERANCE: f64 = 1.10;

/// What was recorded: a line per leaf, `name instructions allocations bytes`.
const RECORDED: &str = include_str!("../recorded.txt");

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => count_all(),
        [name, times] => run_leaf(name, times).map(|()| true),
        _ => Err("usage: bench-micro [LEAF TIMES]".to_owned()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Where this cannot be written nobody reads it.
            let _ = writeln!(io::stderr(), "bench-micro: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_leaf(name: &str, times: &str) -> Result<(), String> {
    let leaf = LEAVES.iter().find(|leaf| leaf.name == name).ok_or_else(|| format!("no leaf `{name}`"))?;
    (leaf.run)(times.parse().map_err(|_| format!("`{times}` is not a number"))?)
}

/// False when a leaf has regressed.
fn count_all() -> Result<bool, String> {
    let mut out = io::stdout();
    let mut say = |line: String| writeln!(out, "{line}").map_err(|error| error.to_string());
    say("| leaf | instructions | recorded | allocations | bytes allocated |\n|---|---|---|---|---|".to_owned())?;
    let (mut held, mut lines) = (true, String::new());
    for leaf in &LEAVES {
        let count = Count::of(leaf)?;
        let recorded = recorded(leaf.name);
        let ratio = recorded.map(|before| count.instructions / before);
        held &= ratio.is_none_or(|ratio| ratio <= TOLERANCE);
        let before = recorded.zip(ratio).map_or("new".to_owned(), |(before, ratio)| format!("{before:.0} ({ratio:.2}×)"));
        say(format!("| {} | {:.0} | {before} | {:.1} | {:.0} |", leaf.name, count.instructions, count.allocations, count.bytes))?;
        lines += &format!("{} {:.0} {:.1} {:.0}\n", leaf.name, count.instructions, count.allocations, count.bytes);
    }
    if !held {
        say(format!("\nA leaf needs more than {TOLERANCE} × its recorded instructions. If that is meant, record:\n\n{lines}"))?;
    }
    Ok(held)
}

fn recorded(name: &str) -> Option<f64> {
    let line = RECORDED.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.split(' ').next()?.parse().ok()
}

/// What one run of a leaf costs.
struct Count {
    instructions: f64,
    allocations: f64,
    bytes: f64,
}

impl Count {
    fn of(leaf: &Leaf) -> Result<Self, String> {
        let instructions = each(leaf, &["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"], |said| {
            number_after(said, "refs:")
        })?;
        let heap = ["--tool=dhat", "--dhat-out-file=/dev/null"];
        let bytes = each(leaf, &heap, |said| number_after(said, "Total:"))?;
        let allocations = each(leaf, &heap, |said| {
            let line = said.lines().find(|line| line.contains("Total:"))?;
            number_after(line, "bytes in")
        })?;
        Ok(Self { instructions, allocations, bytes })
    }
}

/// The difference of the two runs, by repetition.
fn each(leaf: &Leaf, tool: &[&str], read: impl Fn(&str) -> Option<f64>) -> Result<f64, String> {
    let mut seen = [0.0; 2];
    for (times, seen) in TIMES.iter().zip(&mut seen) {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let output = Command::new("valgrind")
            .args(tool)
            .arg(program)
            .args([leaf.name, &times.to_string()])
            .output()
            .map_err(|error| format!("valgrind: {error}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return Err(format!("{}: {said}", leaf.name));
        }
        *seen = read(&said).ok_or_else(|| format!("{}: not understood: {said}", leaf.name))?;
    }
    Ok((seen[1] - seen[0]) / f64::from(TIMES[1] - TIMES[0]))
}

/// The number (with thousands commas) after a word.
fn number_after(text: &str, word: &str) -> Option<f64> {
    let rest = text.split_once(word)?.1.trim_start();
    let digits: String = rest.chars().take_while(|letter| letter.is_ascii_digit() || *letter == ',').collect();
    digits.replace(',', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{number_after, recorded};

    #[test]
    fn valgrind_is_understood() {
        assert_eq!(number_after("==1== I   refs:      1,234,567\n", "refs:"), Some(1_234_567.0));
        assert_eq!(number_after("==1== Total:     2,048 bytes in 16 blocks", "bytes in"), Some(16.0));
        assert_eq!(number_after("==1== nothing", "refs:"), None);
    }

    #[test]
    fn a_leaf_is_not_mistaken_for_one_with_a_longer_name() {
        assert_eq!(recorded("scan"), None);
        assert!(recorded("scan-1k").is_some());
    }
}
