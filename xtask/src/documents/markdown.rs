//! What the checks need of a Markdown file: links, anchors, fenced blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// A Markdown file.
#[derive(Debug)]
pub struct Document {
    /// Its path in the workspace.
    pub path: PathBuf,
    /// Targets of links and images, each with its line.
    pub links: Vec<(String, usize)>,
    /// Names that a text says are in a file it links to: the file, the name, the line.
    pub names: Vec<(String, String, usize)>,
    /// Names that links can lead to: one for each heading, and those that HTML declares.
    pub anchors: BTreeSet<String>,
    /// Fenced blocks.
    pub blocks: Vec<Fenced>,
}

/// A fenced block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fenced {
    /// What stands behind the opening fence.
    pub info: String,
    pub text: String,
    /// Line of the opening fence.
    pub line: usize,
}

impl Document {
    /// Reads the file's text.
    pub fn parse(path: PathBuf, text: &str) -> Self {
        let mut document = Self {
            path,
            links: Vec::new(),
            names: Vec::new(),
            anchors: BTreeSet::new(),
            blocks: Vec::new(),
        };
        let mut named = Named::default();
        let mut used = BTreeMap::new();
        let mut heading: Option<String> = None;
        let mut fenced: Option<Fenced> = None;
        let options = Options::ENABLE_TABLES | Options::ENABLE_FOOTNOTES | Options::ENABLE_GFM;
        for (event, range) in Parser::new_ext(text, options).into_offset_iter() {
            let line =
                text[..range.start].lines().count() + usize::from(at_line_start(text, range.start));
            document.names.extend(named.take(&event).map(|(file, name)| (file, name, line)));
            match event {
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    document.links.push((dest_url.into_string(), line));
                }
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    if let Some(title) = heading.take() {
                        document.anchors.insert(unique(&slug(&title), &mut used));
                    }
                }
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info))) => {
                    fenced = Some(Fenced { info: info.into_string(), text: String::new(), line });
                }
                Event::End(TagEnd::CodeBlock) => document.blocks.extend(fenced.take()),
                Event::Text(piece) | Event::Code(piece) => {
                    for text in
                        heading.iter_mut().chain(fenced.as_mut().map(|block| &mut block.text))
                    {
                        text.push_str(&piece);
                    }
                }
                Event::Html(html) | Event::InlineHtml(html) => {
                    document.anchors.extend(html_anchors(&html));
                }
                _ => {}
            }
        }
        document
    }
}

/// Finds names that stand beside the link to their file, as in "`name` in \[file](file)" and
/// "\[file](file) (`name`)".
#[derive(Default)]
struct Named {
    /// A name, and whether ` in ` came after it.
    name: Option<(String, bool)>,
    /// The file of a link, and whether ` (` came after it.
    file: Option<(String, bool)>,
}

impl Named {
    fn take(&mut self, event: &Event<'_>) -> Option<(String, String)> {
        match event {
            Event::Code(name) => {
                self.name = Some((name.to_string(), false));
                self.file
                    .take()
                    .filter(|(_, opened)| *opened)
                    .map(|(file, _)| (file, name.to_string()))
            }
            Event::Start(Tag::Link { dest_url, .. }) => {
                self.file = Some((dest_url.to_string(), false));
                self.name
                    .take()
                    .filter(|(_, in_it)| *in_it)
                    .map(|(name, _)| (dest_url.to_string(), name))
            }
            Event::Text(text) => {
                self.name =
                    self.name.take().filter(|_| &**text == " in ").map(|(name, _)| (name, true));
                // The text of the link itself comes first.
                if let Some((_, opened)) = &mut self.file {
                    *opened = &**text == " (";
                }
                None
            }
            Event::End(TagEnd::Link) => None,
            _ => {
                *self = Self::default();
                None
            }
        }
    }
}

fn at_line_start(text: &str, offset: usize) -> bool {
    offset == 0 || text.as_bytes()[offset - 1] == b'\n'
}

/// The name that GitHub gives to a heading: lower case, no punctuation, hyphens for spaces.
fn slug(title: &str) -> String {
    title
        .trim()
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            '-' | '_' => Some(c),
            c if c.is_alphanumeric() => Some(c),
            _ => None,
        })
        .flat_map(char::to_lowercase)
        .collect()
}

/// The second heading with a name gets `-1`, the third `-2`.
fn unique(slug: &str, used: &mut BTreeMap<String, u32>) -> String {
    let count = used.entry(slug.to_owned()).and_modify(|count| *count += 1).or_insert(0);
    if *count == 0 { slug.to_owned() } else { format!("{slug}-{count}") }
}

/// The values of `id` and `name` attributes.
fn html_anchors(html: &str) -> impl Iterator<Item = String> {
    [" id=\"", " name=\""]
        .into_iter()
        .flat_map(|attribute| html.split(attribute).skip(1).filter_map(|rest| rest.split_once('"')))
        .map(|(value, _)| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Document {
        Document::parse("a.md".into(), text)
    }

    #[test]
    fn links_are_found_with_their_lines() {
        let document = parse("# A\n\nsee [b](b.md#c) and\n![d](d.svg), [e][f]\n\n[f]: g.md\n");
        let links: Vec<_> = document.links.iter().map(|(to, line)| (to.as_str(), *line)).collect();
        assert_eq!(links, [("b.md#c", 3), ("d.svg", 4), ("g.md", 4)]);
    }

    #[test]
    fn headings_have_the_names_that_github_gives_them() {
        let document = parse("# What `run` does: a start\n## Same\n## Same\n<a id=\"own\"></a>\n");
        let anchors: Vec<_> = document.anchors.iter().map(String::as_str).collect();
        assert_eq!(anchors, ["own", "same", "same-1", "what-run-does-a-start"]);
    }

    #[test]
    fn fenced_blocks_keep_info_text_and_line() {
        let document = parse("text\n\n```console no-run: x\n$ a\nb\n```\n");
        let block = Fenced { info: "console no-run: x".into(), text: "$ a\nb\n".into(), line: 3 };
        assert_eq!(document.blocks, [block]);
    }
}
