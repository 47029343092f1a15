//! Ways to restore dirty pages.

/// How dirty pages get their golden content back. What differs is who pays: a copy costs the
/// reset, a dropped page costs the guest a fault and a copy when it writes there again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Strategy {
    /// Copies golden content over every dirty page. The machine keeps the pages it has written,
    /// so the next command does not fault on them.
    #[default]
    CopyBack,
    /// Drops the machine's own copy of every dirty page: it reads as golden again and its memory
    /// is given back.
    DropPrivate,
    /// Copies as long as the machine owns no more than this, and drops the rest.
    Hybrid {
        /// Most pages to copy in one reset.
        copy_pages: usize,
    },
    /// Copies all of golden memory over all of the guest's, whatever any log says: the oracle the
    /// others are measured against.
    FullCopy,
}

impl Strategy {
    /// What a hybrid reset copies unless told otherwise: 16 MiB, about where copying starts to
    /// cost more than faulting in again on machines with a few MiB of cache.
    pub const DEFAULT_COPY_PAGES: usize = 4096;

    /// Name of the strategy in reports and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::CopyBack => "copy-back",
            Self::DropPrivate => "drop-private",
            Self::Hybrid { .. } => "hybrid",
            Self::FullCopy => "full-copy",
        }
    }

    /// The strategy with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [
            Self::CopyBack,
            Self::DropPrivate,
            Self::Hybrid { copy_pages: Self::DEFAULT_COPY_PAGES },
            Self::FullCopy,
        ]
        .into_iter()
        .find(|strategy| strategy.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back() {
        for name in ["copy-back", "drop-private", "hybrid", "full-copy"] {
            assert_eq!(Strategy::from_name(name).unwrap().name(), name);
        }
        assert_eq!(Strategy::from_name("fastest"), None);
    }
}
