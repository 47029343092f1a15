//! The kernel calls of a reset: how many of each, and how long they take.
#![allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]

use std::collections::BTreeMap;
use std::time::Duration;

use vmm::KernelCall;

use super::Distribution;

/// One kind of kernel call, over all measured resets.
#[derive(Debug, Clone, PartialEq)]
pub struct CallRow {
    /// Name of the ioctl or system call, such as `KVM_SET_LAPIC`.
    pub name: String,
    /// Calls in one reset, on average.
    pub per_reset: f64,
    /// Time of one call, in microseconds.
    pub one: Distribution,
}

/// Collects the calls of resets.
#[derive(Debug, Default)]
pub struct Calls {
    resets: u32,
    /// Times by name, each with the place of its first call in a reset.
    by_name: BTreeMap<&'static str, (usize, Vec<Duration>)>,
}

impl Calls {
    /// Adds the calls of one reset, in their order.
    pub fn add(&mut self, calls: &[KernelCall]) {
        self.resets += 1;
        for (place, call) in calls.iter().enumerate() {
            let (first, times) = self.by_name.entry(call.name).or_insert((place, Vec::new()));
            *first = place.min(*first);
            times.push(call.took);
        }
    }

    /// One row a kind of call, in the order in which a reset makes them.
    pub fn rows(&self) -> Vec<CallRow> {
        let mut kinds: Vec<_> = self.by_name.iter().collect();
        kinds.sort_by_key(|(_, (first, _))| *first);
        kinds
            .into_iter()
            .map(|(name, (_, times))| CallRow {
                name: (*name).to_owned(),
                per_reset: times.len() as f64 / f64::from(self.resets.max(1)),
                one: Distribution::of(times.iter().copied()),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_reset_and_stand_in_their_order() {
        let call = |name, us| KernelCall { name, took: Duration::from_micros(us) };
        let mut calls = Calls::default();
        calls.add(&[call("SECOND_IN_NAME", 5), call("A", 1), call("A", 3)]);
        calls.add(&[call("SECOND_IN_NAME", 7), call("A", 2)]);
        let rows = calls.rows();
        let found: Vec<_> =
            rows.iter().map(|row| (row.name.as_str(), format!("{:.1}", row.per_reset))).collect();
        assert_eq!(found, [("SECOND_IN_NAME", "1.0".to_owned()), ("A", "1.5".to_owned())]);
        assert_eq!(format!("{:.0}", rows[1].one.max_us), "3");
    }
}
