//! The memory check: what this process uses beside what it may use, as the kernel says.
//! It must not know what the memory is used for.

use serde_json::json;

use super::Check;

/// The share of the allowed memory from which on it is not well.
const TOO_MUCH: f64 = 0.9;
/// Where the kernel says how much a control group may use: in version 2, in version 1.
const LIMITS: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
/// Version 1 says a number beyond this where there is no limit.
const NO_LIMIT: u64 = 1 << 60;

/// How it is.
pub(super) fn check() -> Check {
    let (used, allowed) = (resident(), allowed());
    let is_well = used.zip(allowed).is_none_or(|(used, allowed)| (used as f64) < TOO_MUCH * allowed as f64);
    let status = if is_well { "ok" } else { "degraded" };
    (is_well, json!({"status": status, "resident_bytes": used, "limit_bytes": allowed}))
}

/// Resident memory in bytes; `None` where the kernel does not say.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// What this process may use, in bytes; `None` where nothing limits it.
fn allowed() -> Option<u64> {
    let limits = LIMITS.iter().filter_map(|path| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok());
    limits.filter(|limit| *limit < NO_LIMIT).min()
}
