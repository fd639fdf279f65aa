//! The price table against the list of facts it was made from, where that list is at hand.
//! It must not know how the table is read or how names are resolved.

use choreoai::prices::{Price, Prices, Rate};
use providers::Tier;

/// The variable that names the list of price facts which `build.py` makes the table from.
const FACTS: &str = "PRICE_FACTS";

#[test]
fn the_table_is_what_its_script_makes_of_the_facts() {
    let Some(facts) = std::env::var_os(FACTS) else {
        println!("skipped: {FACTS} names no list of price facts");
        return;
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/src/prices/build.py");
    let made = std::process::Command::new("python3").arg(script).arg(&facts).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert_eq!(String::from_utf8(made.stdout).unwrap(), include_str!("../src/prices/table.tsv"), "run build.py again");

    let prices = Prices::builtin();
    let (mut found, mut unpriced) = (0, Vec::new());
    for line in std::fs::read_to_string(&facts).unwrap().lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = |key: &str| row.get(key).and_then(serde_json::Value::as_str).map(str::to_owned);
        let Some(input) = text("input_cost_per_token") else { continue };
        let (provider, name) = (text("provider").unwrap(), text("name").unwrap());
        let kind = match provider.as_str() {
            "azure_ai" => "azure",
            "bedrock_converse" => "bedrock",
            "cohere_chat" => "cohere",
            "fireworks_ai" => "fireworks",
            "together_ai" => "together",
            vertex if vertex.starts_with("vertex_ai") => "vertex",
            other => other,
        };
        let list = provider.split('-').next().unwrap();
        let bare = [list, kind].iter().find_map(|prefix| name.strip_prefix(prefix)?.strip_prefix('/')).unwrap_or(&name);
        let names: Vec<&str> = [name.as_str(), bare].into_iter().filter(|name| prices.knows(kind, name)).collect();
        let offers: Vec<_> = names.iter().filter_map(|name| prices.find(kind, "", name)).collect();
        if offers.is_empty() {
            unpriced.push(format!("{provider} {name}"));
            continue;
        }
        found += 1;
        let named = |key: &str| text(key).map(|price| price.parse::<Rate>().unwrap());
        let input = input.parse::<Rate>().unwrap();
        let output = named("output_cost_per_token");
        let exact = |price: &Price| {
            let rates = price.rates(Tier::Standard, 0);
            let output = output.unwrap_or(rates.output);
            let expected = [
                (rates.input, input),
                (rates.output, output),
                (rates.cache_read, named("cache_read_input_token_cost").unwrap_or(input)),
                (rates.cache_write, named("cache_creation_input_token_cost").unwrap_or(input)),
                (rates.audio_input, named("input_cost_per_audio_token").unwrap_or(input)),
                (rates.reasoning, named("output_cost_per_reasoning_token").unwrap_or(output)),
                (price.rates(Tier::Batch, 0).input, named("input_cost_per_token_batches").unwrap_or(input)),
                (price.rates(Tier::Priority, 0).input, named("input_cost_per_token_priority").unwrap_or(input)),
            ];
            expected.iter().all(|(found, expected)| found == expected)
        };
        // Two rows that share a bare name: one of them keeps its full name.
        assert!(offers.iter().any(|price| exact(price)), "{provider} {name}: {offers:?}");
    }
    println!("{found} rows have their price; {} have none: {unpriced:#?}", unpriced.len());
    assert!(found > 2_100 && unpriced.len() < 60);
}
