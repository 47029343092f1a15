//! Asks QEMU what its processors are at, for people who want to know why a machine stands still.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Looks, so that a loop can be told from a halt.
const LOOKS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(1);
/// Lines worth keeping: which processor, where it is and with which flags, whether it halts, and
/// where its per-processor data lies.
const TELLING: [&str; 4] = ["CPU#", "RIP=", "GS =", "CR3="];

/// Writes what can be learnt to `file`. Nothing where QEMU does not answer: there is another error
/// to tell already.
pub fn save_registers(monitor: &Path, file: &Path) {
    let text = ask(monitor).unwrap_or_else(|e| format!("QEMU does not say: {e}\n"));
    let _ = std::fs::write(file, text);
}

fn ask(monitor: &Path) -> io::Result<String> {
    let mut stream = UnixStream::connect(monitor)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    for _ in 0..LOOKS {
        stream.write_all(b"info registers -a\n")?;
        let mut answer = Vec::new();
        // It ends by saying no more.
        let mut buffer = [0; 4096];
        while let Ok(count) = stream.read(&mut buffer) {
            if count == 0 {
                break;
            }
            answer.extend_from_slice(&buffer[..count]);
        }
        let answer = String::from_utf8_lossy(&answer);
        for line in answer.lines().filter(|line| TELLING.iter().any(|word| line.contains(word))) {
            text.push_str(line.trim());
            text.push('\n');
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn what_tells_something_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let (monitor, file) = (directory.path().join("m"), directory.path().join("f"));
        let listener = UnixListener::bind(&monitor).unwrap();
        let qemu = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = [0; 18];
            while stream.read_exact(&mut question).is_ok() {
                stream.write_all(b"CPU#0\r\nRAX=1\r\nRIP=ffff HLT=1\r\n").unwrap();
            }
        });
        save_registers(&monitor, &file);
        qemu.join().unwrap();
        let text = std::fs::read_to_string(file).unwrap();
        assert_eq!(text, "CPU#0\nRIP=ffff HLT=1\n".repeat(LOOKS));
    }

    #[test]
    fn a_qemu_that_is_gone_is_no_second_error() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f");
        save_registers(&directory.path().join("m"), &file);
        assert!(std::fs::read_to_string(file).unwrap().contains("does not say"));
    }
}
