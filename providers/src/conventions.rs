//! The names that OpenTelemetry's conventions for generative AI have for whose models a wire leads to
//! (`gen_ai.provider.name`): <https://github.com/open-telemetry/semantic-conventions-genai>.
//! It must not know traces.

/// The kinds that are called otherwise there.
const NAMES: [(&str, &str); 8] = [
    ("azure", "azure.ai.openai"),
    ("bedrock", "aws.bedrock"),
    ("bedrock-anthropic", "aws.bedrock"),
    ("gemini", "gcp.gemini"),
    ("mistral", "mistral_ai"),
    ("moonshot", "moonshot_ai"),
    ("vertex", "gcp.vertex_ai"),
    ("xai", "x_ai"),
];

/// What the conventions call the provider behind this kind: a well-known name where they have one,
/// else the kind itself.
#[must_use]
pub fn semantic_name(kind: &'static str) -> &'static str {
    NAMES.iter().find(|(own, _)| *own == kind).map_or(kind, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_kinds_there_are() {
        for (kind, name) in NAMES {
            assert!(crate::provider(kind).is_some(), "there is no kind {kind}");
            assert_eq!(semantic_name(kind), name);
        }
        assert_eq!(semantic_name("openai"), "openai");
    }
}
