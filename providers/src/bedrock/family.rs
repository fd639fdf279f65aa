//! Who made a model on Bedrock, read from its id; the makers' models differ in what they accept beyond
//! Converse's common fields. An ARN of an inference profile tells nothing, and nothing is assumed.
//! It must not know the rest of a request.

use crate::anthropic::model::Model;

/// How a model is told how hard to think.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reasoning {
    /// In Anthropic's words.
    Claude,
    /// As OpenAI's `reasoning_effort`.
    Effort,
    /// As Nova's `reasoningConfig`.
    Nova,
    /// It has no switch that is known.
    None,
}

/// A model on Bedrock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Family<'a> {
    id: &'a str,
    /// The model in Anthropic's terms; assumes nothing for other makers.
    pub(super) claude: Model,
}

/// Makers whose models are held to a schema by `outputConfig`.
const STRUCTURED: [&str; 9] = ["openai.", "qwen.", "deepseek.", "mistral.", "google.", "nvidia.", "moonshot", "minimax.", "zai."];

impl<'a> Family<'a> {
    /// The family of the model with this id.
    pub(super) fn of(id: &'a str) -> Self {
        Self { id, claude: Model::named(id) }
    }

    /// Whether Anthropic made it.
    pub(super) fn is_claude(self) -> bool {
        self.id.contains("anthropic.") || self.id.contains("claude")
    }

    /// How it is told to think.
    pub(super) fn reasoning(self) -> Reasoning {
        if self.is_claude() {
            Reasoning::Claude
        } else if self.id.contains("openai.") {
            Reasoning::Effort
        } else if self.id.contains("nova-2") {
            Reasoning::Nova
        } else {
            Reasoning::None
        }
    }

    /// Whether `outputConfig` holds it to a schema.
    pub(super) fn has_structured_output(self) -> bool {
        self.claude.has_structured_output() || STRUCTURED.iter().any(|maker| self.id.contains(maker))
    }
}
