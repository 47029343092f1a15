//! Which probes to run.

use std::convert::Infallible;
use std::str::FromStr;

use crate::info::{AttackerClass, ProbeInfo};

/// Which probes to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// Everything.
    All,
    /// All attacks.
    Adversarial,
    /// All measurements.
    Latency,
    /// The probes with these names.
    Named(Vec<String>),
}

impl FromStr for Selection {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "all" => Self::All,
            "adversarial" => Self::Adversarial,
            "lat" => Self::Latency,
            names => Self::Named(names.split(',').map(|name| name.trim().to_owned()).collect()),
        })
    }
}

impl Selection {
    /// Whether this probe is to run.
    pub fn includes(&self, probe: &ProbeInfo) -> bool {
        match self {
            Self::All => true,
            Self::Adversarial => probe.class != AttackerClass::Latency,
            Self::Latency => probe.class == AttackerClass::Latency,
            Self::Named(names) => names.iter().any(|name| name == probe.name),
        }
    }

    /// The names that were given; none for a group.
    pub fn names(&self) -> &[String] {
        match self {
            Self::Named(names) => names,
            Self::All | Self::Adversarial | Self::Latency => &[],
        }
    }
}
