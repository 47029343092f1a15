use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::test_runner::TestRng;
use serde_json::{Map, Value};
use unicode_normalization::UnicodeNormalization;

use super::*;

/// Text where normal forms, key order and escapes matter, more often than in arbitrary text.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-c]{0,2}",
        "[ -~]{0,8}",
        "[\\x00-\\x1f\"\\\\/\\x7f]{0,4}",
        // Composed, combining, singletons, excluded from composition, Hangul, both sides of the
        // surrogates, beyond U+FFFF.
        "[a-cAe\u{e9}\u{300}-\u{304}\u{323}\u{212b}\u{2126}\u{958}\u{fb33}\u{fb1d}\u{1100}\u{1161}\u{11a8}\u{ac00}\u{d7ff}\u{e000}\u{ffff}\u{10000}\u{1f600}\u{1d15f}]{0,6}",
        any::<String>(),
    ]
}

fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<f64>().prop_map(Value::from),
        any::<u64>().prop_map(|bits| Value::from(f64::from_bits(bits))),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<i16>().prop_map(Value::from),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        number(),
        text().prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            btree_map(text(), inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Brings every text to NFC; of keys that collide one stays.
fn stable(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(text.nfc().collect()),
        Value::Array(items) => items.into_iter().map(stable).collect(),
        Value::Object(map) => {
            let entries = map.into_iter().map(|(key, value)| (key.nfc().collect(), stable(value)));
            Value::Object(entries.collect::<Map<_, _>>())
        }
        other => other,
    }
}

/// Writes the value in one of the many ways there are: entries in any order, text composed or
/// decomposed, characters escaped or not, white space anywhere.
fn loosely(value: &Value, random: &mut TestRng) -> String {
    let space = |random: &mut TestRng| [" ", "", "\n", "\t", "\r"][random.random_range(0..5)];
    match value {
        Value::String(text) => loose_text(text, random),
        Value::Array(items) => {
            let items: Vec<_> = items
                .iter()
                .map(|item| format!("{}{}{}", space(random), loosely(item, random), space(random)))
                .collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(map) => {
            let mut entries: Vec<_> = map
                .iter()
                .map(|(key, value)| {
                    let key = loose_text(key, random);
                    let value = loosely(value, random);
                    format!("{}{key}{}:{value}{}", space(random), space(random), space(random))
                })
                .collect();
            for at in (1..entries.len()).rev() {
                entries.swap(at, random.random_range(0..=at));
            }
            format!("{{{}}}", entries.join(","))
        }
        other => other.to_string(),
    }
}

fn loose_text(text: &str, random: &mut TestRng) -> String {
    let text: String = if random.random() { text.nfd().collect() } else { text.to_owned() };
    let mut out = String::from("\"");
    for character in text.chars() {
        if character < ' ' || matches!(character, '"' | '\\') || random.random() {
            for unit in character.encode_utf16(&mut [0; 2]) {
                let escape = format!("\\u{unit:04x}");
                let upper = escape.to_uppercase().replace('U', "u");
                out.push_str(if random.random() { &escape } else { &upper });
            }
        } else {
            out.push(character);
        }
    }
    out + "\""
}

proptest! {
    #[test]
    fn canonical_bytes_are_their_own_canonical_form(value in value().prop_map(stable)) {
        let json = Json::from_value(&value).unwrap();
        let bytes = json.canonical();
        let again = Json::parse(std::str::from_utf8(&bytes).unwrap()).unwrap();
        prop_assert_eq!(&again.canonical(), &bytes);
        prop_assert_eq!(again, json);
    }

    #[test]
    fn every_way_to_write_a_value_has_one_canonical_form(value in value().prop_map(stable), random in any::<[u8; 32]>()) {
        let mut random = TestRng::from_seed(proptest::test_runner::RngAlgorithm::ChaCha, &random);
        let text = loosely(&value, &mut random);
        let json = Json::parse(&text);
        prop_assert_eq!(json, Json::from_value(&value), "{}", text);
    }

    #[test]
    fn another_implementation_agrees_on_text_in_nfc(value in value().prop_map(stable)) {
        let other = serde_json_canonicalizer::to_vec(&value).unwrap();
        let ours = Json::from_value(&value).unwrap().canonical();
        prop_assert_eq!(String::from_utf8(ours).unwrap(), String::from_utf8(other).unwrap());
    }

    #[test]
    fn all_ways_in_agree(value in value()) {
        let json = Json::from_value(&value);
        prop_assert_eq!(Json::parse(&value.to_string()), json.clone());
        prop_assert_eq!(check_keys(&value).is_ok(), json.is_ok());
        prop_assert_eq!(canonical_bytes(&value), json.clone().map(|json| json.canonical()));
        if let Ok(json) = json {
            prop_assert_eq!(Json::from_value(&json.to_value()), Ok(json.clone()));
            prop_assert_eq!(json.to_value(), json.into_value());
        }
    }

    #[test]
    fn no_text_panics_and_what_is_taken_is_stable(text in prop_oneof![
        any::<String>(),
        "[\\[\\]{}:,\"0-9eE+.\\\\ud8-]{0,40}",
        value().prop_map(|value| value.to_string()),
    ]) {
        if let Ok(json) = Json::parse(&text) {
            let bytes = String::from_utf8(json.canonical()).unwrap();
            prop_assert_eq!(Json::parse(&bytes), Ok(json));
        }
    }

    /// Numbers survive the way to text and back to the last bit, except the sign of zero.
    #[test]
    fn numbers_keep_every_bit(bits in any::<u64>()) {
        let number = f64::from_bits(bits);
        prop_assume!(number.is_finite() && number != 0.0);
        let text = String::from_utf8(Json::Number(number).canonical()).unwrap();
        let Ok(Json::Number(again)) = Json::parse(&text) else { panic!("{text}") };
        prop_assert_eq!(again.to_bits(), bits);
    }
}
