//! Which probes to run.

use std::str::FromStr;

use thiserror::Error;

use super::{AttackerClass, Probe, all};

/// Which probes to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// Everything.
    All,
    /// All attacks.
    Adversarial,
    /// All measurements.
    Latency,
    /// These, by their names.
    Named(Vec<String>),
}

/// A name that no probe has.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no probe {name:?}; there are all, adversarial, lat and {known}")]
pub struct UnknownProbe {
    /// The name.
    pub name: String,
    /// Those that exist.
    pub known: String,
}

impl FromStr for Selection {
    type Err = UnknownProbe;

    fn from_str(text: &str) -> Result<Self, UnknownProbe> {
        match text {
            "all" => return Ok(Self::All),
            "adversarial" => return Ok(Self::Adversarial),
            "lat" => return Ok(Self::Latency),
            _ => {}
        }
        let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
        let known: Vec<&str> = all().iter().map(|probe| probe.name).collect();
        match names.iter().find(|name| !known.contains(&name.as_str())) {
            Some(name) => Err(UnknownProbe { name: name.clone(), known: known.join(", ") }),
            None => Ok(Self::Named(names)),
        }
    }
}

impl Selection {
    /// Its probes, those about the substrate last: they may leave no sandbox behind.
    pub fn probes(&self) -> Vec<Probe> {
        let chosen = |probe: &Probe| match self {
            Self::All => true,
            Self::Adversarial => probe.class != AttackerClass::Latency,
            Self::Latency => probe.class == AttackerClass::Latency,
            Self::Named(names) => names.iter().any(|name| name == probe.name),
        };
        let mut probes: Vec<Probe> = all().into_iter().filter(chosen).collect();
        probes.sort_by_key(|probe| probe.class == AttackerClass::A6);
        probes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<&'static str> {
        text.parse::<Selection>().unwrap().probes().iter().map(|probe| probe.name).collect()
    }

    #[test]
    fn every_probe_is_in_exactly_one_half() {
        let mut halves = [names("adversarial"), names("lat")].concat();
        let mut whole = names("all");
        halves.sort_unstable();
        whole.sort_unstable();
        assert_eq!(halves, whole);
        whole.dedup();
        assert_eq!(halves.len(), whole.len(), "two probes have one name");
    }

    #[test]
    fn the_substrate_comes_last() {
        let probes = Selection::All.probes();
        let first = probes.iter().position(|probe| probe.class == AttackerClass::A6);
        let others_behind =
            first.is_some_and(|at| probes[at..].iter().any(|p| p.class != AttackerClass::A6));
        assert!(!others_behind);
    }

    #[test]
    fn names_are_checked() {
        assert_eq!(names("time-bomb, egress").len(), 2);
        let error = "egress,nonsense".parse::<Selection>().unwrap_err().to_string();
        assert!(error.contains("nonsense") && error.contains("egress"), "{error}");
    }
}
