//! One log event as one line of JSON, under the field names that log tools expect.
//! It must not know which events there are.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::decimal;

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
        on_a_line(|line| {
            self.spell(line, event);
            writer.write_str(line)
        })
    }
}

/// Lends a line that is put together in one place and written in one piece: each write through a [`Writer`] is a call
/// through a table. A value that logs while it is being spelled has a line of its own.
fn on_a_line<T>(write: impl FnOnce(&mut String) -> T) -> T {
    thread_local! {
        static LINE: Cell<String> = const { Cell::new(String::new()) };
    }
    let mut line = LINE.take();
    line.clear();
    let written = write(&mut line);
    LINE.set(line);
    written
}

impl JsonLine {
    fn spell(&self, line: &mut String, event: &Event<'_>) {
        let metadata = event.metadata();
        timestamp(line, SystemTime::now());
        for part in [",\"level\":\"", metadata.level().as_str(), "\",\"logger\":\"", metadata.target(), "\""] {
            line.push_str(part);
        }
        let mut fields = Fields(line);
        if self.with_source {
            fields.text("file", metadata.file().unwrap_or_default());
            fields.number("line", metadata.line().unwrap_or_default().into());
            fields.text("thread", std::thread::current().name().unwrap_or_default());
        }
        event.record(&mut fields);
        line.push_str("}\n");
    }
}

/// Opens the line with the time. Whole seconds are spelled out once for all lines of a thread that fall
/// into them.
fn timestamp(line: &mut String, now: SystemTime) {
    thread_local! {
        static SPELLED: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
    }
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    line.push_str("{\"timestamp\":\"");
    SPELLED.with_borrow_mut(|(second, text)| {
        if *second != since.as_secs() {
            *second = since.as_secs();
            *text = humantime::format_rfc3339_seconds(now).to_string();
        }
        line.push_str(text.strip_suffix('Z').unwrap_or(text));
    });
    line.push('.');
    decimal::whole(line, since.subsec_micros().into(), 6);
    line.push_str("Z\"");
}

struct Fields<'a>(&'a mut String);

impl Fields<'_> {
    fn name(&mut self, name: &str) {
        for part in [",\"", name, "\":"] {
            self.0.push_str(part);
        }
    }

    fn plain(&mut self, name: &str, value: &str) {
        self.name(name);
        self.0.push_str(value);
    }

    fn number(&mut self, name: &str, value: u64) {
        self.name(name);
        decimal::whole(self.0, value, 1);
    }

    fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        self.0.push('"');
        // Judged without stopping, so that many bytes are looked at together.
        if value.bytes().fold(false, |found, byte| found | is_escaped(byte)) {
            escape(self.0, value);
        } else {
            self.0.push_str(value);
        }
        self.0.push('"');
    }
}

impl Visit for Fields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.name(field.name());
            decimal::float(self.0, value);
        } else {
            self.plain(field.name(), "null");
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.plain(field.name(), &value.to_string());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.number(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.plain(field.name(), if value { "true" } else { "false" });
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field.name(), &format!("{value:?}"));
    }
}

const fn is_escaped(byte: u8) -> bool {
    (byte < 0x20) | (byte == b'"') | (byte == b'\\')
}

/// The text with everything escaped that JSON strings must escape.
fn escape(line: &mut String, text: &str) {
    for letter in text.chars() {
        match letter {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\0'..' ' => line.push_str(&format!("\\u{:04x}", u32::from(letter))),
            other => line.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_time_is_written_to_the_microsecond() {
        let at = |micros| {
            let mut text = String::new();
            timestamp(&mut text, SystemTime::UNIX_EPOCH + Duration::from_micros(micros));
            text
        };
        assert_eq!(at(1_760_000_000_000_042), "{\"timestamp\":\"2025-10-09T08:53:20.000042Z\"");
        assert_eq!(at(1_760_000_000_999_999), "{\"timestamp\":\"2025-10-09T08:53:20.999999Z\"");
        assert_eq!(at(1_760_000_001_120_000), "{\"timestamp\":\"2025-10-09T08:53:21.120000Z\"");
    }

    #[test]
    fn a_value_that_logs_while_it_is_spelled_harms_no_line() {
        let outer = on_a_line(|line| {
            line.push_str("out");
            let inner = on_a_line(|line| {
                line.push_str("inner");
                line.clone()
            });
            assert_eq!(inner, "inner");
            line.push_str("er");
            line.clone()
        });
        assert_eq!((outer.as_str(), on_a_line(|line| line.clone()).as_str()), ("outer", ""));
    }

    #[test]
    fn texts_are_escaped() {
        let mut text = String::new();
        Fields(&mut text).text("said", "a \"b\" \\ c\n\u{1}ü");
        assert_eq!(text, ",\"said\":\"a \\\"b\\\" \\\\ c\\n\\u0001ü\"");
    }
}
