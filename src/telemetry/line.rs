//! One log event as one line of JSON, under the field names that log tools expect.
//! It must not know which events there are.

use std::cell::RefCell;
use std::fmt::{self, Write};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Writes `timestamp`, `level`, `logger`, then every field of the event.
pub(super) struct JsonLine {
    /// Whether `file`, `line` and `thread` are written as well.
    pub(super) with_source: bool,
}

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(&self, _context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        timestamp(&mut writer, SystemTime::now())?;
        for part in [",\"level\":\"", metadata.level().as_str(), "\",\"logger\":\"", metadata.target(), "\""] {
            writer.write_str(part)?;
        }
        if self.with_source {
            let thread = std::thread::current();
            let (file, line) = (metadata.file().unwrap_or_default(), metadata.line().unwrap_or_default());
            write!(writer, ",\"file\":\"")?;
            escape(&mut writer, file)?;
            write!(writer, "\",\"line\":{line},\"thread\":\"{}\"", thread.name().unwrap_or_default())?;
        }
        let mut fields = Fields { writer: &mut writer, result: Ok(()) };
        event.record(&mut fields);
        fields.result?;
        writer.write_str("}\n")
    }
}

/// Opens the line with the time. Whole seconds are spelled out once for all lines of a thread that fall
/// into them.
fn timestamp(writer: &mut Writer<'_>, now: SystemTime) -> fmt::Result {
    thread_local! {
        static SPELLED: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
    }
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    writer.write_str("{\"timestamp\":\"")?;
    SPELLED.with_borrow_mut(|(second, text)| {
        if *second != since.as_secs() {
            *second = since.as_secs();
            text.clear();
            write!(text, "{}", humantime::format_rfc3339_seconds(now))?;
        }
        writer.write_str(text.strip_suffix('Z').unwrap_or(text))
    })?;
    let mut digits = *b".000000Z\"";
    let mut micros = since.subsec_micros();
    for digit in digits[1..7].iter_mut().rev() {
        *digit += (micros % 10) as u8;
        micros /= 10;
    }
    writer.write_str(str::from_utf8(&digits).map_err(|_| fmt::Error)?)
}

struct Fields<'w, 'a> {
    writer: &'w mut Writer<'a>,
    result: fmt::Result,
}

impl Fields<'_, '_> {
    /// Writes a field whose value needs no escapes, between `open` and `close`.
    fn plain(&mut self, field: &Field, [open, value, close]: [&str; 3]) {
        for part in [",\"", field.name(), "\":", open, value, close] {
            if self.result.is_ok() {
                self.result = self.writer.write_str(part);
            }
        }
    }

    fn text(&mut self, field: &Field, value: &str) {
        if !value.bytes().any(is_escaped) {
            return self.plain(field, ["\"", value, "\""]);
        }
        self.plain(field, ["\"", "", ""]);
        if self.result.is_ok() {
            self.result = escape(self.writer, value).and_then(|()| self.writer.write_char('"'));
        }
    }
}

impl Visit for Fields<'_, '_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.plain(field, ["", &value.to_string(), ""]);
        } else {
            self.plain(field, ["", "null", ""]);
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.plain(field, ["", &value.to_string(), ""]);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.plain(field, ["", &value.to_string(), ""]);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.plain(field, ["", if value { "true" } else { "false" }, ""]);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, &format!("{value:?}"));
    }
}

const fn is_escaped(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// The text with everything escaped that JSON strings must escape.
fn escape(writer: &mut Writer<'_>, text: &str) -> fmt::Result {
    let mut plain_from = 0;
    for (at, byte) in text.bytes().enumerate() {
        if !is_escaped(byte) {
            continue;
        }
        writer.write_str(&text[plain_from..at])?;
        plain_from = at + 1;
        match byte {
            b'"' => writer.write_str("\\\"")?,
            b'\\' => writer.write_str("\\\\")?,
            b'\n' => writer.write_str("\\n")?,
            other => write!(writer, "\\u{other:04x}")?,
        }
    }
    writer.write_str(&text[plain_from..])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_time_is_written_to_the_microsecond() {
        let at = |micros| {
            let mut text = String::new();
            timestamp(&mut Writer::new(&mut text), SystemTime::UNIX_EPOCH + Duration::from_micros(micros)).unwrap();
            text
        };
        assert_eq!(at(1_760_000_000_000_042), "{\"timestamp\":\"2025-10-09T08:53:20.000042Z\"");
        assert_eq!(at(1_760_000_000_999_999), "{\"timestamp\":\"2025-10-09T08:53:20.999999Z\"");
        assert_eq!(at(1_760_000_001_120_000), "{\"timestamp\":\"2025-10-09T08:53:21.120000Z\"");
    }
}
