//! Collects what a module's code names: imports, items, and paths of at least two segments, also
//! those inside of macro calls and attributes. Code that is only built for tests is left out.

use proc_macro2::{TokenStream, TokenTree};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, Item, Meta, Token, UseTree};

use super::module::{Module, Reference};

/// Adds to `module` what these items, its own, declare, import and name.
pub fn collect(items: &[Item], module: &mut Module) {
    let mut collector = Collector { module };
    for item in items {
        if let Some(name) = declared_name(item) {
            collector.module.items.insert(name);
        }
        collector.visit_item(item);
    }
}

/// Whether the attributes keep something out of every build that is not for tests.
pub fn is_test_only(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || (attribute.path().is_ident("cfg")
                && attribute.parse_args::<Meta>().is_ok_and(|condition| needs_test(&condition)))
    })
}

fn needs_test(condition: &Meta) -> bool {
    let inner = |list: &syn::MetaList| {
        list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated).unwrap_or_default()
    };
    match condition {
        Meta::Path(path) => path.is_ident("test"),
        Meta::List(list) if list.path.is_ident("all") => inner(list).iter().any(needs_test),
        Meta::List(list) if list.path.is_ident("any") => inner(list).iter().all(needs_test),
        _ => false,
    }
}

struct Collector<'a> {
    module: &'a mut Module,
}

impl Collector<'_> {
    fn add(&mut self, segments: Vec<String>, line: usize) {
        if segments.len() > 1 {
            self.module.references.push(Reference { segments, line });
        }
    }

    fn add_use(&mut self, tree: &UseTree, mut prefix: Vec<String>) {
        let line = tree.span().start().line;
        let name_of = |ident: &syn::Ident| plain(&ident.to_string());
        match tree {
            UseTree::Path(path) => {
                prefix.push(name_of(&path.ident));
                self.add_use(&path.tree, prefix);
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.add_use(tree, prefix.clone());
                }
            }
            UseTree::Glob(_) => {
                self.add(prefix.clone(), line);
                self.module.globs.push(prefix);
            }
            UseTree::Name(name) => self.add_import(prefix, &name_of(&name.ident), None, line),
            UseTree::Rename(rename) => {
                let alias = name_of(&rename.rename);
                self.add_import(prefix, &name_of(&rename.ident), Some(alias), line);
            }
        }
    }

    fn add_import(
        &mut self,
        mut path: Vec<String>,
        name: &str,
        alias: Option<String>,
        line: usize,
    ) {
        if name != "self" {
            path.push(name.to_owned());
        }
        if let Some(alias) = alias.or_else(|| path.last().cloned()) {
            self.module.imports.insert(alias, path.clone());
        }
        self.add(path, line);
    }

    /// Names joined by `::` anywhere in the tokens.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let mut segments: Vec<String> = Vec::new();
        let (mut line, mut colons) = (0, 0);
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.add(std::mem::take(&mut segments), line);
                        line = ident.span().start().line;
                    }
                    segments.push(plain(&ident.to_string()));
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' && !segments.is_empty() => {
                    colons += 1;
                }
                other => {
                    self.add(std::mem::take(&mut segments), line);
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.add_tokens(group.stream());
                    }
                }
            }
        }
        self.add(segments, line);
    }
}

impl<'ast> Visit<'ast> for Collector<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        // Modules of their own, wherever they stand, are read as such.
        if !matches!(item, Item::Mod(_)) && !is_test_only(attributes_of(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if item.leading_colon.is_none() {
            self.add_use(&item.tree, Vec::new());
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_test_only(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_local(&mut self, local: &'ast syn::Local) {
        if !is_test_only(&local.attrs) {
            visit::visit_local(self, local);
        }
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        if !is_test_only(&field.attrs) {
            visit::visit_field(self, field);
        }
    }

    fn visit_field_value(&mut self, field: &'ast syn::FieldValue) {
        if !is_test_only(&field.attrs) {
            visit::visit_field_value(self, field);
        }
    }

    fn visit_expr_block(&mut self, block: &'ast syn::ExprBlock) {
        if !is_test_only(&block.attrs) {
            visit::visit_expr_block(self, block);
        }
    }

    fn visit_variant(&mut self, variant: &'ast syn::Variant) {
        if !is_test_only(&variant.attrs) {
            visit::visit_variant(self, variant);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() {
            let segments = path.segments.iter().map(|segment| plain(&segment.ident.to_string()));
            self.add(segments.collect(), path.span().start().line);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, called: &'ast syn::Macro) {
        self.visit_path(&called.path);
        self.add_tokens(called.tokens.clone());
    }

    /// Who may see something is no dependency.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    /// Attributes name functions and types in strings too, as `#[serde(with = "...")]` does.
    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        let Meta::List(list) = &attribute.meta else { return };
        self.add_tokens(list.tokens.clone());
        for token in list.tokens.clone() {
            let TokenTree::Literal(literal) = token else { continue };
            let Ok(text) = syn::parse_str::<syn::LitStr>(&literal.to_string()) else { continue };
            if let Ok(path) = syn::parse_str::<syn::Path>(&text.value()) {
                let segments = path.segments.iter().map(|s| plain(&s.ident.to_string()));
                self.add(segments.collect(), literal.span().start().line);
            }
        }
    }
}

/// The name without `r#`.
pub fn plain(name: &str) -> String {
    name.strip_prefix("r#").unwrap_or(name).to_owned()
}

/// The attributes of an item.
pub fn attributes_of(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::TraitAlias(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// The name by which other modules can call the item.
fn declared_name(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::TraitAlias(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(plain(&ident.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Module {
        let mut module = Module::default();
        collect(&syn::parse_file(text).unwrap().items, &mut module);
        module
    }

    fn named(text: &str) -> Vec<String> {
        read(text).references.iter().map(|reference| reference.segments.join("::")).collect()
    }

    #[test]
    fn paths_are_found_wherever_they_stand() {
        assert_eq!(named("use super::{self as up, a::{self, B}};"), ["super::a", "super::a::B"]);
        assert_eq!(
            named("fn f() -> crate::a::B { use self::c::d; d() }"),
            ["crate::a::B", "self::c::d"]
        );
        assert_eq!(named("fn f() { assert!(x == vec![super::a::B(&crate::c::D)]) }").len(), 2);
        assert_eq!(named("#[serde(with = \"crate::a::b\")] struct S;"), ["crate::a::b"]);
        assert_eq!(named("impl super::T for X<crate::a::B> {}"), ["super::T", "crate::a::B"]);
        assert_eq!(named("pub(in crate::a) struct S; pub(super) fn f() {}"), [""; 0]);
        assert_eq!(named("macro_rules! m { () => { $crate::a::b() } }"), ["crate::a::b"]);
    }

    #[test]
    fn what_is_only_for_tests_is_left_out() {
        for text in [
            "#[cfg(test)] use super::a::B;",
            "#[test] fn f() { super::a::b() }",
            "#[cfg(all(test, unix))] fn f() { super::a::b() }",
            "impl X { #[cfg(test)] fn f() { super::a::b() } }",
            "#[cfg(test)] mod tests { use super::a::B; }",
            "fn f() { #[cfg(test)] let _ = super::a::b(); }",
        ] {
            assert_eq!(named(text), [""; 0], "{text}");
        }
        assert_eq!(named("#[cfg(any(test, feature = \"x\"))] use super::a::B;"), ["super::a::B"]);
        assert_eq!(named("#[cfg(not(test))] use super::a::B;"), ["super::a::B"]);
    }

    #[test]
    fn lines_count_from_one() {
        let module = read("\n\nfn f() {\n    super::a::b();\n}\nfn g() { m!(super::c::D) }\n");
        let lines: Vec<_> = module.references.iter().map(|reference| reference.line).collect();
        assert_eq!(lines, [4, 6]);
    }

    #[test]
    fn imports_and_items_are_known_by_name() {
        let module = read("use super::a::B as C; pub use d::*; struct E; fn f() {}");
        assert_eq!(module.imports["C"], ["super", "a", "B"]);
        assert_eq!(module.globs, [["d"]]);
        assert!(module.items.contains("E") && module.items.contains("f"));
    }
}
