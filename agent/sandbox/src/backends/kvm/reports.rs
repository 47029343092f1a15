//! What a KVM machine reports, in the sandbox's own types.

use std::io;
use std::net::Shutdown;
use std::time::Duration;

use vmm::{Machine, ResetParts, VsockStream};

use crate::Phases;
use crate::channel::{ReadLink, WriteLink};
use crate::verify::{Finding, Location, Source};

/// Steps of the machine's boot.
pub fn boot_phases(machine: &Machine) -> Phases {
    Phases::new(machine.timings().unwrap_or_default().named())
}

/// Steps of the machine's reset.
pub fn reset_phases(parts: &ResetParts) -> Phases {
    Phases::new(parts.named())
}

impl From<vmm::Finding> for Finding {
    fn from(found: vmm::Finding) -> Self {
        let source = match found.source {
            vmm::FindingSource::Disk => Source::Disk,
            vmm::FindingSource::Memory => Source::Memory,
            vmm::FindingSource::Vmm => Source::Monitor,
        };
        let location = match found.place {
            vmm::Location::Block { number } => Location::Block { number },
            vmm::Location::Page { address } => Location::Page { address },
            vmm::Location::GoldenPage { address } => Location::GoldenPage { address },
            vmm::Location::State { name } => Location::State { name },
        };
        Self::new(source, location, found.was, found.is)
    }
}

impl ReadLink for VsockStream {
    fn limit_reads(&mut self, limit: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(limit));
        Ok(())
    }

    fn close(&mut self) {
        // A stream that cannot be closed is closed already.
        let _ = self.shutdown(Shutdown::Both);
    }
}

impl WriteLink for VsockStream {
    fn limit_writes(&mut self, limit: Duration) -> io::Result<()> {
        self.set_write_timeout(Some(limit));
        Ok(())
    }

    fn close(&mut self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_step_of_a_reset_is_left_out() {
        let ms = Duration::from_millis;
        let mut parts = ResetParts::default();
        (parts.stop, parts.collect, parts.copy, parts.devices) = (ms(1), ms(2), ms(4), ms(8));
        (parts.disk, parts.vm, parts.vcpus, parts.resume) = (ms(16), ms(32), ms(64), ms(128));
        assert_eq!(reset_phases(&parts).total(), parts.total());
        assert_eq!(reset_phases(&parts).took("vm"), ms(32));
    }

    #[test]
    fn what_a_machine_finds_keeps_its_place_and_its_words() {
        let places = [
            (vmm::Location::Block { number: 3 }, Location::Block { number: 3 }),
            (vmm::Location::Page { address: 4096 }, Location::Page { address: 4096 }),
            (vmm::Location::GoldenPage { address: 8192 }, Location::GoldenPage { address: 8192 }),
            (vmm::Location::State { name: "PIT".into() }, Location::State { name: "PIT".into() }),
        ];
        for (theirs, ours) in places {
            let source = vmm::FindingSource::Memory;
            let (was, is) = ("1".to_owned(), "2".to_owned());
            let found = vmm::Finding { source, place: theirs, was, is };
            let line = found.to_string();
            let finding = Finding::from(found);
            assert_eq!((finding.location, finding.line), (ours, line));
        }
    }
}
