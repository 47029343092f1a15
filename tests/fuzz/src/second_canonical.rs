//! Canonical JSON once more, written for being compared with: its own parser, the numbers of the
//! standard library put into ECMAScript's form (ECMA-262, Number::toString), another NFC.

use std::fmt::Write;

use icu_normalizer::ComposingNormalizerBorrowed;

const MAX_DEPTH: usize = 64;

/// The canonical text; `None` when there is none.
pub fn canonical(text: &str) -> Option<String> {
    let mut reader = Reader { rest: text };
    let node = reader.value(0)?;
    reader.space();
    if !reader.rest.is_empty() {
        return None;
    }
    let mut out = String::new();
    write(&node, &mut out);
    Some(out)
}

enum Node {
    Word(&'static str),
    Number(f64),
    Text(String),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.rest.strip_prefix(token);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    fn value(&mut self, depth: usize) -> Option<Node> {
        self.space();
        for word in ["null", "true", "false"] {
            if self.take(word) {
                return Some(Node::Word(word));
            }
        }
        match self.rest.chars().next()? {
            '"' => self.text().map(Node::Text),
            '[' | '{' if depth >= MAX_DEPTH => None,
            '[' => self.list(depth + 1),
            '{' => self.object(depth + 1),
            _ => self.number(),
        }
    }

    fn list(&mut self, depth: usize) -> Option<Node> {
        self.take("[");
        self.space();
        let mut items = Vec::new();
        if self.take("]") {
            return Some(Node::List(items));
        }
        loop {
            items.push(self.value(depth)?);
            self.space();
            if self.take("]") {
                return Some(Node::List(items));
            }
            self.take(",").then_some(())?;
        }
    }

    fn object(&mut self, depth: usize) -> Option<Node> {
        self.take("{");
        self.space();
        let mut entries: Vec<(String, Node)> = Vec::new();
        if self.take("}") {
            return Some(Node::Object(entries));
        }
        loop {
            self.space();
            let key = self.text()?;
            self.space();
            self.take(":").then_some(())?;
            let value = self.value(depth)?;
            if entries.iter().any(|(other, _)| *other == key) {
                return None;
            }
            entries.push((key, value));
            self.space();
            if self.take("}") {
                entries.sort_by_key(|(key, _)| key.encode_utf16().collect::<Vec<_>>());
                return Some(Node::Object(entries));
            }
            self.take(",").then_some(())?;
        }
    }

    /// RFC 8259, section 6.
    fn number(&mut self) -> Option<Node> {
        let text = self.rest;
        self.take("-");
        if !self.take("0") {
            self.digits()?;
        }
        if self.take(".") {
            self.digits()?;
        }
        if self.take("e") || self.take("E") {
            let _ = self.take("+") || self.take("-");
            self.digits()?;
        }
        let number: f64 = text[..text.len() - self.rest.len()].parse().ok()?;
        number.is_finite().then_some(Node::Number(number))
    }

    fn digits(&mut self) -> Option<()> {
        let rest = self.rest.trim_start_matches(|c: char| c.is_ascii_digit());
        let some = rest.len() < self.rest.len();
        self.rest = rest;
        some.then_some(())
    }

    fn text(&mut self) -> Option<String> {
        self.take("\"").then_some(())?;
        let mut units: Vec<u16> = Vec::new();
        loop {
            let next = self.rest.chars().next()?;
            self.rest = &self.rest[next.len_utf8()..];
            match next {
                '"' => break,
                '\\' => units.push(self.escape()?),
                '\0'..='\u{1f}' => return None,
                other => units.extend(&*other.encode_utf16(&mut [0; 2])),
            }
        }
        // Fails where half a surrogate pair stands alone.
        let text = String::from_utf16(&units).ok()?;
        Some(ComposingNormalizerBorrowed::new_nfc().normalize(&text).into_owned())
    }

    fn escape(&mut self) -> Option<u16> {
        let kind = self.rest.chars().next()?;
        self.rest = &self.rest[kind.len_utf8()..];
        Some(match kind {
            '"' | '\\' | '/' => kind as u16,
            'b' => 8,
            'f' => 12,
            'n' => 10,
            'r' => 13,
            't' => 9,
            'u' => {
                let digits = self.rest.get(..4)?;
                if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                    return None;
                }
                self.rest = &self.rest[4..];
                u16::from_str_radix(digits, 16).ok()?
            }
            _ => return None,
        })
    }
}

fn write(node: &Node, out: &mut String) {
    match node {
        Node::Word(word) => out.push_str(word),
        Node::Number(number) => write_number(*number, out),
        Node::Text(text) => write_text(text, out),
        Node::List(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        Node::Object(entries) => {
            out.push('{');
            for (index, (key, value)) in entries.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_text(key, out);
                out.push(':');
                write(value, out);
            }
            out.push('}');
        }
    }
}

/// RFC 8785, section 3.2.2.2.
fn write_text(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            '\0'..='\u{1f}' => drop(write!(out, "\\u{:04x}", character as u32)),
            other => out.push(other),
        }
    }
    out.push('"');
}

/// ECMA-262, Number::toString: digits and exponent as Rust finds them, laid out anew.
fn write_number(number: f64, out: &mut String) {
    if number == 0.0 {
        out.push('0');
        return;
    }
    if number < 0.0 {
        out.push('-');
    }
    let shortest = shortest(number.abs());
    let (mantissa, exponent) = shortest.split_once('e').unwrap();
    let digits = mantissa.replace('.', "");
    let count = i32::try_from(digits.len()).unwrap();
    // The value is 0.DIGITS times ten to the power of this.
    let point = exponent.parse::<i32>().unwrap() + 1;
    let zeros = |n: i32| "0".repeat(usize::try_from(n).unwrap());
    let at = |n: i32| digits.split_at(usize::try_from(n).unwrap());
    if count <= point && point <= 21 {
        out.push_str(&digits);
        out.push_str(&zeros(point - count));
    } else if 0 < point && point <= 21 {
        let (whole, part) = at(point);
        let _ = write!(out, "{whole}.{part}");
    } else if -6 < point && point <= 0 {
        let _ = write!(out, "0.{}{digits}", zeros(-point));
    } else {
        let (first, more) = at(1);
        let dot = if more.is_empty() { "" } else { "." };
        let sign = if point > 0 { '+' } else { '-' };
        let _ = write!(out, "{first}{dot}{more}e{sign}{}", (point - 1).abs());
    }
}

/// The shortest decimal that reads as this number. Of two that are equally near, the standard library
/// takes the greater one, and RFC 8785, section 3.2.2.3 (ECMA-262's Note 2) the even one.
fn shortest(number: f64) -> String {
    let shortest = format!("{number:e}");
    let (mantissa, exponent) = shortest.split_once('e').unwrap();
    let digits = mantissa.bytes().filter(u8::is_ascii_digit).count();
    // All of them: no number has more (2 to the power of -1074 less the last bit has 767).
    let exact = format!("{number:.800e}");
    let kept = if digits == 1 { 1 } else { digits + 1 };
    let (lower, rest) = exact.split_once('e').unwrap().0.split_at(kept);
    let is_between = rest.trim_start_matches('.').trim_end_matches('0') == "5";
    let even = lower.ends_with(['0', '2', '4', '6', '8']);
    let lower = format!("{lower}e{exponent}");
    if is_between && even && lower.parse() == Ok(number) { lower } else { shortest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_of_the_standards() {
        // RFC 8785, appendix B, and section 3.2.
        for (text, expected) in [
            ("-0", "0"),
            ("5e-324", "5e-324"),
            ("-1.7976931348623157e308", "-1.7976931348623157e+308"),
            ("9007199254740992", "9007199254740992"),
            ("295147905179352830000", "295147905179352830000"),
            ("1e21", "1e+21"),
            ("9.999999999999997e22", "9.999999999999997e+22"),
            ("1e-6", "0.000001"),
            ("1e-7", "1e-7"),
            ("333333333.33333329", "333333333.3333333"),
            // As near to the one as to the other: the even one.
            ("90075147409930.13", "90075147409930.12"),
            ("1125899906842624.75", "1125899906842624.8"),
            ("1125899906842624.25", "1125899906842624.2"),
            (
                r#"{"b":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","a":[]}"#,
                "{\"a\":[],\"b\":\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}",
            ),
        ] {
            assert_eq!(canonical(text).as_deref(), Some(expected), "{text}");
        }
        for text in
            ["", "01", "1.", ".5", "+1", "1e309", "[1,]", "{\"a\":1,\"a\":2}", "\"\\ud800\"", "nul"]
        {
            assert_eq!(canonical(text), None, "{text}");
        }
    }
}
