//! Providers that speak OpenAI's wire: one row each, and the adapter that all rows share.
//! It must not know how answers are brought into grammar; it says where to send what.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::Provider;
use crate::anthropic;
use crate::call::Endpoint::{self, Account, Completions, CountTokens, Embeddings, Messages, Passed, Responses};
use crate::call::{Answer, Auth, Call, Facts, StreamTranslator, Unsupported, UpstreamRequest};
use crate::error::{Refusal, UpstreamError};
use crate::failure;
use crate::frames::Framing;
use crate::grammar::{self, Ending};
use crate::json::{Scanner, Shape};
use crate::native::{completions, messages, passed, responses};
use crate::request::Edit;

/// One provider.
#[derive(Debug)]
pub(crate) struct Row {
    kind: &'static str,
    base_url: Option<&'static str>,
    key_variable: Option<&'static str>,
    /// Fields it knows under another name: OpenAI's, its own.
    renames: &'static [(&'static str, &'static str)],
    /// Fields it rejects and that only hint at how to answer.
    drops: &'static [&'static str],
    /// What it serves beside chat completions, in the words that OpenAI or Anthropic gave it.
    serves: &'static [Endpoint],
    /// Whether usage must be asked for on a stream; where not, `stream_options` is not understood
    /// and usage comes anyway (Mistral: with the last choice, Perplexity: in every chunk).
    asks_usage: bool,
    /// What `[DONE]` means there. Most providers were seen, at times, to end without it.
    ending: Ending,
}

/// What most rows say.
pub(crate) const USUAL: Row = Row {
    kind: "openai-compatible",
    base_url: None,
    key_variable: None,
    renames: &[],
    drops: &[],
    serves: ANYTHING,
    asks_usage: true,
    ending: Ending::Either,
};

/// A server of which nobody knows what it has: it says so itself.
const ANYTHING: &[Endpoint] = &[Embeddings, Completions, Responses, Messages, CountTokens];
const EMBEDDINGS: &[Endpoint] = &[Embeddings];
const COMPLETIONS: &[Endpoint] = &[Embeddings, Completions];
const OPENAIS: &[Endpoint] = &[Embeddings, Completions, Responses];
const ALL_BUT_COUNTS: &[Endpoint] = &[Embeddings, Completions, Responses, Messages];

/// For those who know the answer's limit by its older name only.
const OLDER_LIMIT: &[(&str, &str)] = &[("max_completion_tokens", "max_tokens")];

/// OpenAI's fields that Mistral, which refuses every field it does not know, does not know; those
/// that change what is answered are left in, so that it can say so itself.
const MISTRAL_DROPS: &[&str] = &[
    "logit_bias",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
    "verbosity",
];

/// Mistral, whose models are served by others in its words too.
pub(crate) const MISTRAL: Row = Row {
    kind: "mistral",
    renames: &[("seed", "random_seed"), ("max_completion_tokens", "max_tokens")],
    drops: MISTRAL_DROPS,
    asks_usage: false,
    ..hosted("https://api.mistral.ai/v1", "MISTRAL_API_KEY")
};

/// Every provider that speaks OpenAI's wire. A new one is one more row.
pub(crate) static ROWS: [Row; 32] = [
    Row { kind: "openai", serves: OPENAIS, ending: Ending::Marked, ..hosted("https://api.openai.com/v1", "OPENAI_API_KEY") },
    MISTRAL,
    Row { kind: "groq", serves: &[Responses], ..hosted("https://api.groq.com/openai/v1", "GROQ_API_KEY") },
    Row {
        kind: "deepseek",
        renames: OLDER_LIMIT,
        serves: &[Responses],
        ..hosted("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY")
    },
    Row { kind: "xai", serves: &[Responses], ..hosted("https://api.x.ai/v1", "XAI_API_KEY") },
    Row { kind: "openrouter", serves: ALL_BUT_COUNTS, ..hosted("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY") },
    Row {
        kind: "perplexity",
        renames: OLDER_LIMIT,
        asks_usage: false,
        ..hosted("https://api.perplexity.ai", "PERPLEXITY_API_KEY")
    },
    Row {
        kind: "together",
        renames: OLDER_LIMIT,
        serves: COMPLETIONS,
        ..hosted("https://api.together.xyz/v1", "TOGETHER_API_KEY")
    },
    Row {
        kind: "fireworks",
        renames: OLDER_LIMIT,
        serves: OPENAIS,
        ..hosted("https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY")
    },
    Row { kind: "cerebras", serves: &[Completions], ..hosted("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY") },
    Row { kind: "zai", renames: OLDER_LIMIT, ..hosted("https://api.z.ai/api/paas/v4", "ZAI_API_KEY") },
    Row { kind: "moonshot", renames: OLDER_LIMIT, serves: &[], ..hosted("https://api.moonshot.ai/v1", "MOONSHOT_API_KEY") },
    Row {
        kind: "dashscope",
        renames: OLDER_LIMIT,
        ..hosted("https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "DASHSCOPE_API_KEY")
    },
    Row { kind: "minimax", serves: &[], ..hosted("https://api.minimax.io/v1", "MINIMAX_API_KEY") },
    Row { kind: "sambanova", renames: OLDER_LIMIT, ..hosted("https://api.sambanova.ai/v1", "SAMBANOVA_API_KEY") },
    Row { kind: "nebius", serves: COMPLETIONS, ..hosted("https://api.tokenfactory.nebius.com/v1", "NEBIUS_API_KEY") },
    Row {
        kind: "deepinfra",
        renames: OLDER_LIMIT,
        serves: COMPLETIONS,
        ..hosted("https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY")
    },
    Row {
        kind: "hyperbolic",
        renames: OLDER_LIMIT,
        serves: &[Completions],
        ..hosted("https://api.hyperbolic.xyz/v1", "HYPERBOLIC_API_KEY")
    },
    Row {
        kind: "nvidia",
        renames: OLDER_LIMIT,
        serves: COMPLETIONS,
        ..hosted("https://integrate.api.nvidia.com/v1", "NVIDIA_API_KEY")
    },
    Row {
        kind: "vercel",
        renames: OLDER_LIMIT,
        serves: &[Embeddings, Responses],
        ..hosted("https://ai-gateway.vercel.sh/v1", "AI_GATEWAY_API_KEY")
    },
    // Not `GITHUB_TOKEN`: that is set wherever GitHub's own tools run, and would turn this on unasked.
    Row { kind: "github", ..hosted("https://models.github.ai/inference", "GITHUB_MODELS_API_KEY") },
    Row {
        kind: "huggingface",
        renames: OLDER_LIMIT,
        serves: &[Embeddings, Responses],
        ..hosted("https://router.huggingface.co/v1", "HF_TOKEN")
    },
    Row { kind: "tgi", renames: OLDER_LIMIT, serves: &[Completions], ..local("http://localhost:8080/v1") },
    // Its usual port is also the gateway's own, so its address must be named.
    Row { kind: "vllm", ..USUAL },
    Row { kind: "sglang", serves: OPENAIS, ..local("http://localhost:30000/v1") },
    Row { kind: "llamacpp", ..local("http://localhost:8080/v1") },
    Row { kind: "lmstudio", renames: OLDER_LIMIT, serves: ALL_BUT_COUNTS, ..local("http://localhost:1234/v1") },
    Row { kind: "mistralrs", renames: OLDER_LIMIT, serves: OPENAIS, ..local("http://localhost:1234/v1") },
    Row { kind: "localai", renames: OLDER_LIMIT, serves: COMPLETIONS, ..local("http://localhost:8080/v1") },
    Row { kind: "litellm", ..local("http://localhost:4000/v1") },
    Row { kind: "ollama-openai", renames: OLDER_LIMIT, serves: ALL_BUT_COUNTS, ..local("http://localhost:11434/v1") },
    USUAL,
];

const fn hosted(base_url: &'static str, key_variable: &'static str) -> Row {
    Row { base_url: Some(base_url), key_variable: Some(key_variable), serves: EMBEDDINGS, ..USUAL }
}

/// A server that people run themselves, at the address its own manual names; a key is optional.
const fn local(base_url: &'static str) -> Row {
    Row { base_url: Some(base_url), ..USUAL }
}

impl Provider for Row {
    fn facts(&self) -> Facts {
        Facts {
            kind: self.kind,
            base_url: self.base_url,
            auth: Auth::Bearer,
            key_variable: self.key_variable,
            serves: self.serves,
            health_path: "/models",
        }
    }

    /// Whoever speaks OpenAI's wire may have more of its API, and says so itself.
    fn serves(&self, endpoint: Endpoint) -> bool {
        matches!(endpoint, Endpoint::Chat | Passed | Account) || self.serves.contains(&endpoint)
    }

    fn is_maker(&self) -> bool {
        self.kind == "openai"
    }

    fn request(&self, call: &Call<'_>) -> Result<UpstreamRequest, Refusal> {
        let request = call.request;
        match call.endpoint {
            Messages | CountTokens => return anthropic::carry(call, call.endpoint.path()),
            Passed | Account => return Ok(passed::request(call)),
            Endpoint::Chat | Completions | Embeddings | Responses => {}
        }
        let mut edits = Vec::with_capacity(4);
        let model = (request.model != call.model).then(|| json_string(call.model));
        edits.extend(model.as_deref().map(|model| Edit::Set("model", model)));
        let mut dropped = Vec::new();
        let mut options = None;
        if call.endpoint == Endpoint::Chat {
            dropped = self.drops(call)?;
            edits.extend(dropped.iter().map(|field| Edit::Remove(field)));
            edits.extend(self.renamed(call));
        }
        if matches!(call.endpoint, Endpoint::Chat | Completions) {
            if request.stream && self.asks_usage && call.ask_usage {
                options = with_usage(request.field("stream_options"));
            } else if request.stream {
                edits.push(Edit::Remove("stream_options"));
            }
        }
        edits.extend(options.as_deref().map(|options| Edit::Set("stream_options", options)));
        let (path, headers) = (call.endpoint.path().to_owned(), request.headers.clone());
        let body = request.edited(&edits);
        Ok(UpstreamRequest { headers, dropped, ..UpstreamRequest::carry(path, body, Framing::Sse) })
    }

    fn answer(&self, call: &Call<'_>, headers: &HeaderMap, body: Bytes) -> Result<Answer, UpstreamError> {
        match call.endpoint {
            Endpoint::Chat => grammar::chat_answer(call, headers, body),
            Embeddings => grammar::embeddings_answer(headers, body),
            Completions => completions::answer(headers, body),
            Responses => responses::answer(headers, body),
            Messages => messages::answer(call, body),
            CountTokens => messages::count(headers, body),
            Passed | Account => Ok(passed::answer(call, body)),
        }
    }

    fn error(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> UpstreamError {
        failure::from_answer(status, headers, body)
    }

    fn stream(&self, call: &Call<'_>) -> Box<dyn StreamTranslator> {
        match call.endpoint {
            Completions => Box::new(completions::Stream::new(call, self.ending)),
            Responses => Box::new(responses::Stream::default()),
            Messages => Box::new(messages::Stream::new(call)),
            Passed | Account => Box::new(passed::Stream::new(call)),
            Endpoint::Chat | Embeddings | CountTokens => Box::new(grammar::Stream::new(call, self.ending)),
        }
    }
}

impl Row {
    /// The fields of this request that the provider would reject, and that may be left out.
    fn drops(&self, call: &Call<'_>) -> Result<Vec<&'static str>, Refusal> {
        let given: Vec<&'static str> = self.drops.iter().copied().filter(|field| call.request.field(field).is_some()).collect();
        match given.first() {
            Some(field) if call.account.unsupported == Unsupported::Reject => Err(Refusal::unsupported(self.kind, field)),
            _ => Ok(given),
        }
    }

    /// The provider's own names; where the client used those as well, they stand.
    fn renamed<'a>(&'a self, call: &Call<'a>) -> impl Iterator<Item = Edit<'a>> {
        let request = call.request;
        let given = self.renames.iter().filter(|(from, _)| request.field(from).is_some());
        given.map(|(from, to)| if request.field(to).is_some() { Edit::Remove(from) } else { Edit::Rename(from, to) })
    }
}

fn json_string(text: &str) -> Vec<u8> {
    serde_json::Value::from(text).to_string().into_bytes()
}

/// The client's `stream_options` with `include_usage` true and all else kept; `None` when it is so.
fn with_usage(given: Option<&[u8]>) -> Option<Vec<u8>> {
    let mut found = None;
    let mut members = 0;
    let object = given.filter(|object| {
        let visited = Scanner::new(object).object(|member| {
            members += 1;
            if object[member.key.clone()] == *b"\"include_usage\"" {
                found = Some((member.value, member.shape));
            }
        });
        visited.is_ok()
    });
    let Some(object) = object else { return Some(b"{\"include_usage\":true}".to_vec()) };
    let (at, put): (_, &[u8]) = match found {
        Some((_, Shape::True)) => return None,
        Some((value, _)) => (value, b"true"),
        None => (
            object.len() - 1..object.len() - 1,
            if members == 0 { b"\"include_usage\":true" } else { b",\"include_usage\":true" },
        ),
    };
    Some([&object[..at.start], put, &object[at.end..]].concat())
}
