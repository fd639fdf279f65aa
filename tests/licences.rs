//! Every dependency is under a licence that `deny.toml` allows, and comes from the public registry.
//! It must not know which dependencies there are, nor why.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Whether an SPDX expression can be satisfied with the allowed licences. Old manifests write `/` for `OR`.
fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    !words.is_empty() && either(&mut &words[..], allowed)
}

fn either(words: &mut &[&str], allowed: &[String]) -> bool {
    let mut good = both(words, allowed);
    while let ["OR", rest @ ..] = words {
        *words = rest;
        good |= both(words, allowed);
    }
    good
}

fn both(words: &mut &[&str], allowed: &[String]) -> bool {
    let mut good = one(words, allowed);
    while let ["AND", rest @ ..] = words {
        *words = rest;
        good &= one(words, allowed);
    }
    good
}

fn one(words: &mut &[&str], allowed: &[String]) -> bool {
    if let ["(", rest @ ..] = words {
        *words = rest;
        let good = either(words, allowed);
        *words = words.get(1..).unwrap_or_default();
        return good;
    }
    let end = words.iter().position(|word| ["AND", "OR", ")"].contains(word)).unwrap_or(words.len());
    let (licence, rest) = words.split_at(end);
    *words = rest;
    allowed.contains(&licence.join(" "))
}

fn allowed() -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deny.toml")).unwrap();
    let list = text.split_once("allow = [").unwrap().1.split_once(']').unwrap().0;
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_dependency_has_an_allowed_licence_and_a_known_source() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let rustc = Command::new("rustc").arg("-vV").output().unwrap();
    let version = String::from_utf8_lossy(&rustc.stdout).into_owned();
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let arguments = ["metadata", "--format-version", "1", "--offline", "--locked", "--filter-platform", host];
    let output = Command::new(cargo).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let allowed = allowed();
    let mut faults = Vec::new();
    let packages = metadata["packages"].as_array().unwrap();
    for package in packages {
        let (name, source) = (&package["name"], package["source"].as_str());
        let licence = package["license"].as_str().unwrap_or_default();
        if !is_allowed(licence, &allowed) {
            faults.push(format!("{name}: {licence:?}"));
        }
        if source.is_some_and(|source| !source.starts_with("registry+https://github.com/rust-lang/crates.io-index")) {
            faults.push(format!("{name}: comes from {source:?}"));
        }
    }
    println!("{} packages", packages.len());
    assert!(packages.len() > 50 && faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn expressions_are_read() {
    let allowed = ["MIT".to_owned(), "Unicode-3.0".to_owned()];
    for (expression, is_good) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("MIT/Apache-2.0", true),
        ("GPL-3.0 OR MIT", true),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
        ("MIT AND GPL-3.0", false),
        ("(MIT OR Apache-2.0) AND GPL-3.0", false),
        ("", false),
    ] {
        assert_eq!(is_allowed(expression, &allowed), is_good, "{expression}");
    }
}
