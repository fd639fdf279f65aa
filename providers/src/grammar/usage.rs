//! Reads the `usage` object of an answer in OpenAI's wire, as any of the dialects writes it, and
//! mends it for the client. Numbers may be null, missing, text or floats; nothing of that is a fault.
//! It must not know where in an answer the object stood.

use serde_json::{Map, Value};

use crate::json::{Fault, Scanner, Shape};
use crate::usage::Usage;

/// What a `usage` object says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reported {
    /// In the one meaning the gateway shares.
    pub usage: Usage,
    /// Whether the object is as OpenAI would have written it, so that the client can have it untouched.
    pub is_plain: bool,
}

/// xAI counts money in ticks of 10⁻¹⁰ USD.
const PICO_USD_PER_TICK: u64 = 100;

#[derive(Debug, Default)]
struct Counts {
    prompt: Option<u64>,
    completion: Option<u64>,
    total: Option<u64>,
    cached: Option<u64>,
    written: Option<u64>,
    written_5m: Option<u64>,
    written_1h: Option<u64>,
    reasoning: Option<u64>,
    audio_in: Option<u64>,
    audio_out: Option<u64>,
    image_in: Option<u64>,
    image_out: Option<u64>,
    cost: Option<u64>,
    has_floats: bool,
    /// The parts that stand where OpenAI has them: cached, written, reasoning.
    in_place: [Option<u64>; 3],
}

/// Reads a `usage` object; `None` when it counts nothing (null, empty, only nulls).
pub(crate) fn read(raw: &[u8]) -> Option<Reported> {
    pass(raw, &mut Scanner::new(raw)).ok()?
}

/// Reads the `usage` object that begins where `scanner` stands in `raw`, and passes it.
///
/// # Errors
/// A [`Fault`] where the text stops being JSON, or is not an object.
pub(crate) fn pass(raw: &[u8], scanner: &mut Scanner<'_>) -> Result<Option<Reported>, Fault> {
    let mut counts = Counts::default();
    scanner.members(|scanner, key| counts.top(key, scanner, raw))?;
    Ok(counts.settle())
}

/// The object with the three totals and their parts as OpenAI means them and where OpenAI has them;
/// everything else as it came.
pub(crate) fn mend(object: &mut Map<String, Value>, usage: &Usage) {
    object.insert("prompt_tokens".to_owned(), Value::from(usage.input));
    object.insert("completion_tokens".to_owned(), Value::from(usage.output));
    object.insert("total_tokens".to_owned(), Value::from(usage.input.saturating_add(usage.output)));
    let written = usage.cache_write.saturating_add(usage.cache_write_1h);
    tell_part(object, "prompt_tokens_details", "cached_tokens", usage.cache_read);
    tell_part(object, "prompt_tokens_details", "cache_write_tokens", written);
    tell_part(object, "completion_tokens_details", "reasoning_tokens", usage.reasoning);
}

/// Puts a part in its place; a part of nothing need not be told, unless something else was.
fn tell_part(object: &mut Map<String, Value>, details: &str, name: &str, count: u64) {
    let told = object.get(details).and_then(|details| details.get(name)).and_then(Value::as_u64);
    if told.unwrap_or(0) == count {
        return;
    }
    let details = object.entry(details).or_insert_with(|| Value::Object(Map::new()));
    if !details.is_object() {
        *details = Value::Object(Map::new());
    }
    details[name] = Value::from(count);
}

impl Counts {
    fn top(&mut self, key: &[u8], scanner: &mut Scanner<'_>, raw: &[u8]) -> Result<(), Fault> {
        if scanner.shape() == Some(Shape::Object)
            && let Some((read, is_in_place)) = inner(key)
        {
            let in_place = self.in_place;
            scanner.members(|scanner, key| {
                let (value, _) = scanner.value()?;
                read(self, key, &raw[value]);
                Ok(())
            })?;
            if !is_in_place {
                self.in_place = in_place;
            }
            return Ok(());
        }
        let (value, shape) = scanner.value()?;
        let text = &raw[value];
        match key {
            b"prompt_tokens" => self.prompt = self.count(text),
            b"completion_tokens" => self.completion = self.count(text),
            b"total_tokens" => self.total = self.count(text),
            b"input_tokens" if self.prompt.is_none() => self.prompt = self.part(text),
            b"output_tokens" if self.completion.is_none() => self.completion = self.part(text),
            b"prompt_cache_hit_tokens" | b"num_cached_tokens" | b"cached_tokens" | b"cache_read_input_tokens" => {
                self.cached = self.cached.max(number(text));
            }
            b"cache_creation_input_tokens" => self.written = self.written.max(number(text)),
            b"reasoning_tokens" => self.reasoning = self.reasoning.max(number(text)),
            b"cost_in_usd_ticks" => self.cost = number(text).and_then(|ticks| ticks.checked_mul(PICO_USD_PER_TICK)),
            b"cost" if shape == Shape::Number => self.cost = pico_usd(text),
            _ => {}
        }
        Ok(())
    }

    fn prompt_part(&mut self, key: &[u8], text: &[u8]) {
        match key {
            b"cached_tokens" => {
                self.in_place[0] = number(text);
                self.cached = self.cached.max(self.in_place[0]);
            }
            b"cache_write_tokens" => {
                self.in_place[1] = number(text);
                self.written = self.written.max(self.in_place[1]);
            }
            b"cache_creation_tokens" | b"cache_creation_input_tokens" => {
                self.written = self.written.max(number(text));
            }
            b"audio_tokens" => self.audio_in = number(text),
            b"image_tokens" => self.image_in = number(text),
            _ => {}
        }
    }

    fn completion_part(&mut self, key: &[u8], text: &[u8]) {
        match key {
            b"reasoning_tokens" => {
                self.in_place[2] = number(text);
                self.reasoning = self.reasoning.max(self.in_place[2]);
            }
            b"audio_tokens" => self.audio_out = number(text),
            b"image_tokens" => self.image_out = number(text),
            _ => {}
        }
    }

    fn written_part(&mut self, key: &[u8], text: &[u8]) {
        match key {
            b"ephemeral_5m_input_tokens" => self.written_5m = number(text),
            b"ephemeral_1h_input_tokens" => self.written_1h = number(text),
            _ => {}
        }
    }

    fn cost_part(&mut self, key: &[u8], text: &[u8]) {
        if key == b"total_cost" {
            self.cost = pico_usd(text);
        }
    }

    /// One of the three totals: remembers whether a client could read it as an integer.
    fn count(&mut self, text: &[u8]) -> Option<u64> {
        let count = number(text);
        self.has_floats |= count.is_some() && !text.iter().all(u8::is_ascii_digit);
        count
    }

    /// A total under a name that is not OpenAI's.
    fn part(&mut self, text: &[u8]) -> Option<u64> {
        self.has_floats = true;
        number(text)
    }

    fn settle(self) -> Option<Reported> {
        let told = (self.prompt, self.completion, self.total);
        let (prompt, completion) = match told {
            (None, None, None) => return None,
            (prompt, Some(completion), Some(total)) => (prompt.unwrap_or(total.saturating_sub(completion)), completion),
            (Some(prompt), None, Some(total)) => (prompt, total.saturating_sub(prompt)),
            (prompt, completion, total) => (prompt.or(total).unwrap_or(0), completion.unwrap_or(0)),
        };
        let reasoning = self.reasoning.unwrap_or(0);
        let output = completion.saturating_add(if self.excludes_reasoning(prompt, completion) { reasoning } else { 0 });
        let cache_read = self.cached.unwrap_or(0).min(prompt);
        let cache_write_1h = self.written_1h.unwrap_or(0).min(prompt - cache_read);
        let short = self.written_5m.unwrap_or(0).max(self.written.unwrap_or(0).saturating_sub(cache_write_1h));
        let usage = Usage {
            input: prompt,
            output,
            cache_read,
            cache_write: short.min(prompt - cache_read - cache_write_1h),
            cache_write_1h,
            reasoning: reasoning.min(output),
            audio_in: self.audio_in.unwrap_or(0).min(prompt),
            audio_out: self.audio_out.unwrap_or(0).min(output),
            image_in: self.image_in.unwrap_or(0).min(prompt),
            image_out: self.image_out.unwrap_or(0).min(output),
            reported_cost: self.cost,
            ..Usage::default()
        };
        let as_told = told == (Some(usage.input), Some(usage.output), Some(usage.input.saturating_add(usage.output)));
        let parts = [usage.cache_read, usage.cache_write + usage.cache_write_1h, usage.reasoning];
        let in_place = self.in_place.map(Option::unwrap_or_default) == parts;
        Some(Reported { usage, is_plain: as_told && in_place && !self.has_floats })
    }

    /// xAI, and gateways in front of Gemini, count reasoning beside `completion_tokens`. The numbers
    /// tell: the total needs it, or the part would be larger than the whole by more than the rounding
    /// of a gateway that counts again (OpenRouter was seen to tell 11 of 10).
    fn excludes_reasoning(&self, prompt: u64, completion: u64) -> bool {
        let reasoning = self.reasoning.unwrap_or(0);
        let with = prompt.saturating_add(completion).saturating_add(reasoning);
        let rounding = completion / 8 + 1;
        reasoning > completion.saturating_add(rounding) || (reasoning > 0 && self.total == Some(with))
    }
}

/// Takes in one part that stands in an object of its own: its name, its JSON.
type ReadPart = fn(&mut Counts, &[u8], &[u8]);

/// How the parts in the object of this name are read, and whether that is where a chat's client looks for them:
/// OpenAI's newer APIs have other names.
fn inner(key: &[u8]) -> Option<(ReadPart, bool)> {
    match key {
        b"prompt_tokens_details" => Some((Counts::prompt_part, true)),
        b"completion_tokens_details" => Some((Counts::completion_part, true)),
        b"input_tokens_details" | b"input_token_details" => Some((Counts::prompt_part, false)),
        b"output_tokens_details" | b"output_token_details" => Some((Counts::completion_part, false)),
        b"cache_creation" => Some((Counts::written_part, true)),
        b"cost" => Some((Counts::cost_part, true)),
        _ => None,
    }
}

/// A count: an integer, or a float that some provider wrote for one. Text, null and negatives are none.
fn number(text: &[u8]) -> Option<u64> {
    let plain = text.iter().try_fold(0_u64, |sum, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 { None } else { sum.checked_mul(10)?.checked_add(digit.into()) }
    });
    plain.filter(|_| !text.is_empty()).or_else(|| scaled(std::str::from_utf8(text).ok()?, 0))
}

/// Money as decimal text in USD, in 10⁻¹² USD, exactly; digits beyond that are rounded.
fn pico_usd(text: &[u8]) -> Option<u64> {
    scaled(std::str::from_utf8(text).ok()?, 12)
}

/// `text`, a JSON number, times 10^`places`, rounded half up; `None` when negative or too large.
fn scaled(text: &str, places: i32) -> Option<u64> {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let fraction = &fraction[..fraction.len().min(30)];
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let shift = exponent.parse::<i32>().ok()?.checked_add(places)?.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    let power = |shift: u32| 10_u128.checked_pow(shift);
    let value = if shift >= 0 {
        if digits == 0 { 0 } else { digits.checked_mul(power(shift.unsigned_abs())?)? }
    } else {
        power(shift.unsigned_abs()).map_or(0, |divisor| digits.saturating_add(divisor / 2) / divisor)
    };
    u64::try_from(value).ok()
}
