//! Points of a verified reset at which a test may change the machine behind the agent's back.
//!
//! Only with the feature `testing`: without it there is no injector, and every point is empty.

#[cfg(not(feature = "testing"))]
use std::marker::PhantomData;

use vmm::Machine;

/// A point of a verified reset.
#[derive(Clone, Copy)]
#[cfg_attr(feature = "testing", derive(Debug, PartialEq, Eq))]
pub enum FaultPoint {
    /// The machine is paused, as the command left it.
    Held,
    /// The machine has been reset and is paused. No source has looked at it.
    Reset,
    /// The machine runs again.
    Running,
    /// The host is about to query the guest.
    Asking,
    /// The guest has answered, or the time for its answer is over.
    Asked,
}

/// Does to a machine what an attacker on the host would do. It is called at every [`FaultPoint`].
#[cfg(feature = "testing")]
pub type FaultInjector = Box<dyn FnMut(FaultPoint, &Machine) + Send>;

/// The injector of one verified reset, if there is one.
pub struct Faults<'a> {
    #[cfg(feature = "testing")]
    injector: Option<&'a mut FaultInjector>,
    #[cfg(not(feature = "testing"))]
    injector: PhantomData<&'a ()>,
}

#[cfg(feature = "testing")]
impl<'a> Faults<'a> {
    /// No injector.
    pub fn none() -> Self {
        Self { injector: None }
    }

    /// That injector.
    pub fn of(injector: Option<&'a mut FaultInjector>) -> Self {
        Self { injector }
    }

    /// Lets the injector change the machine at this point.
    pub fn at(&mut self, point: FaultPoint, machine: &Machine) {
        if let Some(injector) = &mut self.injector {
            injector(point, machine);
        }
    }

    /// True when there is an injector.
    pub fn is_armed(&self) -> bool {
        self.injector.is_some()
    }
}

#[cfg(not(feature = "testing"))]
#[allow(clippy::unused_self, reason = "the same calls as with an injector")]
impl Faults<'_> {
    /// No injector.
    pub fn none() -> Self {
        Self { injector: PhantomData }
    }

    /// Does nothing.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "nothing of it is to be left")]
    pub fn at(&mut self, _: FaultPoint, _: &Machine) {}

    /// Never.
    pub const fn is_armed(&self) -> bool {
        false
    }
}
