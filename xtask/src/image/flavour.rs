//! Images of different purpose.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::guest_program::{self, ATTACK, UNDEFENDED_INIT};
use crate::workspace;

const REGISTRY: &str = "guest/registry/tools.json";
const ATTACK_REGISTRY: &str = "tests/attack/tools.json";

/// What an image is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Flavour {
    /// What is installed.
    Shipped,
    /// The shipped image and programs that attack it. Never installed anywhere.
    Attack,
}

impl Flavour {
    /// Name of its directory in cargo's build directory.
    pub fn directory(self) -> &'static str {
        match self {
            Self::Shipped => "image",
            Self::Attack => "image-attack",
        }
    }

    /// Its `tools.json`.
    pub fn registry(self) -> Result<String> {
        let root = workspace::root()?;
        let shipped = read(&root.join(REGISTRY))?;
        match self {
            Self::Shipped => Ok(shipped),
            Self::Attack => joined(&shipped, &read(&root.join(ATTACK_REGISTRY))?),
        }
    }

    /// Programs it has and the shipped image has not, by their paths.
    pub fn programs(self) -> Result<Vec<(&'static str, Vec<u8>)>> {
        match self {
            Self::Shipped => Ok(Vec::new()),
            Self::Attack => Ok(vec![
                ("/sbin/undefended-init", guest_program::build(UNDEFENDED_INIT)?),
                ("/usr/bin/attack", guest_program::build(ATTACK)?),
            ]),
        }
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

fn joined(one: &str, other: &str) -> Result<String> {
    let mut tools: Vec<Value> = serde_json::from_str(one).context("reading the tools")?;
    tools.extend(serde_json::from_str::<Vec<Value>>(other).context("reading the attack tools")?);
    serde_json::to_string_pretty(&tools).context("writing the tools")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attacks_are_in_the_attack_image_alone() {
        let named = |flavour: Flavour| flavour.registry().unwrap().contains("attack");
        assert!(named(Flavour::Attack));
        assert!(!named(Flavour::Shipped));
        assert!(Flavour::Shipped.programs().unwrap().is_empty());
    }
}
