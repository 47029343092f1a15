//! Calls of the kernel, counted and timed for a measurement.
//!
//! A thread that records nothing pays for one look at a thread-local flag, which is one load and one
//! branch beside a system call.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

thread_local! {
    static RECORDS: Cell<bool> = const { Cell::new(false) };
    static CALLS: RefCell<Vec<KernelCall>> = const { RefCell::new(Vec::new()) };
}

/// A call of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelCall {
    /// Name of the ioctl or system call, such as `KVM_SET_LAPIC`.
    pub name: &'static str,
    /// Time from the call to its return.
    pub took: Duration,
}

/// Makes a call of the kernel, which a recording on this thread takes down under `name`.
#[inline]
pub fn timed<T>(name: &'static str, call: impl FnOnce() -> T) -> T {
    if RECORDS.get() { taken_down(name, call) } else { call() }
}

#[cold]
fn taken_down<T>(name: &'static str, call: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let result = call();
    let took = began.elapsed();
    CALLS.with_borrow_mut(|calls| calls.push(KernelCall { name, took }));
    result
}

/// Does `work` and returns the calls that it made on this thread, in order.
pub fn recorded<T>(work: impl FnOnce() -> T) -> (T, Vec<KernelCall>) {
    RECORDS.set(true);
    let result = work();
    RECORDS.set(false);
    (result, CALLS.take())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_taken_down_in_order_and_only_while_asked_for() {
        timed("before", || ());
        let (result, calls) = recorded(|| timed("first", || 1) + timed("second", || 2));
        assert_eq!(result, 3);
        assert_eq!(calls.iter().map(|call| call.name).collect::<Vec<_>>(), ["first", "second"]);
        timed("after", || ());
        assert_eq!(recorded(|| ()).1, []);
    }
}
