//! What was seen, as one table in Markdown: medians over the rounds, and ratios to nginx taken round
//! by round, so that what disturbed a round disturbed both sides of its ratio.
//! It must not know how anything was measured.

use std::fmt::Write;

use crate::run::Results;
use crate::scenarios::{Load, Quantiles, SCENARIOS, Scenario, Slice};

/// The one that the others are compared with.
const REFERENCE: &str = "nginx";

/// The whole table.
#[must_use]
pub fn table(results: &Results) -> String {
    let measured: Vec<&str> = results.contestants.iter().map(String::as_str).filter(|name| *name != "direct").collect();
    let mut text = format!("| | {} |\n|---|{}\n", measured.join(" | "), "---|".repeat(measured.len()));
    for scenario in &SCENARIOS {
        cost_row(&mut text, results, scenario, &measured);
        rate_row(&mut text, results, scenario, &measured);
        redis_row(&mut text, results, scenario, &measured);
        latency_rows(&mut text, results, scenario, &measured);
    }
    footprint_rows(&mut text, results, &measured);
    failures(&mut text, results);
    text
}

fn row(text: &mut String, name: &str, cells: Vec<Option<String>>) {
    if cells.iter().all(Option::is_none) {
        return;
    }
    let cells: Vec<String> = cells.into_iter().map(|cell| cell.unwrap_or_else(|| "–".to_owned())).collect();
    // Writing to a String does not fail.
    let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
}

fn slices<'a>(results: &'a Results, scenario: &'a Scenario, name: &'a str) -> impl Iterator<Item = &'a Slice> {
    results.slices.iter().filter(move |slice| slice.scenario == scenario.name && slice.contestant == name)
}

/// Microseconds of processor time a call or an event.
fn cost(scenario: &Scenario, slice: &Slice) -> Option<f64> {
    let units = if scenario.by_event() { slice.events } else { slice.calls };
    let cpu = slice.cpu_ns? as f64 / 1000.0;
    (units > 0).then(|| cpu / units as f64)
}

fn cost_row(text: &mut String, results: &Results, scenario: &Scenario, measured: &[&str]) {
    let cells = measured.iter().map(|name| {
        let costs: Vec<f64> = slices(results, scenario, name).filter_map(|slice| cost(scenario, slice)).collect();
        let ratios: Vec<f64> = slices(results, scenario, name)
            .filter_map(|slice| {
                let reference = slices(results, scenario, REFERENCE).find(|other| other.round == slice.round)?;
                Some(cost(scenario, slice)? / cost(scenario, reference)?)
            })
            .collect();
        let micros = median(costs)?;
        Some(median(ratios).map_or_else(|| format!("{micros:.1}"), |ratio| format!("{micros:.1} ({ratio:.2}×)")))
    });
    row(text, &format!("{}: CPU µs", scenario.name), cells.collect());
}

fn rate_row(text: &mut String, results: &Results, scenario: &Scenario, measured: &[&str]) {
    if !matches!(scenario.load, Load::Closed { .. }) || scenario.plan.pace_us > 0 {
        return;
    }
    let cells = measured.iter().map(|name| {
        let rates = slices(results, scenario, name).map(|slice| {
            let units = if scenario.by_event() { slice.events } else { slice.calls };
            units as f64 / slice.seconds / 1000.0
        });
        median(rates.collect()).map(|rate| format!("{rate:.1}"))
    });
    row(text, &format!("{}: thousands a second", scenario.name), cells.collect());
}

/// Scripts that Redis ran a call: each is one round trip.
fn redis_row(text: &mut String, results: &Results, scenario: &Scenario, measured: &[&str]) {
    let cells = measured.iter().map(|name| {
        let asked = slices(results, scenario, name).filter_map(|slice| Some(slice.redis? as f64 / slice.calls.max(1) as f64));
        median(asked.collect()).map(|asked| format!("{asked:.2}"))
    });
    row(text, &format!("{}: round trips to Redis a call", scenario.name), cells.collect());
}

type Pick = fn(&Slice) -> Option<Quantiles>;

fn latency_rows(text: &mut String, results: &Results, scenario: &Scenario, measured: &[&str]) {
    let picks: [(&str, Pick); 4] = [
        ("", |slice| slice.whole.filter(|_| slice.first_event.is_none())),
        (", first event", |slice| slice.first_event),
        (", each event", |slice| slice.event_delay),
        (", gap between events", |slice| slice.event_gap),
    ];
    for (what, pick) in picks {
        let cells = measured.iter().map(|name| {
            let added = |quantile: fn(Quantiles) -> f64| {
                let differences = slices(results, scenario, name).filter_map(|slice| {
                    let direct = slices(results, scenario, "direct").find(|other| other.round == slice.round)?;
                    Some(quantile(pick(slice)?) - quantile(pick(direct)?))
                });
                median(differences.collect())
            };
            Some(format!("{:.0} / {:.0}", added(|all| all.p50)?, added(|all| all.p99)?))
        });
        row(text, &format!("{}{what}: added µs, p50 / p99", scenario.name), cells.collect());
    }
}

fn footprint_rows(text: &mut String, results: &Results, measured: &[&str]) {
    let mut add = |what: &str, cell: &dyn Fn(&crate::run::Footprint) -> String| {
        let cells = measured.iter().map(|name| results.footprints.iter().find(|one| one.contestant == *name).map(cell));
        row(text, what, cells.collect());
    };
    add("open streams: KB each (how many)", &|one| format!("{:.1} ({})", one.kb_per_stream(), one.streams));
    add("idle memory, MB", &|one| format!("{:.1}", one.idle_kb as f64 / 1024.0));
    add("memory after the streams, MB", &|one| format!("{:.1}", one.after_kb as f64 / 1024.0));
    add("start to first answer, ms", &|one| format!("{:.0}", one.start_ms));
    add("stop, ms", &|one| format!("{:.0}", one.stop_ms));
}

/// A figure of a contestant that failed is worth nothing, so it is said aloud.
fn failures(text: &mut String, results: &Results) {
    for slice in results.slices.iter().filter(|slice| slice.failures > 0) {
        let _ = writeln!(
            text,
            "\n**{} failed {} times** in “{}” (round {}, {} answered): {}",
            slice.contestant,
            slice.failures,
            slice.scenario,
            slice.round + 1,
            slice.calls,
            slice.failure.as_deref().unwrap_or("")
        );
    }
}

/// The middle one; the mean of the two in the middle.
#[must_use]
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some((lower + upper) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 9.0]), Some(3.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
    }
}
