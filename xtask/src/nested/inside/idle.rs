//! How much of its time the machine's processors have been idle.

use std::fs;

/// The two numbers of /proc/uptime, proc_uptime(5).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct IdleTime {
    /// Seconds since the machine started.
    up: f64,
    /// Seconds that all its processors together were idle.
    idle: f64,
}

impl IdleTime {
    /// As the kernel says now. Where it says nothing readable the machine counts as busy.
    pub fn read() -> Self {
        Self::parse(&fs::read_to_string("/proc/uptime").unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let mut numbers = text.split_whitespace().map_while(|number| number.parse().ok());
        Self { up: numbers.next().unwrap_or(0.0), idle: numbers.next().unwrap_or(0.0) }
    }

    /// Whether the processors were idle for most of the time since `before`: for as much of it as
    /// half a processor has.
    pub fn mostly_idle_since(self, before: Self) -> bool {
        let (up, idle) = (self.up - before.up, self.idle - before.idle);
        up > 0.0 && idle * 2.0 > up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_processor_decides() {
        let before = IdleTime::parse("100.00 50.00\n");
        assert!(IdleTime::parse("400.00 345.00\n").mostly_idle_since(before));
        assert!(!IdleTime::parse("400.00 60.00\n").mostly_idle_since(before));
        assert!(!before.mostly_idle_since(before), "no time has passed");
    }

    #[test]
    fn what_cannot_be_read_is_busy() {
        assert_eq!(IdleTime::parse("?"), IdleTime { up: 0.0, idle: 0.0 });
        assert!(!IdleTime::parse("?").mostly_idle_since(IdleTime::parse("?")));
    }

    #[test]
    fn the_kernel_of_this_host_says_it() {
        assert!(IdleTime::read().up > 0.0);
    }
}
