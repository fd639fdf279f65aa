//! A program of the operator's that prints keys: started without a shell, bounded in time and in what is read.
//! It must not know what the keys open.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::lease::Trouble;

/// The longest that it may take; it may ask a service, or a person.
const TOTAL: Duration = Duration::from_secs(15);
/// The most that it may print.
const MAX_BYTES: u64 = 64 * 1024;

/// What the command prints when it ends well. `what` stands for it in messages: neither the command nor what it
/// says on its other output is repeated, they may hold secrets.
pub(super) async fn run(command: &str, what: &str) -> Result<Vec<u8>, Trouble> {
    let words = words(command).filter(|words| !words.is_empty());
    let Some((program, arguments)) = words.as_deref().and_then(<[String]>::split_first) else {
        return Err(Trouble::lasting(format!("{what} has a quotation mark without its other, or names no program")));
    };
    let mut command = Command::new(program);
    // One that is not wanted any more is ended, not left behind.
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let child = command.spawn().map_err(|error| Trouble::lasting(format!("{what} cannot be started: {}", error.kind())))?;
    timeout(TOTAL, printed(child, what)).await.map_err(|_| Trouble::passing(format!("{what} did not end in time")))?
}

async fn printed(mut child: Child, what: &str) -> Result<Vec<u8>, Trouble> {
    let mut text = Vec::new();
    if let Some(output) = child.stdout.take() {
        let read = output.take(MAX_BYTES).read_to_end(&mut text).await;
        read.map_err(|_| Trouble::passing(format!("what {what} prints cannot be read")))?;
    }
    let status = child.wait().await.map_err(|_| Trouble::passing(format!("{what} was lost")))?;
    match status.code() {
        Some(0) => Ok(text),
        Some(code) => Err(Trouble::passing(format!("{what} ended with status {code}"))),
        None => Err(Trouble::passing(format!("{what} was ended by a signal"))),
    }
}

/// The words of a command; what stands in quotation marks is one word. `None` when a mark lacks its other.
fn words(command: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut letters = command.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' | '\'' => {
                let quoted = word.get_or_insert_default();
                loop {
                    match letters.next()? {
                        end if end == letter => break,
                        inner => quoted.push(inner),
                    }
                }
            }
            blank if blank.is_whitespace() => words.extend(word.take()),
            plain => word.get_or_insert_default().push(plain),
        }
    }
    words.extend(word);
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_that_does_not_end_is_not_waited_for() {
        let trouble = run("sleep 600", "the program").await.unwrap_err();
        assert_eq!(trouble, Trouble::passing("the program did not end in time"));
    }

    #[test]
    fn words_are_parted_as_the_profile_files_say() {
        let cases: [(&str, Option<&[&str]>); 7] = [
            ("/opt/bin/keys --user helen", Some(&["/opt/bin/keys", "--user", "helen"])),
            ("\"/opt/my keys/run\"  plain \"two words\"", Some(&["/opt/my keys/run", "plain", "two words"])),
            ("run --name=\"a b\" 'c \"d\"' \"\"", Some(&["run", "--name=a b", "c \"d\"", ""])),
            ("run $HOME; rm `x`", Some(&["run", "$HOME;", "rm", "`x`"])),
            ("   ", Some(&[])),
            ("run \"half", None),
            ("run 'half", None),
        ];
        for (command, expected) in cases {
            let expected: Option<Vec<String>> = expected.map(|words| words.iter().map(|&word| word.to_owned()).collect());
            assert_eq!(words(command), expected, "{command}");
        }
    }
}
