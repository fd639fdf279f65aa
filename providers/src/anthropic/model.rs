//! What each generation of Claude accepts, read from a model's name, whichever host serves it
//! (`claude-sonnet-4-5`, `us.anthropic.claude-3-7-sonnet-20250219-v1:0`, `claude-opus-5@20260701`).
//! It must not know the rest of a request.

/// The families that differ in what they accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Haiku,
    Sonnet,
    Opus,
    /// Fable and Mythos: thinking cannot be turned off.
    Fable,
    /// Claude 2 and Instant, or a name that is not known: nothing is assumed.
    Other,
}

/// A Claude model, as far as requests must differ by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Model {
    family: Family,
    /// Major and minor version; (0, 0) when the name tells none.
    version: (u32, u32),
}

/// How a model is told to think.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Thinking {
    /// It cannot.
    Never,
    /// With a budget of tokens.
    Budget,
    /// It decides itself, advised by an effort.
    Adaptive,
}

/// How thinking is turned off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Off {
    /// It is off unless asked for.
    Already,
    /// `thinking.type` is set to this.
    Say(&'static str),
    /// It cannot be turned off.
    Impossible,
}

impl Model {
    /// The model of this name.
    pub(crate) fn named(name: &str) -> Self {
        let name = name.to_ascii_lowercase();
        let Some(at) = name.find("claude") else { return Self { family: Family::Other, version: (0, 0) } };
        let words: Vec<&str> = name[at..].split(['-', '@', ':', '.', '/']).skip(1).collect();
        let family = match words.iter().find_map(|word| family_named(word)) {
            Some(family) => family,
            None => return Self { family: Family::Other, version: (0, 0) },
        };
        let mut numbers = words.iter().filter_map(|word| version_number(word));
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        Self { family, version }
    }

    fn since(self, major: u32, minor: u32) -> bool {
        self.family != Family::Other && self.version >= (major, minor)
    }

    /// Whether `output_config.format` holds it to a JSON Schema, and tools may be `strict`.
    pub(crate) fn has_structured_output(self) -> bool {
        self.since(4, 5) || self.family == Family::Fable
    }

    /// How it is told to think.
    pub(crate) fn thinking(self) -> Thinking {
        match self.family {
            Family::Other => Thinking::Never,
            Family::Fable => Thinking::Adaptive,
            _ if self.since(4, 6) => Thinking::Adaptive,
            _ if self.since(3, 7) => Thinking::Budget,
            _ => Thinking::Never,
        }
    }

    /// How thinking is turned off.
    pub(crate) fn off(self) -> Off {
        match self.family {
            Family::Fable => Off::Impossible,
            Family::Opus if self.since(5, 5) => Off::Impossible,
            Family::Sonnet if self.since(5, 5) => Off::Say("between_tools"),
            _ if self.since(5, 0) => Off::Say("disabled"),
            _ => Off::Already,
        }
    }

    /// The effort nearest to `asked` that it knows and that is not above it.
    pub(crate) fn effort(self, asked: &str) -> &'static str {
        let has_xhigh = self.family == Family::Fable || self.since(4, 7);
        match asked {
            "none" | "minimal" | "low" => "low",
            "medium" => "medium",
            "xhigh" if has_xhigh => "xhigh",
            "max" => "max",
            _ => "high",
        }
    }

    /// Whether temperature, `top_p` and `top_k` may be set.
    pub(crate) fn can_sample(self) -> bool {
        let removed = match self.family {
            Family::Fable => true,
            Family::Opus => self.since(4, 7),
            Family::Sonnet => self.since(5, 0),
            Family::Haiku => self.since(5, 0),
            Family::Other => false,
        };
        !removed
    }

    /// Whether temperature and `top_p` may be set together.
    pub(crate) fn takes_both_samplers(self) -> bool {
        !self.since(4, 1)
    }

    /// Whether a tool call can be forced.
    pub(crate) fn can_force_tools(self) -> bool {
        !match self.family {
            Family::Fable => self.since(5, 1),
            Family::Opus | Family::Sonnet => self.since(5, 5),
            Family::Haiku | Family::Other => false,
        }
    }

    /// The most tokens an answer may have; the API wants the number with every request.
    pub(crate) fn max_output(self) -> u64 {
        match self.family {
            Family::Fable => 128_000,
            Family::Other => 4096,
            Family::Haiku if self.since(4, 0) && !self.since(5, 0) => 64_000,
            Family::Sonnet if self.since(4, 0) && !self.since(5, 0) => 64_000,
            Family::Opus if self.since(4, 5) && !self.since(4, 6) => 64_000,
            Family::Opus if self.since(4, 0) && !self.since(4, 5) => 32_000,
            _ if self.since(4, 0) => 128_000,
            _ if self.since(3, 7) => 64_000,
            _ if self.since(3, 5) => 8192,
            _ => 4096,
        }
    }
}

fn family_named(word: &str) -> Option<Family> {
    match word {
        "haiku" => Some(Family::Haiku),
        "sonnet" => Some(Family::Sonnet),
        "opus" => Some(Family::Opus),
        "fable" | "mythos" => Some(Family::Fable),
        _ => None,
    }
}

/// A word that is a version number and not a date (`20250929`) or a revision (`v1`).
fn version_number(word: &str) -> Option<u32> {
    if word.len() > 2 { None } else { word.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_host_give_the_same_model() {
        for (name, version) in [
            ("claude-sonnet-4-5-20250929", (4, 5)),
            ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", (4, 5)),
            ("anthropic/claude-sonnet-4.5", (4, 5)),
            ("claude-3-7-sonnet@20250219", (3, 7)),
            ("anthropic.claude-3-sonnet-20240229-v1:0", (3, 0)),
            ("claude-3-5-sonnet-latest", (3, 5)),
            ("claude-sonnet-4-20250514", (4, 0)),
            ("claude-sonnet-5", (5, 0)),
        ] {
            assert_eq!(Model::named(name), Model { family: Family::Sonnet, version }, "{name}");
        }
        assert_eq!(Model::named("claude-mythos-preview").family, Family::Fable);
        for name in ["claude-2.1", "anthropic.claude-instant-v1", "amazon.nova-lite-v1:0", "my-model"] {
            assert_eq!(Model::named(name).family, Family::Other, "{name}");
        }
    }

    #[test]
    fn each_generation_has_its_rules() {
        let rules = |name: &str| {
            let model = Model::named(name);
            (model.thinking(), model.can_sample(), model.has_structured_output(), model.can_force_tools(), model.max_output())
        };
        assert_eq!(rules("claude-3-opus-20240229"), (Thinking::Never, true, false, true, 4096));
        assert_eq!(rules("claude-3-7-sonnet-20250219"), (Thinking::Budget, true, false, true, 64_000));
        assert_eq!(rules("claude-opus-4-1-20250805"), (Thinking::Budget, true, false, true, 32_000));
        assert_eq!(rules("claude-haiku-4-5"), (Thinking::Budget, true, true, true, 64_000));
        assert_eq!(rules("claude-opus-4-6"), (Thinking::Adaptive, true, true, true, 128_000));
        assert_eq!(rules("claude-opus-4-7"), (Thinking::Adaptive, false, true, true, 128_000));
        assert_eq!(rules("claude-sonnet-5"), (Thinking::Adaptive, false, true, true, 128_000));
        assert_eq!(rules("claude-opus-5-5"), (Thinking::Adaptive, false, true, false, 128_000));
        assert_eq!(rules("claude-mythos-preview"), (Thinking::Adaptive, false, true, true, 128_000));
    }

    #[test]
    fn an_effort_is_never_raised_above_what_was_asked() {
        assert_eq!(Model::named("claude-opus-4-6").effort("xhigh"), "high");
        assert_eq!(Model::named("claude-opus-4-7").effort("xhigh"), "xhigh");
        assert_eq!(Model::named("claude-opus-4-6").effort("minimal"), "low");
    }
}
