//! What the kernel counts for this process, in the Prometheus text format. Where `/proc` is missing or says something
//! unexpected, the line is left out.

use std::fmt::Write;

/// Clock ticks a second in `/proc/*/stat`: fixed at 100 towards programs on every Linux we support.
const TICKS_PER_SECOND: f64 = 100.0;

pub(crate) fn write(text: &mut String) {
    metric(text, "process_resident_memory_bytes", "gauge", "Resident memory.", resident_bytes());
    metric(text, "process_cpu_seconds_total", "counter", "User and system CPU time spent.", cpu_seconds());
    metric(text, "process_open_fds", "gauge", "Open file descriptors.", open_descriptors());
    text.push_str("# HELP switchyard_build_info Version of this program.\n# TYPE switchyard_build_info gauge\n");
    let _ = writeln!(text, "switchyard_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
}

fn metric(text: &mut String, name: &str, kind: &str, help: &str, value: Option<f64>) {
    if let Some(value) = value {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }
}

pub(crate) fn resident_bytes() -> Option<f64> {
    parse_resident_bytes(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn parse_resident_bytes(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0)
}

fn cpu_seconds() -> Option<f64> {
    parse_cpu_seconds(&std::fs::read_to_string("/proc/self/stat").ok()?)
}

fn parse_cpu_seconds(stat: &str) -> Option<f64> {
    // The second field is the program's name in brackets and may itself hold spaces and brackets.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let user: f64 = fields.nth(11)?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

fn open_descriptors() -> Option<f64> {
    let count = std::fs::read_dir("/proc/self/fd").ok()?.count();
    // One of them reads the directory.
    u32::try_from(count.saturating_sub(1)).ok().map(f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_text_is_read_or_left_out() {
        assert_eq!(parse_resident_bytes("Name:\tx\nVmRSS:\t   20 kB\n"), Some(20480.0));
        assert_eq!(parse_resident_bytes("Name:\tx\n"), None);
        let stat = "1 (a) b) S 0 1 1 0 -1 4194560 1 2 3 4 150 50 0 0 20 0";
        assert_eq!(parse_cpu_seconds(stat), Some(2.0));
        assert_eq!(parse_cpu_seconds("1 (a) S"), None);
    }
}
