//! `/metrics` as numbers. It must not know what any metric means.

use std::collections::BTreeMap;

/// One series at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// Everything `/metrics` said at one moment.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    pub samples: Vec<Sample>,
    pub text: String,
}

impl Scrape {
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
        Self { samples: lines.map(sample).collect(), text: text.to_owned() }
    }

    /// The series of this name that have all these labels.
    pub fn series<'a>(&'a self, name: &'a str, labels: &'a [(&'a str, &'a str)]) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| {
            sample.name == name && labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|is| is == value))
        })
    }

    /// The sum over those series; 0 when there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.series(name, labels).map(|sample| sample.value).fold(0.0, |sum, value| sum + value)
    }

    /// That sum as a whole number.
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let sum = self.sum(name, labels);
        assert!(sum >= 0.0 && sum.fract() == 0.0, "{name}{labels:?} is {sum}, not a count");
        format!("{sum}").parse().unwrap()
    }

    /// The lines whose name begins so, for messages.
    pub fn lines(&self, prefix: &str) -> String {
        let lines = self.text.lines().filter(|line| line.starts_with(prefix) && !line.ends_with(" 0"));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Every name and label set, for comparing which series exist.
    pub fn identities(&self) -> Vec<String> {
        self.samples.iter().map(|sample| format!("{}{:?}", sample.name, sample.labels)).collect()
    }
}

fn sample(line: &str) -> Sample {
    let (series, value) = split_value(line);
    let value = match value {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        number => number.parse().unwrap_or_else(|_| panic!("no number in {line}")),
    };
    let Some((name, labels)) = series.split_once('{') else {
        return Sample { name: series.to_owned(), labels: BTreeMap::new(), value };
    };
    Sample { name: name.to_owned(), labels: parse_labels(labels.trim_end_matches('}')), value }
}

/// The series and its value; a timestamp or exemplar behind it is left out.
fn split_value(line: &str) -> (&str, &str) {
    let end = line.rfind('}').map_or_else(|| line.find(' ').unwrap_or(line.len()), |brace| brace + 1);
    let (series, rest) = line.split_at(end);
    (series.trim(), rest.split_whitespace().next().unwrap_or_default())
}

fn parse_labels(text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once("=\"") {
        let mut value = String::new();
        let mut letters = after.char_indices();
        let mut end = after.len();
        while let Some((at, letter)) = letters.next() {
            match letter {
                '\\' => match letters.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, other)) => value.push(other),
                    None => {}
                },
                '"' => {
                    end = at + 1;
                    break;
                }
                other => value.push(other),
            }
        }
        labels.insert(name.trim_start_matches(',').trim().to_owned(), value);
        rest = &after[end..];
    }
    labels
}

#[test]
fn exposition_text_is_read() {
    let scrape = Scrape::parse("# HELP a b\na_total{x=\"1\",y=\"q\\\"{}\"} 3\na_total{x=\"2\"} 4.5\nb +Inf\n");
    assert!((scrape.sum("a_total", &[]) - 7.5).abs() < 1e-9);
    assert_eq!(scrape.count("a_total", &[("x", "1"), ("y", "q\"{}")]), 3);
    assert!(scrape.sum("b", &[]).is_infinite());
}
