//! Where files of the system really are: Landlock judges the target of a link, and a file that is
//! replaced by rename is another file.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// Files and directories that are links on one distribution or another: the resolver's and the
/// places of certificate authorities (as the crate openssl-probe has them).
const SYSTEM: [&str; 10] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/localtime",
    "/etc/ssl/certs",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
];
/// Variables that name other authorities.
const VARIABLES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];
/// Fewest components of a directory that is opened up for one file in it: `/opt` and `/run` hold what
/// belongs to others.
const NARROW: usize = 3;

/// What has to be readable for the resolver and for certificate authorities.
pub fn of_system() -> Vec<PathBuf> {
    let named = VARIABLES.iter().filter_map(env::var_os).map(PathBuf::from);
    SYSTEM.iter().map(PathBuf::from).chain(named).filter_map(|path| readable(&path)).collect()
}

/// What has to be readable so that `path` can be read, also once it is replaced by rename: the
/// directory that holds it behind all links. Only the file, where that directory is as wide as
/// `/opt`. `None` where nothing is there.
pub fn readable(path: &Path) -> Option<PathBuf> {
    let Ok(target) = path.canonicalize() else { return awaited(path) };
    if target.is_dir() {
        return Some(target);
    }
    let directory = target.parent()?;
    Some(if is_narrow(directory) { directory.to_owned() } else { target })
}

/// The directory in which the target of a link will appear, such as that of a resolver which has not
/// started.
fn awaited(path: &Path) -> Option<PathBuf> {
    let target = path.parent()?.join(fs::read_link(path).ok()?);
    let existing = target.ancestors().find_map(|directory| directory.canonicalize().ok())?;
    is_narrow(&existing).then_some(existing)
}

fn is_narrow(directory: &Path) -> bool {
    directory.components().count() >= NARROW
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_directory_behind_the_links_is_what_counts() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let (etc, run) = (root.join("etc"), root.join("run/network"));
        fs::create_dir_all(&etc).unwrap();
        fs::create_dir_all(&run).unwrap();
        fs::write(run.join("resolv.conf"), "").unwrap();
        symlink("../run/network/resolv.conf", etc.join("middle")).unwrap();
        symlink("middle", etc.join("resolv.conf")).unwrap();
        assert_eq!(readable(&etc.join("resolv.conf")), Some(run.clone()));
        symlink(&run, etc.join("certs")).unwrap();
        assert_eq!(readable(&etc.join("certs")), Some(run.clone()));

        symlink("../run/network/later/resolv.conf", etc.join("awaited")).unwrap();
        assert_eq!(readable(&etc.join("awaited")), Some(run));
        assert_eq!(readable(&etc.join("nothing")), None);
    }

    #[test]
    fn no_directory_of_others_is_opened_for_one_file() {
        assert_eq!(readable(Path::new("/dev/null")), Some("/dev/null".into()));
        assert!(!is_narrow(Path::new("/opt")) && is_narrow(Path::new("/opt/relay")));
        let root = tempfile::tempdir().unwrap();
        let link = root.path().join("link");
        symlink("/no-such-directory/of-ours", &link).unwrap();
        assert_eq!(readable(&link), None);
    }
}
