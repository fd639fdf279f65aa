//! Writes gathered metrics in Prometheus' text format 0.0.4 and as OpenMetrics 1.0, which the
//! `prometheus` crate does not (and the former slowly: there may be tens of thousands of lines):
//! <https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md>.
//! It must not know which metrics there are.

use std::fmt::Write;

use prometheus::core::Collector;
use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

use super::exemplars::{Exemplars, Seen};

/// What every counter's sample ends with; in OpenMetrics its family's name does not.
const TOTAL: &str = "_total";
/// Whole numbers up to here are exact, and are written as such.
const EXACT: f64 = 9_007_199_254_740_992.0;
/// Room to begin with, in bytes.
const FIRST_ROOM: usize = 64 * 1024;

/// In which of the two formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Prometheus' own, version 0.0.4.
    Prometheus,
    /// OpenMetrics, version 1.0.0: with exemplars and an end mark.
    OpenMetrics,
}

/// Writes one family after the other.
pub(super) struct Writer<'e> {
    out: String,
    /// The labels of the metric at hand, without braces.
    labels: String,
    /// The bounds of the buckets of the family at hand.
    bounds: Vec<(f64, String)>,
    format: Format,
    exemplars: &'e Exemplars,
}

impl<'e> Writer<'e> {
    pub(super) fn new(format: Format, exemplars: &'e Exemplars) -> Self {
        Self { out: String::with_capacity(FIRST_ROOM), labels: String::new(), bounds: Vec::new(), format, exemplars }
    }

    /// Everything written, complete.
    pub(super) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.out.push_str("# EOF\n");
        }
        self.out
    }

    /// Writes all that `collector` has, in the order of names and label values. Families are collected and let go one
    /// by one: all at once would be many megabytes of small pieces.
    pub(super) fn collected(&mut self, collector: &dyn Collector) {
        let mut families = collector.collect();
        families.sort_by(|one, other| one.name().cmp(other.name()));
        for family in families.iter_mut().filter(|family| !family.get_metric().is_empty()) {
            family.mut_metric().sort_unstable_by(|one, other| values(one).cmp(values(other)));
            self.family(family);
        }
    }

    fn family(&mut self, family: &MetricFamily) {
        let kind = family.get_field_type();
        let word = match kind {
            MetricType::COUNTER => "counter",
            MetricType::GAUGE => "gauge",
            MetricType::HISTOGRAM => "histogram",
            _ if self.format == Format::OpenMetrics => "unknown",
            _ => "untyped",
        };
        let name = family.name();
        let named = match (self.format, kind) {
            (Format::OpenMetrics, MetricType::COUNTER) => name.strip_suffix(TOTAL).unwrap_or(name),
            _ => name,
        };
        self.out.push_str("# HELP ");
        self.out.push_str(named);
        self.out.push(' ');
        // Quotes stand as they are in the help text of the older format.
        escape(&mut self.out, family.help(), self.format == Format::OpenMetrics);
        self.out.push_str("\n# TYPE ");
        self.out.push_str(named);
        self.out.push(' ');
        self.out.push_str(word);
        self.out.push('\n');
        self.bounds.clear();
        let seen = self.exemplars.of(name).filter(|_| self.format == Format::OpenMetrics);
        for metric in family.get_metric() {
            self.labels.clear();
            write_labels(&mut self.labels, metric.get_label());
            match kind {
                MetricType::COUNTER => self.sample(name, "", metric.get_counter().get_value()),
                MetricType::HISTOGRAM => {
                    let seen = seen.as_ref().and_then(|seen| seen.get(&self.labels));
                    self.histogram(name, metric, seen.map(Vec::as_slice).unwrap_or_default());
                }
                _ => self.sample(name, "", metric.get_gauge().get_value()),
            }
        }
    }

    fn histogram(&mut self, name: &str, metric: &Metric, seen: &[Option<Seen>]) {
        let histogram = metric.get_histogram();
        let buckets = histogram.get_bucket();
        for (nth, bucket) in buckets.iter().enumerate() {
            self.know_bound(nth, bucket.upper_bound());
            self.bucket(name, Some(nth), bucket.cumulative_count(), seen.get(nth));
        }
        if buckets.last().is_none_or(|last| last.upper_bound().is_finite()) {
            self.bucket(name, None, histogram.get_sample_count(), seen.get(buckets.len()));
        }
        self.sample(name, "_sum", histogram.get_sample_sum());
        self.sample(name, "_count", histogram.get_sample_count() as f64);
    }

    /// Writes the text of a bound once for all metrics of a family.
    fn know_bound(&mut self, nth: usize, bound: f64) {
        if self.bounds.get(nth).is_some_and(|(known, _)| *known == bound) {
            return;
        }
        self.bounds.truncate(nth);
        let text = match self.format {
            _ if bound.is_infinite() => "+Inf".to_owned(),
            Format::Prometheus => bound.to_string(),
            Format::OpenMetrics => format!("{bound:?}"),
        };
        self.bounds.push((bound, text));
    }

    /// One bucket; without a number the last, which has no bound.
    fn bucket(&mut self, name: &str, nth: Option<usize>, count: u64, seen: Option<&Option<Seen>>) {
        let out = &mut self.out;
        out.push_str(name);
        out.push_str("_bucket{");
        if !self.labels.is_empty() {
            out.push_str(&self.labels);
            out.push(',');
        }
        out.push_str("le=\"");
        out.push_str(nth.and_then(|nth| self.bounds.get(nth)).map_or("+Inf", |(_, text)| text.as_str()));
        out.push_str("\"} ");
        whole(out, count);
        if let Some(Some(seen)) = seen {
            // Writing to a String cannot fail.
            let _ = write!(out, " # {{trace_id=\"{}\"}} {} {:.3}", seen.trace_id, seen.value, seen.at);
        }
        out.push('\n');
    }

    fn sample(&mut self, name: &str, ending: &str, value: f64) {
        let out = &mut self.out;
        out.push_str(name);
        out.push_str(ending);
        if !self.labels.is_empty() {
            out.push('{');
            out.push_str(&self.labels);
            out.push('}');
        }
        out.push(' ');
        if (0.0..EXACT).contains(&value) && value.fract() == 0.0 {
            whole(out, value as u64);
        } else {
            let _ = write!(out, "{value}");
        }
        out.push('\n');
    }
}

fn values(metric: &Metric) -> impl Iterator<Item = &str> {
    metric.get_label().iter().map(LabelPair::value)
}

/// A whole number. Nearly all numbers of a scrape are, and most are 0.
fn whole(out: &mut String, number: u64) {
    match number {
        0..=9 => out.push(char::from(b'0' + number as u8)),
        _ => {
            let _ = write!(out, "{number}");
        }
    }
}

/// Labels as they stand between the braces.
pub(super) fn write_labels(out: &mut String, pairs: &[LabelPair]) {
    for pair in pairs {
        write_label(out, pair.name(), pair.value());
    }
}

pub(super) fn write_label(out: &mut String, name: &str, value: &str) {
    if !out.is_empty() {
        out.push(',');
    }
    out.push_str(name);
    out.push_str("=\"");
    escape(out, value, true);
    out.push('"');
}

fn escape(out: &mut String, text: &str, with_quotes: bool) {
    if !text.contains(['\\', '\n', '"']) {
        return out.push_str(text);
    }
    for letter in text.chars() {
        match letter {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if with_quotes => out.push_str("\\\""),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{Encoder, Gauge, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder};

    use super::*;

    const BOUNDS: [f64; 3] = [0.05, 1.0, 10.0];

    fn registry() -> (Registry, Vec<Box<dyn Collector>>) {
        let registry = Registry::new();
        let calls = IntCounterVec::new(Opts::new("calls_total", "Calls, \"all\" of\nthem."), &["who"]).unwrap();
        let buckets = HistogramOpts::new("time_seconds", "Time.").buckets(BOUNDS.to_vec());
        let time = HistogramVec::new(buckets, &["what"]).unwrap();
        let level = Gauge::new("level", "Level.").unwrap();
        let lost = Gauge::new("lost", "Lost.").unwrap();
        let nobody = IntCounterVec::new(Opts::new("nobody_total", "Nobody."), &["who"]).unwrap();
        calls.with_label_values(&["c"]).inc_by(3);
        calls.with_label_values(&["a \"b\" \\ \n"]).inc_by(12);
        for seconds in [0.01, 0.02, 0.7, 99.5] {
            time.with_label_values(&["x"]).observe(seconds);
        }
        level.set(-1.5e-9);
        lost.set(1e300);
        let all: Vec<Box<dyn Collector>> = vec![
            Box::new(calls.clone()),
            Box::new(level.clone()),
            Box::new(lost.clone()),
            Box::new(nobody.clone()),
            Box::new(time.clone()),
        ];
        for one in [Box::new(calls) as Box<dyn Collector>, Box::new(time), Box::new(level), Box::new(lost), Box::new(nobody)] {
            registry.register(one).unwrap();
        }
        (registry, all)
    }

    fn text(all: &[Box<dyn Collector>], format: Format, exemplars: &Exemplars) -> String {
        let mut writer = Writer::new(format, exemplars);
        all.iter().for_each(|one| writer.collected(one.as_ref()));
        writer.finish()
    }

    #[test]
    fn the_older_text_is_what_the_crate_writes() {
        let (registry, all) = registry();
        let mut expected = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut expected).unwrap();
        assert_eq!(text(&all, Format::Prometheus, &Exemplars::default()), String::from_utf8(expected).unwrap());
    }

    #[test]
    fn openmetrics_has_its_own_names_bounds_exemplars_and_end() {
        let exemplars = Exemplars::default();
        exemplars.keep("time_seconds", &BOUNDS, &[("what", "x")], (0.7, "4bf92f3577b34da6a3ce929d0e0e4736"));
        exemplars.keep("time_seconds", &BOUNDS, &[("what", "x")], (99.5, "00f067aa0ba902b700f067aa0ba902b7"));
        let told = text(&registry().1, Format::OpenMetrics, &exemplars);
        let stamped = |line: &str| line.rsplit_once(' ').map(|(line, at)| (line.to_owned(), at.parse::<f64>().unwrap()));
        let lines: Vec<&str> = told.lines().collect();
        assert!(
            lines.contains(&"# HELP calls Calls, \\\"all\\\" of\\nthem.") && lines.contains(&"# TYPE calls counter"),
            "{told}"
        );
        assert!(lines.contains(&"calls_total{who=\"a \\\"b\\\" \\\\ \\n\"} 12"), "{told}");
        assert!(lines.contains(&"time_seconds_bucket{what=\"x\",le=\"0.05\"} 2"), "none for this bucket: {told}");
        for (bucket, expected) in [
            ("le=\"1.0\"", "time_seconds_bucket{what=\"x\",le=\"1.0\"} 3 # {trace_id=\"4bf92f3577b34da6a3ce929d0e0e4736\"} 0.7"),
            (
                "le=\"+Inf\"",
                "time_seconds_bucket{what=\"x\",le=\"+Inf\"} 4 # {trace_id=\"00f067aa0ba902b700f067aa0ba902b7\"} 99.5",
            ),
        ] {
            let line = lines.iter().find(|line| line.contains(bucket)).unwrap();
            let (line, at) = stamped(line).unwrap();
            assert_eq!(line, expected);
            assert!(at > 1.7e9, "seconds since 1970: {at}");
        }
        assert!(told.ends_with("# EOF\n"));
    }
}
