//! What keeps tools in their place, part by part, so that tests can see what each part is good for.

/// A part of a tool's confinement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defence {
    /// The system call filter.
    Filter,
    /// No capabilities, no root, no new privileges.
    Privileges,
    /// Mounts of its own, `/tmp` among them.
    Mounts,
    /// Limits of memory, processes and descriptors.
    Limits,
    /// The end of everything a tool started, when it ends.
    Kill,
    /// Output as bytes, whatever they are, and not as text.
    Bytes,
}

impl Defence {
    /// Whether it holds. In every image but that for attacks it does.
    #[cfg(not(feature = "undefended"))]
    pub const fn holds(self) -> bool {
        let _ = self;
        true
    }

    /// Whether it holds: `BSM_WITHOUT` on the kernel command line names those that do not.
    #[cfg(feature = "undefended")]
    pub fn holds(self) -> bool {
        let name = format!("{self:?}").to_lowercase();
        let without = std::env::var("BSM_WITHOUT").unwrap_or_default();
        !without.split(',').any(|other| other == name)
    }
}
