mod properties;

use serde_json::json;

use super::*;

fn canonical(text: &str) -> Result<String, CanonicalError> {
    Json::parse(text).map(|json| String::from_utf8(json.canonical()).unwrap())
}

fn twice(key: &str) -> Result<String, CanonicalError> {
    Err(CanonicalError::DuplicateKey(key.to_owned()))
}

#[test]
fn a_key_twice_is_refused_at_any_depth() {
    assert_eq!(canonical(r#"{"a":1,"b":2,"a":1}"#), twice("a"));
    assert_eq!(canonical(r#"{"a":1,"\u0061":1}"#), twice("a"));
    assert_eq!(canonical(r#"[{"x":{"":1,"":2}}]"#), twice(""));
    assert_eq!(canonical("{\"\u{e9}\":1,\"e\u{301}\":1}"), twice("\u{e9}"));
    assert_eq!(canonical("{\"\u{212b}\":1,\"A\u{30a}\":1}"), twice("\u{c5}"));
    let long = "k".repeat(1000);
    assert_eq!(canonical(&format!("{{\"{long}\":1,\"{long}\":1}}")), twice(&long[..64]));
    assert_eq!(canonical(r#"{"a":{"a":1},"b":{"a":1}}"#).unwrap(), r#"{"a":{"a":1},"b":{"a":1}}"#);
}

#[test]
fn half_a_surrogate_pair_is_refused() {
    for text in [
        r#""\ud800""#,
        r#""\udfff""#,
        r#""\ud800\ud800""#,
        r#""\ud800A""#,
        r#""\ud800\u0041""#,
        r#"{"\ud800":1}"#,
    ] {
        assert!(matches!(canonical(text), Err(CanonicalError::Syntax(_))), "{text}");
    }
    assert_eq!(canonical(r#""\ud83d\ude00""#).unwrap(), "\"\u{1f600}\"");
}

#[test]
fn a_number_beyond_a_double_is_refused() {
    for text in ["1e309", "-1e309", "1e400", "1e99999999999999999999", &"9".repeat(400)] {
        assert!(matches!(canonical(text), Err(CanonicalError::Syntax(_))), "{text}");
    }
    assert_eq!(canonical("1e-99999999999999999999").unwrap(), "0");
    assert_eq!(canonical("0e99999999999999999999").unwrap(), "0");
}

/// RFC 8785, section 3.2.2.3: "Note 2" of ECMA-262's Number::toString holds.
#[test]
fn of_two_decimals_that_are_equally_near_the_even_one_is_written() {
    for (text, expected) in [
        ("90075147409930.13", "90075147409930.12"),
        ("-90075147409930.125", "-90075147409930.12"),
        ("1125899906842624.25", "1125899906842624.2"),
        ("1125899906842624.75", "1125899906842624.8"),
    ] {
        assert_eq!(canonical(text).unwrap(), expected);
    }
}

#[test]
fn nesting_is_bounded() {
    let arrays = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    let objects = |n: usize| format!("{}1{}", "{\"a\":".repeat(n), "}".repeat(n));
    for text in [arrays(MAX_DEPTH), objects(MAX_DEPTH)] {
        assert_eq!(canonical(&text).unwrap(), text);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(Json::from_value(&value).unwrap().canonical(), text.as_bytes());
        assert_eq!(canonical_bytes(&value).unwrap(), text.as_bytes());
        assert_eq!(check_keys(&value), Ok(()));
        let deeper = json!([value]);
        assert_eq!(Json::from_value(&deeper), Err(CanonicalError::TooDeep));
        assert_eq!(canonical_bytes(&deeper), Err(CanonicalError::TooDeep));
        assert_eq!(check_keys(&deeper), Err(CanonicalError::TooDeep));
    }
    for text in [arrays(MAX_DEPTH + 1), objects(MAX_DEPTH + 1), arrays(1_000_000), "[".repeat(100)]
    {
        assert_eq!(canonical(&text), Err(CanonicalError::TooDeep));
    }
}

#[test]
fn length_is_bounded() {
    let text = format!("\"{}\"", "a".repeat(MAX_BYTES - 2));
    assert!(Json::parse(&text).is_ok());
    assert_eq!(Json::parse(&format!("{text} ")), Err(CanonicalError::TooLarge(MAX_BYTES + 1)));
}

#[test]
fn keys_sort_by_utf16_code_units() {
    // By code points U+1F600 would be last; by UTF-16 its first unit is 0xD83D.
    let text =
        "{\"\u{ffff}\":1,\"\u{1f600}\":2,\"\u{e000}\":3,\"\u{d7ff}\":4,\"aa\":5,\"a\":6,\"\":7}";
    let sorted =
        "{\"\":7,\"a\":6,\"aa\":5,\"\u{d7ff}\":4,\"\u{1f600}\":2,\"\u{e000}\":3,\"\u{ffff}\":1}";
    assert_eq!(canonical(text).unwrap(), sorted);
}

#[test]
fn an_example_of_the_standard_after_nfc() {
    // RFC 8785 3.2.3; U+FB33 decomposes and so leaves its place behind the euro sign.
    let text = "{\"\\u20ac\":1,\"\\r\":2,\"\\ufb33\":3,\"1\":4,\"\\ud83d\\ude00\":5,\"\\u0080\":6,\"\\u00f6\":7}";
    let sorted = "{\"\\r\":2,\"1\":4,\"\u{80}\":6,\"\u{f6}\":7,\"\u{5d3}\u{5bc}\":3,\"\u{20ac}\":1,\"\u{1f600}\":5}";
    assert_eq!(canonical(text).unwrap(), sorted);
}

#[test]
fn values_of_this_program_have_a_canonical_form_too() {
    #[derive(Serialize)]
    struct Example {
        z: Option<u8>,
        a: &'static str,
        n: (u64, f64, f64),
    }
    let example = Example { z: None, a: "e\u{301}", n: (u64::MAX, -0.0, f64::NAN) };
    let expected = "{\"a\":\"\u{e9}\",\"n\":[18446744073709552000,0,null],\"z\":null}";
    assert_eq!(canonical_bytes(&example).unwrap(), expected.as_bytes());

    let colliding = json!({"\u{e9}": 1, "e\u{301}": 2});
    let error = CanonicalError::DuplicateKey("\u{e9}".into());
    assert_eq!(canonical_bytes(&colliding), Err(error.clone()));
    assert_eq!(Json::from_value(&colliding), Err(error.clone()));
    assert_eq!(check_keys(&json!([colliding])), Err(error));

    let no_json = std::collections::BTreeMap::from([(vec![1], 1)]);
    assert!(matches!(canonical_bytes(&no_json), Err(CanonicalError::NoJsonForm(_))));
}

#[test]
fn whole_numbers_come_back_as_integers_while_they_are_exact() {
    for (text, value) in [
        ("1.0", json!(1)),
        ("-0.0", json!(0)),
        ("9007199254740992", json!(9_007_199_254_740_992_i64)),
        ("-9007199254740992", json!(-9_007_199_254_740_992_i64)),
        ("9007199254740994", json!(9_007_199_254_740_994.0)),
        ("1e300", json!(1e300)),
        ("0.5", json!(0.5)),
    ] {
        let json = Json::parse(text).unwrap();
        assert_eq!(json.to_value(), value, "{text}");
        assert_eq!(json.into_value(), value, "{text}");
    }
    assert!(matches!(Json::parse("-0.0"), Ok(Json::Number(zero)) if zero.is_sign_positive()));
}

#[test]
fn entries_are_found_by_name() {
    let json = Json::parse(r#"{"b":"x","a":null}"#).unwrap();
    assert_eq!(json.get("b").and_then(Json::as_str), Some("x"));
    assert_eq!(json.get("a"), Some(&Json::Null));
    assert_eq!(json.get("a").and_then(Json::as_str), None);
    assert_eq!(json.get("c"), None);
    assert_eq!(Json::Null.get("a"), None);
}
