//! What the agent would give up here before it serves: one check for each layer.

use super::{Check, CheckStatus, check};
use crate::confine::{LandlockHere, NEWEST_LANDLOCK, Possible};

/// Enough for the agent, its stores and a few dozen machines.
const OPEN_FILES: u64 = 1024;

/// One check for each layer.
pub fn checks(possible: &Possible) -> [Check; 5] {
    [
        no_new_privileges(possible),
        capabilities(possible),
        landlock(possible.landlock),
        seccomp(possible),
        limits(possible.open_files),
    ]
}

fn no_new_privileges(possible: &Possible) -> Check {
    const NAME: &str = "no_new_privileges";
    if possible.no_new_privileges {
        check(NAME, CheckStatus::Ok, "no program can give a serving agent more rights than it has")
    } else {
        check(
            NAME,
            CheckStatus::Failed,
            "the kernel does not know no_new_privs; `run` will not serve",
        )
        .remedy("use Linux 3.5 or newer")
    }
}

fn capabilities(possible: &Possible) -> Check {
    const NAME: &str = "capabilities";
    if !possible.capabilities_known {
        return check(
            NAME,
            CheckStatus::Failed,
            "capabilities cannot be read; `run` will not serve",
        )
        .remedy("let the agent's sandbox or container have capget(2) and capset(2)");
    }
    let held = possible.capabilities.count_ones();
    let finding = match held {
        0 => "this user has none".to_owned(),
        held => format!("this user has {held}; a serving agent drops them all"),
    };
    check(NAME, CheckStatus::Ok, finding)
}

fn landlock(landlock: LandlockHere) -> Check {
    const NAME: &str = "landlock";
    match landlock {
        LandlockHere::Version(version) if version >= NEWEST_LANDLOCK => {
            let finding = format!("version {version}: a serving agent reaches its own files only");
            check(NAME, CheckStatus::Ok, finding)
        }
        LandlockHere::Version(version) => {
            let finding = format!(
                "version {version} of {NEWEST_LANDLOCK}: files of others are out of reach, some \
                 rules are missing"
            );
            check(NAME, CheckStatus::Warning, finding)
                .remedy("Linux 6.10 and newer have every rule the agent asks for")
        }
        LandlockHere::SwitchedOff => check(
            NAME,
            CheckStatus::Warning,
            "switched off: a serving agent reaches its user's files",
        )
        .remedy("boot the host with `landlock` in `lsm=`, for example `lsm=landlock,yama`"),
        LandlockHere::Missing => {
            check(NAME, CheckStatus::Warning, "missing: a serving agent reaches its user's files")
                .remedy("use Linux 5.13 or newer, built with CONFIG_SECURITY_LANDLOCK")
        }
    }
}

fn seccomp(possible: &Possible) -> Check {
    const NAME: &str = "seccomp";
    if possible.system_calls {
        check(
            NAME,
            CheckStatus::Ok,
            "filters for the process, threads of vCPUs, of machines and of stores",
        )
    } else {
        check(NAME, CheckStatus::Failed, "the kernel filters no system calls; `run` will not serve")
            .remedy("use a kernel built with CONFIG_SECCOMP_FILTER, Linux 4.14 or newer")
    }
}

fn limits(open_files: Option<u64>) -> Check {
    const NAME: &str = "limits";
    match open_files {
        Some(open) if open < OPEN_FILES => check(
            NAME,
            CheckStatus::Warning,
            format!("{open} open files; a serving agent dumps no core"),
        )
        .remedy(format!("set `LimitNOFILE={OPEN_FILES}` or more in its unit")),
        Some(open) => check(
            NAME,
            CheckStatus::Ok,
            format!("{open} open files; a serving agent dumps no core"),
        ),
        None => check(NAME, CheckStatus::Ok, "any number of files; a serving agent dumps no core"),
    }
}
