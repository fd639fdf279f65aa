//! Writes gathered metrics as OpenMetrics 1.0 text, which the `prometheus` crate does not:
//! <https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md>.
//! It must not know which metrics there are.

use std::fmt::{self, Write};

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

/// What every counter's sample ends with; its family's name does not.
const TOTAL: &str = "_total";

/// All families, and the end mark.
pub(super) fn text(families: &[MetricFamily]) -> String {
    let mut out = String::with_capacity(64 * 1024);
    // Writing to a String cannot fail.
    let _ = families.iter().try_for_each(|each| family(&mut out, each));
    out.push_str("# EOF\n");
    out
}

fn family(out: &mut String, family: &MetricFamily) -> fmt::Result {
    let kind = family.get_field_type();
    let (name, word) = match kind {
        MetricType::COUNTER => (family.name().strip_suffix(TOTAL).unwrap_or(family.name()), "counter"),
        MetricType::GAUGE => (family.name(), "gauge"),
        MetricType::HISTOGRAM => (family.name(), "histogram"),
        _ => (family.name(), "unknown"),
    };
    writeln!(out, "# TYPE {name} {word}")?;
    writeln!(out, "# HELP {name} {}", escaped(family.help()))?;
    for metric in family.get_metric() {
        match kind {
            MetricType::COUNTER => sample(out, (name, TOTAL), metric, metric.get_counter().get_value())?,
            MetricType::HISTOGRAM => histogram(out, name, metric)?,
            _ => sample(out, (name, ""), metric, metric.get_gauge().get_value())?,
        }
    }
    Ok(())
}

fn histogram(out: &mut String, name: &str, metric: &Metric) -> fmt::Result {
    let histogram = metric.get_histogram();
    let bound = |bound: f64| if bound.is_infinite() { "+Inf".to_owned() } else { format!("{bound:?}") };
    let mut has_last = false;
    for bucket in histogram.get_bucket() {
        has_last |= bucket.upper_bound().is_infinite();
        write!(out, "{name}_bucket")?;
        labels(out, metric.get_label(), Some(&bound(bucket.upper_bound())))?;
        writeln!(out, " {}", bucket.cumulative_count())?;
    }
    if !has_last {
        write!(out, "{name}_bucket")?;
        labels(out, metric.get_label(), Some("+Inf"))?;
        writeln!(out, " {}", histogram.get_sample_count())?;
    }
    sample(out, (name, "_sum"), metric, histogram.get_sample_sum())?;
    sample(out, (name, "_count"), metric, histogram.get_sample_count() as f64)
}

fn sample(out: &mut String, (name, suffix): (&str, &str), metric: &Metric, value: f64) -> fmt::Result {
    write!(out, "{name}{suffix}")?;
    labels(out, metric.get_label(), None)?;
    writeln!(out, " {value}")
}

fn labels(out: &mut String, pairs: &[LabelPair], le: Option<&str>) -> fmt::Result {
    if pairs.is_empty() && le.is_none() {
        return Ok(());
    }
    let mut separator = '{';
    for pair in pairs {
        write!(out, "{separator}{}=\"{}\"", pair.name(), escaped(pair.value()))?;
        separator = ',';
    }
    if let Some(le) = le {
        write!(out, "{separator}le=\"{le}\"")?;
    }
    out.write_char('}')
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"")
}
