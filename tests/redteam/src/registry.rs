//! The probes that a run can choose from.

use std::sync::Arc;

use thiserror::Error;

use crate::info::AttackerClass;
use crate::probe::Probe;
use crate::probes;
use crate::selection::Selection;

/// The probes that a run can choose from, in the order in which they run.
#[derive(Clone, Default)]
pub struct Registry {
    probes: Vec<Arc<dyn Probe>>,
}

/// Why a registry does not give or take a probe.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// No probe has a name that was asked for.
    #[error("no probe {name:?}; there are all, adversarial, lat and {known}")]
    Unknown {
        /// The name.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// Another probe has the name already.
    #[error("there is a probe {name:?} already: give the new one another name")]
    Duplicate {
        /// The name.
        name: &'static str,
    },
}

impl Registry {
    /// Holds the probes of this crate.
    pub fn built_in() -> Self {
        Self { probes: probes::all().into_iter().map(|probe| Arc::new(probe) as _).collect() }
    }

    /// Adds a probe, which runs after those that are there.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Duplicate`]: a probe of that name is there already.
    pub fn add(&mut self, probe: impl Probe + 'static) -> Result<(), RegistryError> {
        let name = probe.info().name;
        if self.probes.iter().any(|other| other.info().name == name) {
            return Err(RegistryError::Duplicate { name });
        }
        self.probes.push(Arc::new(probe));
        Ok(())
    }

    /// The selected probes. Those of class [`AttackerClass::A6`] come last: they may leave no
    /// usable sandbox behind.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Unknown`]: no probe has one of the selection's names.
    pub fn select(&self, selection: &Selection) -> Result<Vec<Arc<dyn Probe>>, RegistryError> {
        let known: Vec<&str> = self.probes.iter().map(|probe| probe.info().name).collect();
        if let Some(name) = selection.names().iter().find(|name| !known.contains(&name.as_str())) {
            return Err(RegistryError::Unknown { name: name.clone(), known: known.join(", ") });
        }
        let mut probes: Vec<_> =
            self.probes.iter().filter(|probe| selection.includes(&probe.info())).cloned().collect();
        probes.sort_by_key(|probe| probe.info().class == AttackerClass::A6);
        Ok(probes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<&'static str> {
        let probes = Registry::built_in().select(&text.parse().unwrap()).unwrap();
        probes.iter().map(|probe| probe.info().name).collect()
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
        let probes = Registry::built_in().select(&Selection::All).unwrap();
        let substrate = |probe: &Arc<dyn Probe>| probe.info().class == AttackerClass::A6;
        let first = probes.iter().position(substrate);
        assert!(first.is_some_and(|at| probes[at..].iter().all(substrate)));
    }

    #[test]
    fn names_are_checked() {
        assert_eq!(names("time-bomb, egress").len(), 2);
        let selection = "egress,nonsense".parse().unwrap();
        let error = Registry::built_in().select(&selection).err().unwrap().to_string();
        assert!(error.contains("nonsense") && error.contains("egress"), "{error}");
    }

    #[test]
    fn a_second_probe_of_one_name_is_refused() {
        let mut registry = Registry::built_in();
        let taken = probes::all().remove(0);
        assert_eq!(registry.add(taken), Err(RegistryError::Duplicate { name: taken.name }));
        let other = crate::FnProbe { name: "another", ..taken };
        registry.add(other).unwrap();
        assert_eq!(registry.select(&"another".parse().unwrap()).unwrap().len(), 1);
    }
}
