//! The kernel's configuration: a fragment over `tinyconfig`, every line of which has to hold.

/// A line of the fragment that the complete configuration contradicts.
#[derive(Debug, PartialEq, Eq)]
pub struct Lost<'a> {
    pub wanted: &'a str,
    /// The symbol's line in the complete configuration; `None` if it has none.
    pub found: Option<&'a str>,
}

/// Lines of `fragment` that do not hold in `complete`, which `make olddefconfig` wrote. It drops
/// what a dependency forbids and adds what another option selects, without a word.
pub fn lost<'a>(fragment: &'a str, complete: &'a str) -> Vec<Lost<'a>> {
    let found = |symbol: &str| {
        complete.lines().find(|line| setting(line).is_some_and(|(name, _)| name == symbol))
    };
    fragment
        .lines()
        .filter_map(|line| {
            let (symbol, wanted) = setting(line)?;
            let found = found(symbol);
            // A symbol that cannot be set is as good as one that is not set.
            let holds = found.and_then(setting).and_then(|(_, value)| value) == wanted;
            (!holds).then_some(Lost { wanted: line, found })
        })
        .collect()
}

/// The symbol a line is about and its value, `None` for "is not set". Other lines say nothing.
fn setting(line: &str) -> Option<(&str, Option<&str>)> {
    let line = line.trim_end();
    if let Some(rest) = line.strip_prefix("# CONFIG_") {
        return Some((rest.strip_suffix(" is not set")?, None));
    }
    let (symbol, value) = line.strip_prefix("CONFIG_")?.split_once('=')?;
    Some((symbol, Some(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPLETE: &str = "# Automatically generated\nCONFIG_SMP=y\nCONFIG_NR_CPUS=8\n\
        # CONFIG_MODULES is not set\nCONFIG_CPU_FREQ=y\nCONFIG_SMP_EXTRA=y\n";

    #[test]
    fn what_holds_is_not_named() {
        let fragment = "# A comment\n\nCONFIG_SMP=y\nCONFIG_NR_CPUS=8\n\
            # CONFIG_MODULES is not set\n# CONFIG_ABSENT is not set\n";
        assert_eq!(lost(fragment, COMPLETE), []);
    }

    #[test]
    fn every_way_to_lose_a_line_is_seen() {
        let fragment = "CONFIG_IPC_NS=y\nCONFIG_NR_CPUS=4\nCONFIG_MODULES=y\n\
            # CONFIG_CPU_FREQ is not set\n";
        let lost = lost(fragment, COMPLETE);
        let wanted: Vec<_> = lost.iter().map(|lost| lost.wanted).collect();
        assert_eq!(wanted, fragment.lines().collect::<Vec<_>>());
        let found: Vec<_> = lost.iter().map(|lost| lost.found).collect();
        assert_eq!(
            found,
            [
                None,
                Some("CONFIG_NR_CPUS=8"),
                Some("# CONFIG_MODULES is not set"),
                Some("CONFIG_CPU_FREQ=y")
            ]
        );
    }

    #[test]
    fn the_fragment_names_no_symbol_twice() {
        let fragment = include_str!("../../../kernel-config/guest.config");
        let mut symbols: Vec<_> =
            fragment.lines().filter_map(setting).map(|(symbol, _)| symbol).collect();
        assert!(symbols.len() > 100);
        symbols.sort_unstable();
        let twice: Vec<_> = symbols.windows(2).filter(|pair| pair[0] == pair[1]).collect();
        assert!(twice.is_empty(), "{twice:?}");
    }
}
