//! Everything that the documents show is tried as a reader would try it: configuration files, calls,
//! programs, what is printed. It must not know the gateway's insides, only what is written about it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use choreoai::config::Config;
use serde_json::Value;

use crate::support::gateway::{Gateway, Setup};
use crate::support::skip;

/// The address that the documents speak of.
const SHOWN: &str = "127.0.0.1:8000";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// README and every page of `docs/`, by name.
fn documents() -> Vec<String> {
    let pages = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = pages.filter(|path| path.extension().is_some_and(|ending| ending == "md"));
    let mut names: Vec<String> = pages.map(|path| format!("docs/{}", path.file_name().unwrap().to_str().unwrap())).collect();
    names.push("README.md".to_owned());
    names.sort();
    names
}

/// The fenced blocks of one language, without the indentation of a list.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut inside = None;
    for line in text.lines() {
        match (line.trim().strip_prefix("```"), inside) {
            (Some(_), Some(_)) => inside = None,
            (Some(opening), None) => {
                inside = Some(opening == language);
                if opening == language {
                    found.push(String::new());
                }
            }
            (None, Some(true)) => found.last_mut().unwrap().push_str(&format!("{line}\n")),
            (None, _) => {}
        }
    }
    found
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Runs a command of the README against a gateway, without a proxy in between.
fn shell(script: &str, gateway: &Gateway) -> Output {
    let script = script.replace(SHOWN, &gateway.address.to_string());
    Command::new("sh").args(["-c", &script]).env("no_proxy", "127.0.0.1").output().unwrap()
}

#[test]
fn the_example_file_is_sound_and_shows_every_table() {
    let output = Setup::default().command(&["check", "--config"]).arg(root().join("choreoai.example.toml")).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let report = said(&output);
    for words in ["everyday", "key team-a (may call everyday, anthropic/*): 600 requests/min", "models without a price\n  none"] {
        assert!(report.contains(words), "no {words:?} in\n{report}");
    }
    let keys = read("choreoai.example.toml");
    for table in ["[server]", "[log]", "[rate_limit]", "[providers.", "[models.", "[[keys]]", "[prices."] {
        assert!(keys.lines().any(|line| line.starts_with(table)), "no {table}");
    }
}

#[test]
fn every_configuration_in_the_documents_is_sound() {
    let mut tried = 0;
    for name in documents() {
        for block in blocks(&read(&name), "toml") {
            let variable =
                |name: &str| name.chars().all(|letter| letter.is_ascii_uppercase() || letter == '_').then(|| "x".to_owned());
            let variable = |name: &str| variable(name).filter(|_| block.contains(&format!("${{{name}")));
            if let Err(error) = Config::from_text(&block, &variable) {
                panic!("{name}: {error} in\n{block}");
            }
            tried += 1;
        }
    }
    assert!(tried >= 2, "the blocks are no longer found: {tried}");
}

#[test]
fn every_json_in_the_documents_is_json() {
    for name in documents() {
        for block in blocks(&read(&name), "json") {
            let read: Result<Value, _> = serde_json::from_str(&block);
            assert!(read.is_ok(), "{name}: {read:?} in\n{block}");
        }
    }
}

/// The first call of the README, as it is shown: what is answered, counted and logged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_call_of_the_readme_answers_counts_and_logs_what_it_shows() {
    let text = read("README.md");
    let gateway = Setup::default().start().await;
    let commands: Vec<String> = blocks(&text, "sh").into_iter().filter(|block| block.starts_with("curl ")).collect();
    let [call, scrape] = &commands[..] else { panic!("{commands:?}") };
    let answers = blocks(&text, "json");
    let answer: Value = serde_json::from_slice(&shell(call, &gateway).stdout).unwrap();
    assert_eq!(answer, serde_json::from_str::<Value>(&answers[0]).unwrap());

    let line = gateway.log("of the call", |line| line["model"] == "echo").await;
    let shown: Value = serde_json::from_str(&answers[1]).unwrap();
    let names = |line: &Value| line.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&line), names(&shown));
    for name in names(&line).iter().filter(|name| !["timestamp", "request_id", "duration"].contains(&name.as_str())) {
        assert_eq!(line[name], shown[name], "{name}");
    }

    let counted = said(&shell(scrape, &gateway));
    let counted: Vec<&str> = counted.lines().filter(|line| !line.ends_with(" 0")).collect();
    assert_eq!(counted.join("\n") + "\n", blocks(&text, "text")[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_programs_of_the_readme_run() {
    let text = read("README.md");
    let gateway = Setup::default().start().await;
    let python: PathBuf = root().join(".tools/python/bin/python");
    let node = root().join("tests/sdk/node");
    let programs = [
        ("python", python.clone(), vec!["-c"], python.is_file()),
        ("js", "node".into(), vec!["--input-type=module", "-e"], node.join("node_modules/openai").is_dir()),
    ];
    for (language, program, arguments, is_installed) in programs {
        if !is_installed {
            skip(&format!("OpenAI's package for {language} is not installed"));
            continue;
        }
        let block = blocks(&text, language).concat().replace(SHOWN, &gateway.address.to_string());
        // Node looks for packages from the folder it stands in.
        let mut command = Command::new(program);
        command.args(arguments).arg(block).current_dir(&node).env("no_proxy", "127.0.0.1");
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "You said: Hello", "{language}");
    }
}

#[test]
fn the_knobs_of_the_demo_are_in_the_readme() {
    let text = read("README.md");
    for model in choreoai::demo::MODELS {
        let row = format!("| `demo/{}` | {}", model.name, model.about);
        assert!(text.contains(&row), "README.md has no row {row:?}");
    }
}

#[test]
fn every_kind_stands_in_the_reference_with_its_address_and_its_variable() {
    let text = read("docs/configuration.md");
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split('|').map(str::trim).collect()).collect();
    let account = providers::Account::default();
    for kind in providers::all() {
        let variable = kind.key_variable().map_or("–".to_owned(), |name| format!("`{name}`"));
        let row = rows.iter().find(|row| row.get(1) == Some(&kind.kind()));
        let row = row.unwrap_or_else(|| panic!("docs/configuration.md, Kinds: no row for {}: key {variable}", kind.kind()));
        assert_eq!(row[3], variable, "the variable of {}", kind.kind());
        if let Some(url) = kind.base_url(&account).filter(|_| row[2] != "by `region`") {
            assert_eq!(row[2], format!("`{url}`"), "the address of {}", kind.kind());
        }
    }
}

#[test]
fn every_word_for_an_error_stands_in_the_reference() {
    let text = read("docs/api.md");
    for label in choreoai::error::labels() {
        assert!(text.lines().any(|line| line.ends_with(&format!("| `{label}` |"))), "docs/api.md has no row for {label}");
    }
}

/// The anchor that a heading gets.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    kept.chars()
        .filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter))
        .map(|l| if l == ' ' { '-' } else { l })
        .collect()
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    let mut faults = Vec::new();
    for name in documents() {
        let text = read(&name);
        let folder = root().join(&name).parent().unwrap().to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") || link.contains(char::is_whitespace) {
                continue;
            }
            let (file, wished) = link.split_once('#').unwrap_or((link, ""));
            let path = if file.is_empty() { root().join(&name) } else { folder.join(file) };
            let anchors = || {
                let target = std::fs::read_to_string(&path).unwrap_or_default();
                target
                    .lines()
                    .filter_map(|line| line.strip_prefix('#'))
                    .map(|line| anchor(line.trim_start_matches('#')))
                    .collect()
            };
            let anchors: Vec<String> = if wished.is_empty() { Vec::new() } else { anchors() };
            if !path.exists() || !wished.is_empty() && !anchors.iter().any(|known| known == wished) {
                faults.push(format!("{name}: {link}"));
            }
        }
    }
    assert!(faults.is_empty(), "links that lead nowhere:\n{}", faults.join("\n"));
}
