//! One process that is measured: started, read from the outside (processor time, memory, children
//! included), and stopped by its own id. Linux only: it reads `/proc`.
//! It must not know what the process does.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a process may take to stop before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// What to start.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its environment, beside what is inherited.
    pub env: Vec<(String, String)>,
}

/// A process that this program started. Dropping it ends it.
#[derive(Debug)]
pub struct Running {
    child: Child,
}

impl Running {
    /// Starts it; what it says goes to the file `log`.
    ///
    /// # Errors
    /// When the program or the file cannot be opened.
    pub fn start(launch: &Launch, log: &Path) -> io::Result<Self> {
        let out = File::create(log)?;
        let child = Command::new(&launch.program)
            .args(&launch.args)
            .envs(launch.env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", launch.program)))?;
        Ok(Self { child })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks it to stop (SIGTERM) and says how long it took; kills it and its children when it takes
    /// too long.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn stop(mut self) -> io::Result<Duration> {
        self.end()
    }

    fn end(&mut self) -> io::Result<Duration> {
        let start = Instant::now();
        if self.has_ended() {
            return Ok(Duration::ZERO);
        }
        signal("-TERM", &[self.id()])?;
        while start.elapsed() < STOP_LIMIT {
            if self.has_ended() {
                return Ok(start.elapsed());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        signal("-KILL", &family(self.id()))?;
        self.child.wait()?;
        Ok(start.elapsed())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Nothing can be told from here; a process that ended already is what is wanted.
        let _ = self.end();
    }
}

fn signal(name: &str, processes: &[u32]) -> io::Result<()> {
    // The shell has one of its own; in a small image there is no program of that name.
    let command = ["-c", "kill \"$@\"", "kill", name];
    Command::new("sh").args(command).args(processes.iter().map(u32::to_string)).status().map(|_| ())
}

/// An address on loopback that is free now.
///
/// # Errors
/// When none is.
pub fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

/// Processor time by thread, in nanoseconds.
#[derive(Clone, Debug, Default)]
pub struct Cpu(HashMap<u32, u64>);

impl Cpu {
    /// The processor time of a process, its threads and its children until now. Read from
    /// `schedstat`, which counts nanoseconds where `stat` counts hundredths of a second.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let mut threads = HashMap::new();
        for process in family(pid) {
            for thread in numbered(&format!("/proc/{process}/task")) {
                let text = fs::read_to_string(format!("/proc/{process}/task/{thread}/schedstat")).unwrap_or_default();
                if let Some(nanos) = text.split(' ').next().and_then(|field| field.parse().ok()) {
                    threads.insert(thread, nanos);
                }
            }
        }
        Self(threads)
    }

    /// What was used since an earlier reading, in nanoseconds. A thread that ended between is lost.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> u64 {
        self.0.iter().map(|(thread, now)| now.saturating_sub(earlier.0.get(thread).copied().unwrap_or(0))).sum()
    }
}

/// The memory of a process and its children in KB: what is theirs, shared pages divided (PSS).
///
/// # Errors
/// When it cannot be read.
pub fn memory_kb(pid: u32) -> io::Result<u64> {
    let mut sum = 0;
    for process in family(pid) {
        let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        let number = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        sum += number.ok_or_else(|| io::Error::other("no Pss in smaps_rollup"))?;
    }
    Ok(sum)
}

/// The process and its descendants.
fn family(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut next = 0;
    while next < found.len() {
        let process = found[next];
        for thread in numbered(&format!("/proc/{process}/task")) {
            let text = fs::read_to_string(format!("/proc/{process}/task/{thread}/children")).unwrap_or_default();
            found.extend(text.split_whitespace().filter_map(|field| field.parse::<u32>().ok()));
        }
        next += 1;
    }
    found
}

/// The entries of a directory whose names are numbers.
fn numbered(directory: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}
