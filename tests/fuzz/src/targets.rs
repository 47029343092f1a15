//! The targets.

mod agent_frames;
mod canonical_json;
mod chains;
mod connections;
mod guest_channel;
mod guest_frames;
mod planted;
mod relay_frames;
mod snapshot_file;
mod state_files;
mod stores;
mod tool_params;

/// One target.
#[derive(Debug)]
pub struct Target {
    /// Its name, also that of its directory of seeds.
    pub name: &'static str,
    /// What it reads.
    pub about: &'static str,
    /// Reads it.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: [Target; 13] = [
    Target {
        name: "guest_frames",
        about: "frames of the control connection and every message in them, both ways",
        run: guest_frames::run,
    },
    Target {
        name: "guest_channel",
        about: "the host's side of a control connection, against a guest that says anything",
        run: guest_channel::run,
    },
    Target {
        name: "relay_frames",
        about: "every frame from a relay; envelopes, rightly signed and not; results",
        run: relay_frames::run,
    },
    Target {
        name: "agent_frames",
        about: "every frame to a relay, with any text in its fields",
        run: agent_frames::run,
    },
    Target {
        name: "canonical_json",
        about: "canonical JSON beside a second implementation",
        run: canonical_json::run,
    },
    Target {
        name: "block_chains",
        about: "registers, rings and descriptor chains of the disk",
        run: chains::block,
    },
    Target { name: "rng_chains", about: "the same of the entropy device", run: chains::rng },
    Target { name: "vsock_chains", about: "the same of the socket device", run: chains::vsock },
    Target {
        name: "vsock_connections",
        about: "connections of the socket device: packets, and calls of the host",
        run: connections::run,
    },
    Target {
        name: "snapshot_file",
        about: "snapshots, changed and with their checksums made right again",
        run: snapshot_file::run,
    },
    Target {
        name: "stores",
        about: "nonces, journal and audit log, changed on disk",
        run: stores::run,
    },
    Target {
        name: "state_files",
        about: "every other file of an agent: latch, baselines, identity, keys, policy, evidence",
        run: state_files::run,
    },
    Target {
        name: "tool_params",
        about: "parameters against the schemas of the registry, and registries",
        run: tool_params::run,
    },
];

/// One that always finds something, and is not one of [`TARGETS`].
pub const PLANTED: Target = Target {
    name: "planted",
    about: "nothing of this project: it has a bug, to show that bugs are found",
    run: planted::run,
};
