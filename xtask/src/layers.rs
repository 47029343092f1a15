//! Checks that dependencies point one way: between the crates of the workspace, and between the
//! modules of each crate.
//!
//! `layers.toml` declares the rows, from the top down. A crate may depend on crates in lower rows; a
//! top-level module may name modules in lower rows. Below that, at every level of a crate's tree,
//! sibling modules must not name each other in a circle. A module and its descendants may name each
//! other. Paths are followed through re-exports to where a thing is defined, and code that is only
//! built for tests does not count.
//!
//! In crates that the table names under `one_path`, no public item has two paths.

mod crates;
mod document;
mod exports;
mod graph;
mod module;
mod one_path;
mod references;
mod resolve;
mod table;
mod tree;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Result, ensure};

use self::graph::Edges;
use self::table::{Known, Restricted, Rows, TABLE, Table};
use self::tree::ModuleTree;
use crate::metadata::{self, Package};

/// Arguments of `cargo xtask layers`.
#[derive(Debug, Default, clap::Args)]
pub struct LayersArgs {
    /// Write the declared rows into docs/architecture.md, and check nothing
    #[arg(long)]
    write: bool,
    /// Print every edge between modules of this package
    #[arg(long, value_name = "PACKAGE")]
    edges: Option<String>,
}

/// Checks the workspace. An error means that something points the wrong way.
pub fn run(arguments: &LayersArgs) -> Result<()> {
    let workspace = crate::workspace::root()?;
    let table = Table::read(&workspace)?;
    if arguments.write {
        return document::write(&workspace, &table);
    }
    if let Some(package) = &arguments.edges {
        return print_edges(&workspace, package);
    }
    let (findings, modules) = check(&workspace, &table)?;
    for finding in &findings {
        eprintln!("{finding}");
    }
    ensure!(findings.is_empty(), "{} findings: dependencies do not point one way", findings.len());
    println!(
        "Dependencies point one way: {modules} modules, {} known exceptions.",
        table.known.len()
    );
    Ok(())
}

fn print_edges(workspace: &Path, package: &str) -> Result<()> {
    for package in metadata::read(workspace)?.packages.iter().filter(|p| p.name == package) {
        for target in package.targets.iter().filter(|target| target.is_product()) {
            for ((from, to), sites) in graph::edges(&ModuleTree::read(workspace, &target.src_path)?)
            {
                println!("{from} -> {to}");
                for site in sites {
                    println!("    {site}");
                }
            }
        }
    }
    Ok(())
}

/// What is wrong in the workspace, and how many modules were looked at.
fn check(workspace: &Path, table: &Table) -> Result<(Vec<String>, usize)> {
    let packages = metadata::read(workspace)?.packages;
    let names: Vec<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let mut findings = table::unlisted(&table.crates, &names, "crate");
    findings.extend(crates::upward(&packages, &table.crates));
    for package in table.modules.keys().filter(|name| !names.contains(&name.as_str())) {
        findings.push(format!("{TABLE}: there is no crate {package}"));
    }
    for package in table.one_path.iter().filter(|name| !names.contains(&name.as_str())) {
        findings.push(format!("{TABLE}: there is no crate {package}"));
    }
    findings.extend(document::check(workspace, table));
    let mut occurred = Vec::new();
    let mut modules = 0;
    for package in &packages {
        let rules: Vec<&Restricted> =
            table.restricted.iter().filter(|rule| rule.package == package.name).collect();
        findings.extend(rules.iter().flat_map(|rule| forbidden(package, rule)));
        for target in package.targets.iter().filter(|target| target.is_product()) {
            let tree = ModuleTree::read(workspace, &target.src_path)?;
            modules += tree.modules.len();
            let rows = table.modules.get(&package.name).filter(|_| is_library(target));
            let known: Vec<&Known> =
                table.known.iter().filter(|known| known.package == package.name).collect();
            let found = check_modules(&package.name, &tree, rows, &known);
            findings.extend(found.findings);
            occurred.extend(found.occurred);
            findings.extend(rules.iter().flat_map(|rule| misplaced(&tree, rule)));
            if is_library(target) && table.one_path.contains(&package.name) {
                findings.extend(one_path::with_two_paths(&tree));
            }
        }
    }
    for known in table.known.iter().filter(|known| !occurred.contains(known)) {
        let Known { package, from, to } = known;
        findings
            .push(format!("{TABLE}: {from} -> {to} of {package} is no problem: remove it there"));
    }
    Ok((findings, modules))
}

fn is_library(target: &metadata::Target) -> bool {
    target.kind.iter().any(|kind| kind == "lib")
}

/// Findings in one crate target, and the known exceptions that it has.
#[derive(Debug, Default)]
struct Found {
    findings: Vec<String>,
    occurred: Vec<Known>,
}

fn check_modules(package: &str, tree: &ModuleTree, rows: Option<&Rows>, known: &[&Known]) -> Found {
    let mut found = Found::default();
    let all = graph::edges(tree);
    let up: BTreeSet<_> =
        rows.map(|rows| graph::upward(&all, rows)).unwrap_or_default().into_iter().collect();
    let is_known = |from: &str, to: &str| known.iter().find(|k| k.from == from && k.to == to);
    let kept: Edges = all
        .iter()
        .filter(|((from, to), _)| is_known(from, to).is_none())
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    for edge in all.keys() {
        let Some(&known) = is_known(&edge.0, &edge.1) else { continue };
        if up.contains(edge) || graph::is_in_circle(&all, edge) {
            found.occurred.push(known.clone());
        }
    }
    for (from, to) in up.iter().filter(|(from, to)| is_known(from, to).is_none()) {
        found.findings.push(format!(
            "{package}: module {from} names {to}, which does not stand below it:{}",
            sites_of(&all, from, to)
        ));
    }
    for circle in graph::circles(&kept) {
        let mut text = format!("{package}: a circle of modules: {}", circle.join(" -> "));
        for pair in circle.windows(2) {
            text.push_str(&sites_of(&all, &pair[0], &pair[1]));
        }
        found.findings.push(text);
    }
    if let Some(rows) = rows {
        let top: Vec<&str> = tree.modules[0].children.keys().map(String::as_str).collect();
        found.findings.extend(table::unlisted(rows, &top, &format!("module of {package},")));
    }
    found
}

/// Lines that are shown of one edge.
const MAX_SITES: usize = 3;

/// The first lines that make an edge, each on a line of its own.
fn sites_of(edges: &Edges, from: &str, to: &str) -> String {
    let sites = edges.get(&(from.to_owned(), to.to_owned())).map(Vec::as_slice).unwrap_or_default();
    let mut text = String::new();
    // Writing to a string cannot fail, so results of that are ignored.
    for site in sites.iter().take(MAX_SITES) {
        let _ = write!(text, "\n    {site}");
    }
    if sites.len() > MAX_SITES {
        let _ = write!(text, "\n    ... and {} more", sites.len() - MAX_SITES);
    }
    text
}

/// Dependencies that the rule forbids to the whole crate. Those of tests do not count.
fn forbidden(package: &Package, rule: &Restricted) -> Vec<String> {
    let of_program = package.dependencies.iter().filter(|d| d.kind.as_deref() != Some("dev"));
    of_program
        .filter(|dependency| rule.only_in.is_empty() && rule.names.contains(&dependency.name))
        .map(|dependency| {
            format!(
                "{}: crate {} must not depend on {}",
                package.manifest_path.display(),
                package.name,
                dependency.name
            )
        })
        .collect()
}

/// Lines outside of the modules that may name the packages.
fn misplaced(tree: &ModuleTree, rule: &Restricted) -> Vec<String> {
    if rule.only_in.is_empty() {
        return Vec::new();
    }
    let names: Vec<String> = rule.names.iter().map(|name| name.replace('-', "_")).collect();
    let mut findings = Vec::new();
    for (index, module) in tree.modules.iter().enumerate() {
        let path = module.path.join("::");
        let within = |only: &String| path == *only || path.starts_with(&format!("{only}::"));
        if rule.only_in.iter().any(within) {
            continue;
        }
        for reference in &module.references {
            let first = &reference.segments[0];
            if names.contains(first) && tree.resolve(index, &reference.segments).is_none() {
                findings.push(format!(
                    "{}:{}: {} is named outside of {} of {}",
                    module.file.display(),
                    reference.line,
                    reference.segments.join("::"),
                    rule.only_in.join(" and "),
                    rule.package
                ));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests;
