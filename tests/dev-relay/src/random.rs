//! Random bytes from the kernel.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// 32 random bytes: a key seed, a nonce, a token.
///
/// # Panics
///
/// When the kernel refuses random numbers: nothing this program makes would be worth having.
pub(crate) fn bytes() -> [u8; 32] {
    let mut bytes = [0; 32];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            #[allow(clippy::panic, reason = "a relay without random numbers must not run")]
            Err(errno) => panic!("the kernel gives no random numbers: {errno}"),
        }
    }
    bytes
}

/// 32 random bytes as the 43 characters of unpadded base64url.
pub(crate) fn text() -> String {
    URL_SAFE_NO_PAD.encode(bytes())
}

/// A random UUID.
pub(crate) fn uuid() -> String {
    uuid::Uuid::new_v4().to_string()
}
