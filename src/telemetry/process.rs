//! `process_*`: what the operating system says about this process, read from `/proc/self` at each scrape.
//!
//! Linux only; elsewhere the files are missing and so are the metrics. No `unsafe`, no call into libc.

use std::fs;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, Opts};

/// Ticks a second in `/proc`: `USER_HZ`, fixed by the kernel's interface at 100 on every platform we build for.
const TICKS_PER_SECOND: f64 = 100.0;

/// Registers with a registry; each gathering reads anew.
pub(super) struct Process {
    cpu_seconds: Counter,
    resident_bytes: Gauge,
    open_fds: Gauge,
    max_fds: Gauge,
    threads: Gauge,
    start_seconds: Gauge,
}

impl Process {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let gauge = |name, help| Gauge::with_opts(Opts::new(name, help));
        Ok(Self {
            cpu_seconds: Counter::with_opts(Opts::new("process_cpu_seconds_total", "CPU time used, user and system."))?,
            resident_bytes: gauge("process_resident_memory_bytes", "Memory in RAM.")?,
            open_fds: gauge("process_open_fds", "Open file descriptors.")?,
            max_fds: gauge("process_max_fds", "Most file descriptors that may be open.")?,
            threads: gauge("process_threads", "Threads.")?,
            start_seconds: gauge("process_start_time_seconds", "When the process started, Unix time.")?,
        })
    }

    /// The metrics whose source could be read; the others are left out rather than reported as 0.
    fn read(&self) -> Vec<&dyn Collector> {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let boot = fs::read_to_string("/proc/stat").ok().and_then(|text| field(&text, "btime "));
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let mut seen: Vec<&dyn Collector> = Vec::new();
        let mut set = |gauge, value: Option<f64>| set_if_known(&mut seen, gauge, value);
        set(&self.resident_bytes, field(&status, "VmRSS:").map(|kib| kib * 1024.0));
        set(&self.threads, field(&status, "Threads:"));
        set(&self.max_fds, field(&limits, "Max open files"));
        set(&self.open_fds, open_fds());
        set(&self.start_seconds, boot.zip(tick_field(&stat, 22)).map(|(boot, since)| boot + since));
        if let Some((user, system)) = tick_field(&stat, 14).zip(tick_field(&stat, 15)) {
            self.cpu_seconds.reset();
            self.cpu_seconds.inc_by(user + system);
            seen.push(&self.cpu_seconds);
        }
        seen
    }
}

fn set_if_known<'a>(seen: &mut Vec<&'a dyn Collector>, gauge: &'a Gauge, value: Option<f64>) {
    if let Some(value) = value {
        gauge.set(value);
        seen.push(gauge);
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        let all: [&dyn Collector; 6] = [
            &self.cpu_seconds,
            &self.resident_bytes,
            &self.open_fds,
            &self.max_fds,
            &self.threads,
            &self.start_seconds,
        ];
        all.into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.read().into_iter().flat_map(Collector::collect).collect()
    }
}

/// The first number behind `name` at the start of a line.
fn field(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// Field `number` (counted from 1, `proc_pid_stat(5)`) in seconds. The command name before it may hold spaces.
fn tick_field(stat: &str, number: usize) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let ticks: f64 = rest.split_whitespace().nth(number.checked_sub(3)?)?.parse().ok()?;
    Some(ticks / TICKS_PER_SECOND)
}

/// Open descriptors, less the one that reading the folder takes.
fn open_fds() -> Option<f64> {
    let count = fs::read_dir("/proc/self/fd").ok()?.count();
    u32::try_from(count.saturating_sub(1)).ok().map(f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_spaces_and_brackets_does_not_shift_the_fields() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 4 0 12345 1 2";
        assert_eq!(tick_field(stat, 14), Some(2.5));
        assert_eq!(tick_field(stat, 15), Some(0.5));
        assert_eq!(tick_field(stat, 22), Some(123.45));
        assert_eq!(tick_field("", 14), None);
    }

    #[test]
    fn this_process_has_memory_threads_and_a_start_time() {
        let families = Process::new().unwrap().collect();
        let names: Vec<_> = families.iter().map(MetricFamily::name).collect();
        for name in ["process_resident_memory_bytes", "process_threads", "process_start_time_seconds"] {
            let at = names.iter().position(|n| *n == name).unwrap_or_else(|| panic!("{name} is missing in {names:?}"));
            assert!(families[at].get_metric()[0].get_gauge().get_value() >= 1.0, "{name}");
        }
        assert!(names.contains(&"process_cpu_seconds_total"));
    }
}
