//! The device status field and the order in which a driver may set its bits (virtio 1.2, sections
//! 2.1 and 3.1.1).

use serde::{Deserialize, Serialize};

const ACKNOWLEDGE: u32 = 1;
const DRIVER: u32 = 2;
const DRIVER_OK: u32 = 4;
const FEATURES_OK: u32 = 8;
const NEEDS_RESET: u32 = 0x40;
const FAILED: u32 = 0x80;

/// The steps of an initialisation, each with all bits set so far.
const STEPS: [u32; 5] = [
    0,
    ACKNOWLEDGE,
    ACKNOWLEDGE | DRIVER,
    ACKNOWLEDGE | DRIVER | FEATURES_OK,
    ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK,
];

/// The bits the driver has set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status(u32);

impl Status {
    /// The bits.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// Whether a driver can get here.
    pub fn is_reachable(self) -> bool {
        STEPS.contains(&(self.0 & !FAILED))
    }

    /// The bits as the driver reads them.
    pub fn bits_with(self, fault: bool) -> u32 {
        if fault { self.0 | NEEDS_RESET } else { self.0 }
    }

    /// The status after the driver writes `value`: the next step, the same step again, or giving
    /// up. `None` for everything else.
    pub fn after(self, value: u32) -> Option<Self> {
        let value = value & !NEEDS_RESET;
        if value & FAILED != 0 {
            return Some(Self(self.0 | FAILED));
        }
        let current = STEPS.iter().position(|step| *step == self.0)?;
        let wanted = STEPS.iter().position(|step| *step == value)?;
        (wanted == current || wanted == current + 1).then_some(Self(value))
    }

    /// Features may be chosen: the driver is there and has not committed itself.
    pub fn negotiating(self) -> bool {
        self.0 == ACKNOWLEDGE | DRIVER
    }

    /// Queues may be configured: features are settled, the device does not work yet.
    pub fn configuring_queues(self) -> bool {
        self.0 == ACKNOWLEDGE | DRIVER | FEATURES_OK
    }

    /// The device works.
    pub fn driver_ready(self) -> bool {
        self.0 & (DRIVER_OK | FAILED) == DRIVER_OK
    }

    /// The step from `before` to here sets `FEATURES_OK`.
    pub fn features_just_accepted(self, before: Self) -> bool {
        self.0 & !before.0 & FEATURES_OK != 0
    }

    /// The step from `before` to here sets `DRIVER_OK`.
    pub fn driver_just_ready(self, before: Self) -> bool {
        self.0 & !before.0 & DRIVER_OK != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_next_step_the_same_step_or_failure_is_allowed() {
        for (at, from) in STEPS.iter().enumerate() {
            for value in 0..0x40 {
                let allowed = STEPS.get(at) == Some(&value) || STEPS.get(at + 1) == Some(&value);
                assert_eq!(
                    Status(*from).after(value).is_some(),
                    allowed,
                    "{from:#x} -> {value:#x}"
                );
            }
            assert_eq!(Status(*from).after(FAILED), Some(Status(from | FAILED)));
        }
    }

    #[test]
    fn after_failure_nothing_but_reset_helps() {
        let failed = Status(STEPS[4]).after(FAILED).unwrap();
        assert!(!failed.driver_ready());
        assert_eq!(failed.after(STEPS[4]), None);
    }
}
