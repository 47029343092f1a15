//! Edges between sibling modules, edges up, and circles.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;

use super::table::{Rows, row_of};
use super::tree::ModuleTree;

/// A line of source that makes an edge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    pub file: PathBuf,
    pub line: usize,
    /// The path as it is written there.
    pub names: String,
}

impl std::fmt::Display for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.names)
    }
}

/// Edges between modules that have the same parent, each with the lines that make it. A parent and
/// its descendants may name each other: that is no edge.
pub type Edges = BTreeMap<(String, String), Vec<Site>>;

/// All edges of a crate, at every level of its tree.
pub fn edges(tree: &ModuleTree) -> Edges {
    let mut edges = Edges::new();
    for (index, module) in tree.modules.iter().enumerate() {
        for reference in &module.references {
            let Some(target) = tree.resolve(index, &reference.segments) else { continue };
            let Some(edge) = between(&module.path, &tree.modules[target].path) else { continue };
            let site = Site {
                file: module.file.clone(),
                line: reference.line,
                names: reference.segments.join("::"),
            };
            let sites = edges.entry(edge).or_default();
            if !sites.contains(&site) {
                sites.push(site);
            }
        }
    }
    edges
}

/// The siblings at which two paths part.
fn between(from: &[String], to: &[String]) -> Option<(String, String)> {
    let common = from.iter().zip(to).take_while(|(a, b)| a == b).count();
    (common < from.len() && common < to.len())
        .then(|| (from[..=common].join("::"), to[..=common].join("::")))
}

/// Edges between top-level modules that do not point to a lower row.
pub fn upward(edges: &Edges, rows: &Rows) -> Vec<(String, String)> {
    let points_down = |from: &str, to: &str| match (row_of(rows, from), row_of(rows, to)) {
        (Some(from), Some(to)) => from < to,
        // A module that stands in no row is reported elsewhere.
        _ => true,
    };
    edges.keys().filter(|(from, to)| !points_down(from, to)).cloned().collect()
}

/// The shortest circle through each edge that is part of one, each circle once. The first module
/// stands at the end again.
pub fn circles(edges: &Edges) -> Vec<Vec<String>> {
    let next = neighbours(edges);
    let mut found: BTreeMap<BTreeSet<&str>, Vec<String>> = BTreeMap::new();
    for (from, to) in edges.keys() {
        let Some(path) = shortest(&next, to, from) else { continue };
        let circle = std::iter::once(from.as_str()).chain(path.iter().copied());
        let circle: Vec<String> = circle.map(str::to_owned).collect();
        found.entry(path.into_iter().collect()).or_insert(circle);
    }
    found.into_values().collect()
}

/// Whether the edge is part of a circle.
pub fn is_in_circle(edges: &Edges, (from, to): &(String, String)) -> bool {
    shortest(&neighbours(edges), to, from).is_some()
}

fn neighbours(edges: &Edges) -> BTreeMap<&str, Vec<&str>> {
    let mut next: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (from, to) in edges.keys() {
        next.entry(from).or_default().push(to);
    }
    next
}

fn shortest<'a>(
    next: &BTreeMap<&'a str, Vec<&'a str>>,
    start: &'a str,
    end: &str,
) -> Option<Vec<&'a str>> {
    let mut came_from: BTreeMap<&str, Option<&str>> = BTreeMap::from([(start, None)]);
    let mut queue = VecDeque::from([start]);
    while let Some(at) = queue.pop_front() {
        if at == end {
            let mut path = vec![at];
            let mut at = at;
            while let Some(Some(before)) = came_from.get(at) {
                path.push(before);
                at = before;
            }
            path.reverse();
            return Some(path);
        }
        for &neighbour in next.get(at).into_iter().flatten() {
            came_from.entry(neighbour).or_insert_with(|| {
                queue.push_back(neighbour);
                Some(at)
            });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&str, &str)]) -> Edges {
        edges.iter().map(|&(from, to)| ((from.into(), to.into()), Vec::new())).collect()
    }

    fn path(text: &str) -> Vec<String> {
        text.split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect()
    }

    #[test]
    fn edges_are_between_siblings() {
        let edge = |from, to| between(&path(from), &path(to));
        assert_eq!(edge("a::b::c", "a::d"), Some(("a::b".into(), "a::d".into())));
        assert_eq!(edge("a", "b::c"), Some(("a".into(), "b".into())));
        assert_eq!(edge("a::b", "a"), None);
        assert_eq!(edge("a", "a::b"), None);
        assert_eq!(edge("", "a"), None);
    }

    #[test]
    fn each_circle_is_told_once_and_as_a_path() {
        let edges =
            graph(&[("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("d", "c"), ("x", "a")]);
        assert_eq!(circles(&edges), [vec!["a", "b", "c", "a"], vec!["c", "d", "c"]]);
        assert!(circles(&graph(&[("a", "b"), ("a", "c"), ("b", "c")])).is_empty());
    }

    #[test]
    fn an_edge_up_or_to_a_neighbour_is_found() {
        let rows = vec![path("top"), path("a::b"), path("low")];
        let edges = graph(&[("top", "a"), ("a", "low"), ("a", "b"), ("low", "top")]);
        let up = upward(&edges, &rows);
        assert_eq!(up, [("a".into(), "b".into()), ("low".into(), "top".into())]);
    }
}
