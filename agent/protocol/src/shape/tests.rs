use super::*;

const NONCE: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

#[test]
fn a_uuid_has_hyphens_and_hex_digits_at_their_places() {
    assert!(is_uuid("3f2b8c1e-7d4a-4e9b-9c55-0123456789ab"));
    assert!(is_uuid("3F2B8C1E-7D4A-4E9B-9C55-0123456789AB"));
    for text in [
        "",
        "3f2b8c1e7d4a4e9b9c550123456789ab",
        "{3f2b8c1e-7d4a-4e9b-9c55-0123456789ab}",
        "urn:uuid:3f2b8c1e-7d4a-4e9b-9c55-0123456789ab",
        "3f2b8c1e-7d4a-4e9b-9c55-0123456789ag",
        "3f2b8c1e-7d4a-4e9b-9c5-50123456789ab",
        "3f2b8c1e-7d4a-4e9b-9c55-0123456789a\u{e9}",
    ] {
        assert!(!is_uuid(text), "{text}");
    }
}

#[test]
fn a_nonce_is_32_bytes_in_one_spelling() {
    assert!(is_nonce(NONCE));
    for text in [
        String::new(),
        NONCE[1..].to_owned(),
        format!("{NONCE}="),
        format!("A{NONCE}"),
        "A".repeat(42),
        "A".repeat(44),
        "A".repeat(1 << 20),
        // The last digit holds two bits that must be zero.
        NONCE.replace("Hh8", "Hh9"),
        NONCE.replace("Hh8", "H+8"),
        NONCE.replace("Hh8", "H/8"),
        NONCE.replace("Hh8", "H 8"),
        NONCE.replace("Hh8", "\u{e9}8"),
    ] {
        assert!(!is_nonce(&text), "{text}");
    }
    assert!(is_nonce(&NONCE.replace("Hh8", "-_8")));
}

#[test]
fn a_signature_may_lack_its_padding_and_nothing_else() {
    use base64::engine::general_purpose::STANDARD;
    let bytes: [u8; 64] = std::array::from_fn(|at| 0xfb ^ at as u8);
    let text = STANDARD.encode(bytes);
    let bare = text.trim_end_matches('=');
    assert!(text.contains('+') || text.contains('/'));
    assert_eq!(signature_of_base64(&text), Some(bytes));
    assert_eq!(signature_of_base64(bare), Some(bytes));
    for wrong in [
        String::new(),
        "==".into(),
        format!("{bare}="),
        format!("{bare}==="),
        format!("{bare}===="),
        format!("{text}\n"),
        format!(" {text}"),
        format!("{} {}", &text[..4], &text[4..]),
        text.replace(['+', '/'], "-"),
        STANDARD.encode(&bytes[1..]),
        STANDARD.encode([0; 65]),
        STANDARD.encode([0; 66]),
        STANDARD.encode([0; 300]),
        format!("{}B", "A".repeat(85)),
    ] {
        assert_eq!(signature_of_base64(&wrong), None, "{wrong}");
    }
}

#[test]
fn hex_digits_and_bytes_are_each_others_inverse() {
    assert_eq!(bytes_of_hex("00fFa5"), Some([0x00, 0xff, 0xa5]));
    assert_eq!(hex_of_bytes(&[0x00, 0xff, 0xa5]), "00ffa5");
    for wrong in ["", "00ff", "00ffa", "00ffa5a", "00ffa5a5", "00ffg5", "+0ffa5", "00ff\u{e9}"] {
        assert_eq!(bytes_of_hex::<3>(wrong), None, "{wrong}");
    }
}
