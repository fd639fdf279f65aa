//! The agreements of the house, held over its own text: which way the arrows fall, who may name what,
//! and that the documents and the code say the same. It must not know how anything works.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// From the top down: a file may name what stands on a lower floor, never beside or above.
const FLOORS: [&[&str]; 8] = [
    &["main", "command"],
    &["probe", "reload", "report", "server"],
    &["app"],
    &["pipeline"],
    &["status"],
    &["house"],
    &[
        "auth",
        "flood",
        "limits",
        "router",
        "upstream",
        "stream",
        "meter",
        "prices",
        "tokens",
        "cache",
        "guard",
        "demo",
        "telemetry",
    ],
    &["config", "decimal", "metrics", "error", "rarely", "trace", "worker"],
];

/// Arrows between rooms of one floor.
const BESIDE: [(&str, &str); 3] = [("auth", "flood"), ("meter", "prices"), ("meter", "tokens")];

/// What only these rooms may name: `(word, rooms)`.
const OWNERS: [(&str, &[&str]); 6] = [
    ("reqwest::", &["upstream"]),
    ("redis::", &["limits", "cache"]),
    ("prometheus::", &["metrics"]),
    ("env::var", &["config"]),
    ("tracing_subscriber::", &["telemetry"]),
    ("opentelemetry", &["trace", "telemetry"]),
];

/// Rooms that may name providers: configuration rows, prices, the demo.
const NAMES_PROVIDERS: [&str; 3] = ["config", "prices", "demo"];

/// The longest file, in lines.
const MAX_LINES: usize = 600;

struct Source {
    path: PathBuf,
    /// The first folder or file below the crate's `src`.
    room: String,
    text: String,
    /// The text without comments.
    code: String,
}

impl Source {
    /// The tests of a room may name what the room itself may not.
    fn code_without_tests(&self) -> &str {
        let is_test = self.path.ends_with("tests.rs");
        if is_test { "" } else { self.code.split("#[cfg(test)]").next().unwrap_or_default() }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return found };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn sources(folder: &str) -> Vec<Source> {
    let folder = root().join(folder);
    let sources = files(&folder, "rs").into_iter().map(|path| {
        let text = std::fs::read_to_string(&path).unwrap();
        let is_comment = |line: &&str| line.trim_start().starts_with("//");
        let code: String = text.lines().filter(|line| !is_comment(line)).map(|line| line.to_owned() + "\n").collect();
        let room = path.strip_prefix(&folder).unwrap().components().next().unwrap();
        let room = room.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned();
        Source { path, room, text, code }
    });
    sources.collect()
}

/// Stops with all faults at once.
fn hold(agreement: &str, faults: &[String]) {
    assert!(faults.is_empty(), "{agreement}:\n{}", faults.join("\n"));
}

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

/// The rooms that this code names through `crate::`, lists in braces included.
fn named_rooms(code: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for after in code.split("crate::").skip(1) {
        let list = after.strip_prefix('{').map(|list| list.split('}').next().unwrap_or_default());
        let names: Vec<&str> = list.map_or_else(|| vec![after], |list| list.split(',').collect());
        for name in names {
            rooms.insert(name.trim().chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect());
        }
    }
    rooms
}

#[test]
fn arrows_fall() {
    let mut faults = Vec::new();
    for source in sources("src").iter().filter(|source| source.room != "lib") {
        let Some(from) = floor(&source.room) else {
            faults.push(format!("{}: the room `{}` stands on no floor", source.path.display(), source.room));
            continue;
        };
        let code = source.code.replace("choreoai::", "crate::");
        for room in named_rooms(&code) {
            let Some(to) = floor(&room) else { continue };
            let is_agreed = room == source.room || to > from || BESIDE.contains(&(source.room.as_str(), room.as_str()));
            if !is_agreed {
                faults.push(format!("{}: `{}` names `{room}`", source.path.display(), source.room));
            }
        }
    }
    hold("arrows fall: main, app, pipeline, house, rooms, {config, decimal, metrics, error, rarely, worker}", &faults);
}

#[test]
fn each_tool_has_one_owner() {
    let mut faults = Vec::new();
    for source in sources("src") {
        for (word, rooms) in OWNERS {
            if source.code_without_tests().contains(word) && !rooms.contains(&source.room.as_str()) {
                faults.push(format!("{}: names `{word}`, which is for {rooms:?}", source.path.display()));
            }
        }
    }
    for source in sources("providers/src") {
        for word in ["std::env", "std::fs", "std::net", "Instant", "SystemTime", "tokio", "reqwest"] {
            if source.code.contains(word) {
                faults.push(format!("{}: names `{word}`; adapters are pure", source.path.display()));
            }
        }
    }
    hold("each tool has one owner", &faults);
}

#[test]
fn no_provider_is_named_in_the_gateway() {
    let mut faults = Vec::new();
    for source in sources("src").iter().filter(|source| !NAMES_PROVIDERS.contains(&source.room.as_str())) {
        let code = source.code_without_tests();
        for kind in providers::all().map(providers::Provider::kind) {
            if code.contains(&format!("\"{kind}\"")) {
                faults.push(format!("{}: names \"{kind}\"", source.path.display()));
            }
        }
    }
    hold("adding a provider never touches the gateway", &faults);
}

#[test]
fn every_file_says_what_it_does_and_what_it_must_not_know() {
    let mut faults = Vec::new();
    for folder in ["src", "providers/src", "tests", "providers/tests"] {
        for source in sources(folder) {
            let opening: String = source.text.lines().take_while(|line| line.starts_with("//!")).collect();
            let is_door = ["lib", "tests"].contains(&source.room.as_str()) || source.path.ends_with("tests.rs");
            if opening.is_empty() || !is_door && !opening.contains("must not") {
                faults.push(format!("{}: opens with {opening:?}", source.path.display()));
            }
            let lines = source.text.lines().count();
            if lines > MAX_LINES {
                faults.push(format!("{}: {lines} lines", source.path.display()));
            }
        }
    }
    hold("each file opens with what it does and what it must not know, and stays short", &faults);
}

#[test]
fn no_lint_is_silenced_to_make_something_fit() {
    let sizes = ["too_many_lines", "too_many_arguments", "cognitive_complexity"];
    let mut faults = Vec::new();
    for source in sources("src").into_iter().chain(sources("providers/src")) {
        for line in source.code.lines() {
            let silences = line.contains("[allow(") || line.contains("[expect(") && line.contains("dead_code");
            if silences || line.contains("clippy::") && sizes.iter().any(|lint| line.contains(lint)) {
                faults.push(format!("{}: {}", source.path.display(), line.trim()));
            }
        }
    }
    hold("no lint is silenced to make something fit", &faults);
}

#[test]
fn the_translation_crate_knows_no_runtime() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tree = |runtime: &str, package: &str| {
        let arguments = ["tree", "--offline", "-p", package, "-e", "normal", "-i", runtime];
        Command::new(&cargo).args(arguments).current_dir(root()).output().unwrap()
    };
    assert!(tree("tokio", "choreoai").status.success(), "the question itself works");
    for runtime in ["tokio", "reqwest", "hyper"] {
        let output = tree(runtime, "providers");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success() || said.trim().is_empty(), "providers depends on {runtime}:\n{said}");
    }
}

/// Every `choreoai_…` name in a text, without the endings of a histogram's series.
fn metric_names(text: &str) -> BTreeSet<String> {
    let names = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let without_ending = |name: &str| {
        ["_bucket", "_sum", "_count"].iter().fold(name, |name, end| name.strip_suffix(end).unwrap_or(name)).to_owned()
    };
    names.filter(|name| name.starts_with("choreoai_") && *name != "choreoai_").map(without_ending).collect()
}

fn document(name: &str) -> String {
    let path = root().join("docs").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|_| panic!("{} is missing", path.display()))
}

#[test]
fn every_metric_stands_in_the_reference_and_the_reverse() {
    let text = document("metrics.md");
    let documented = metric_names(&text);
    let list = choreoai::metrics::Metrics::LIST;
    let real: BTreeSet<String> = list.iter().map(|(name, _, _)| (*name).to_owned()).collect();
    let missing = real.difference(&documented).map(|name| format!("{name} is not in docs/metrics.md"));
    let stale = documented.difference(&real).map(|name| format!("docs/metrics.md names {name}, which is no metric"));
    let unlabelled = list.iter().filter_map(|(name, labels, _)| {
        let line = text.lines().find(|line| line.contains(&format!("`{name}`")))?;
        let missing = labels.iter().find(|label| !line.contains(**label))?;
        Some(format!("docs/metrics.md: {name} has the label {missing}"))
    });
    hold("docs/metrics.md is the code's own list", &missing.chain(stale).chain(unlabelled).collect::<Vec<_>>());
}

/// The names of the fields of every struct of the configuration file.
fn configuration_keys() -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join("src/config/file.rs")).unwrap();
    let fields =
        text.lines().filter_map(|line| line.trim().strip_prefix("pub ")?.split_once(": ").map(|(name, _)| name.to_owned()));
    fields.filter(|name| !name.contains([' ', '('])).collect()
}

/// The words in `code` in the first cell of every table row of a document.
fn first_cells(text: &str) -> BTreeSet<String> {
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.filter_map(|row| row.split('|').nth(1));
    let words = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>());
    words.collect()
}

fn environment_names(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("CHOREOAI_") && word.len() > "CHOREOAI_".len()).map(str::to_owned).collect()
}

#[test]
fn every_configuration_key_stands_in_the_reference_and_the_reverse() {
    let text = document("configuration.md");
    let keys = configuration_keys();
    assert!(keys.len() > 30, "the keys are no longer found in src/config/file.rs: {keys:?}");
    let cells = first_cells(&text);
    let last = |cell: &str| cell.rsplit('.').next().unwrap_or_default().to_owned();
    let missing = keys.iter().filter(|key| !cells.iter().any(|cell| last(cell) == **key));
    let missing = missing.map(|key| format!("{key} is not in docs/configuration.md"));
    let is_variable = |cell: &str| cell.chars().all(|letter| letter.is_ascii_uppercase() || "_<>*0123456789".contains(letter));
    let stale = cells.iter().filter(|cell| !keys.contains(&last(cell)) && !cell.starts_with('[') && !is_variable(cell));
    let stale = stale.map(|cell| format!("docs/configuration.md names {cell}, which is no key"));
    hold("docs/configuration.md lists the keys there are", &missing.chain(stale).collect::<Vec<_>>());
    let config: String = sources("src").into_iter().filter(|source| source.room == "config").map(|source| source.code).collect();
    assert_eq!(
        environment_names(&config),
        environment_names(&text),
        "the environment in src/config beside docs/configuration.md"
    );
}
