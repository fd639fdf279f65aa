//! The scanner, held against serde_json: both must accept and refuse the same texts.
//! It must not know what the JSON is about.

use providers::json::{Fault, MAX_DEPTH, Scanner, Shape, append_text, text};
use serde_json::Value;

use crate::chance::Chance;

fn scan(bytes: &[u8]) -> Result<Shape, Fault> {
    let mut scanner = Scanner::new(bytes);
    let (_, shape) = scanner.value()?;
    scanner.end()?;
    Ok(shape)
}

#[test]
fn it_accepts_and_refuses_what_serde_does() {
    let good = [
        "{}",
        "[]",
        "\"\"",
        "0",
        "-0",
        "-0.0",
        "1e5",
        "1E+5",
        "1.25e-7",
        "true",
        "false",
        "null",
        " [ 1 , { \"a\" : [ ] } ] ",
        "\"\\u00e9\\n\\\"\\\\\\/\\b\\f\\r\\t\"",
        "{\"a\":{\"b\":{\"c\":[1,2,{\"d\":null}]}}}",
        "\"\\ud83d\\ude00\"",
        "\"é\u{10ffff}\"",
        "123456789012345678901234567890",
    ];
    let bad = [
        "",
        " ",
        "{",
        "}",
        "[",
        "]",
        "[1,]",
        "{\"a\":1,}",
        "{,}",
        "[,]",
        "{\"a\"}",
        "{\"a\":}",
        "{a:1}",
        "01",
        "1.",
        ".5",
        "-",
        "+1",
        "1e",
        "1e+",
        "tru",
        "nul",
        "truex",
        "\"",
        "\"\\\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"\n\"",
        "\"\u{1}\"",
        "[1 2]",
        "{\"a\":1 \"b\":2}",
        "1 2",
        "{}{}",
        "'a'",
        "NaN",
        "Infinity",
        "[1]]",
        "\u{feff}{}",
    ];
    for json in good {
        assert!(serde_json::from_str::<Value>(json).is_ok(), "serde refuses {json}");
        assert!(scan(json.as_bytes()).is_ok(), "{json} is refused: {:?}", scan(json.as_bytes()));
    }
    for json in bad {
        assert!(serde_json::from_str::<Value>(json).is_err(), "serde accepts {json}");
        assert!(scan(json.as_bytes()).is_err(), "{json} is accepted");
    }
}

#[test]
fn bent_texts_are_judged_as_serde_judges_them() {
    let seed = r#"{"a":[1,-2.5e3,"x\n\u00e9",true,null,{"b":{}}],"c":"\\\"","d":[[],[[0]]]}"#;
    let mut chance = Chance(7);
    for _ in 0..30_000 {
        let mut bytes = seed.as_bytes().to_vec();
        for _ in 0..=chance.below(3) {
            let at = chance.below(bytes.len());
            match chance.below(3) {
                0 => drop(bytes.remove(at)),
                1 => bytes.insert(at, chance.pick(b"\"\\{}[]:,0-e. tn")),
                _ => bytes[at] = chance.pick(b"\"\\{}[]:,0-e. tn"),
            }
        }
        let serde = serde_json::from_slice::<Value>(&bytes);
        // A number too large for a float is JSON all the same.
        let is_json = serde.as_ref().map_or_else(|fault| fault.to_string().contains("out of range"), |_| true);
        let is_escape = serde.as_ref().is_err_and(|fault| fault.to_string().contains("surrogate"));
        assert_eq!(scan(&bytes).is_ok(), is_json || is_escape, "{}: {serde:?}", String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn a_text_cut_anywhere_is_a_fault_and_never_a_panic() {
    let whole = br#"{"a":[1.5e-3,"x\n\ud83d\ude00",true,false,null,{"b":[]}]}"#;
    for cut in 0..whole.len() {
        assert!(scan(&whole[..cut]).is_err(), "cut at {cut}");
        for at in 0..=cut {
            let _ = Scanner::at(&whole[..cut], at).value();
        }
    }
    assert_eq!(scan(whole), Ok(Shape::Object));
}

#[test]
fn deep_nesting_is_a_fault_not_a_stack_overflow() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let nested =
            |depth: usize| format!("{}{}{}", open.repeat(depth), if open == "[" { "" } else { "1" }, close.repeat(depth));
        assert!(scan(nested(MAX_DEPTH as usize).as_bytes()).is_ok());
        assert!(matches!(scan(nested(MAX_DEPTH as usize + 1).as_bytes()), Err(Fault::TooDeep(_))));
        assert!(matches!(scan(nested(10_000).as_bytes()), Err(Fault::TooDeep(_))));
        assert!(matches!(scan(open.repeat(1_000_000).as_bytes()), Err(Fault::TooDeep(_))));
    }
}

#[test]
fn members_are_found_where_they_stand() {
    let json = br#" { "a" : 1 , "b":[2,{"a":3}], "c":"x" } "#;
    let mut seen = Vec::new();
    Scanner::new(json)
        .object(|member| seen.push((json[member.key].to_vec(), json[member.value].to_vec(), member.shape)))
        .unwrap();
    let expected: [(&[u8], &[u8], Shape); 3] =
        [(b"\"a\"", b"1", Shape::Number), (b"\"b\"", b"[2,{\"a\":3}]", Shape::Array), (b"\"c\"", b"\"x\"", Shape::String)];
    assert_eq!(seen, expected.map(|(key, value, shape)| (key.to_vec(), value.to_vec(), shape)));
}

#[test]
fn escapes_become_text_as_with_serde_and_half_pairs_become_a_mark() {
    let escapes = [r#""plain""#, r#""""#, r#""\"\\\/\b\f\n\r\t""#, r#""a\u00e9b\u4e2d""#, r#""\ud83d\ude00!""#, r#""é\n中""#];
    for quoted in escapes {
        let expected: String = serde_json::from_str(quoted).unwrap();
        let mut out = String::from(">");
        append_text(quoted, &mut out);
        assert_eq!(out, format!(">{expected}"));
        assert_eq!(text(quoted.as_bytes()).unwrap(), expected);
    }
    for (quoted, expected) in [
        (r#""a\ud83d""#, "a\u{fffd}"),
        (r#""\ude00b""#, "\u{fffd}b"),
        (r#""\ud83dx\ude00""#, "\u{fffd}x\u{fffd}"),
        (r#""\ud83d\n""#, "\u{fffd}\n"),
    ] {
        let mut out = String::new();
        append_text(quoted, &mut out);
        assert_eq!(out, expected);
    }
}

#[test]
fn embedded_files_are_not_counted_as_text() {
    let count = |json: &str| {
        let mut scanner = Scanner::new(json.as_bytes());
        scanner.value().unwrap();
        scanner.string_bytes()
    };
    assert_eq!(count(r#"{"key":"four","list":["12345",{"x":"6"}]}"#), 10);
    assert_eq!(count(&format!(r#"["data:image/png;base64,{}","abc"]"#, "A".repeat(5000))), 3);
    assert_eq!(count(&format!(r#"["{}"]"#, "QUJD".repeat(1000))), 0);
    assert_eq!(count(&format!(r#"["{}"]"#, "word ".repeat(1000))), 5000);
}
