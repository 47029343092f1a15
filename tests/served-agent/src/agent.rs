//! An agent that serves a relay, with everything real but its machines.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use brainstorm_agent::store::StateDir;
use brainstorm_agent::store::identity::{PendingIdentity, Registration};
use dev_relay::{DevRelay, SessionInfo};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use tempfile::TempDir;

use crate::files::{agent_binary, image_dir};

/// No test waits longer for anything that happens at all.
pub const LIMIT: Duration = Duration::from_secs(60);

/// An enrolled agent, running or not. It is killed when this is dropped.
pub struct ServedAgent {
    dir: TempDir,
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(String, OsString)>,
    child: Option<Child>,
    endpoint_id: String,
}

impl ServedAgent {
    /// Enrolls with the relay. `program` is the `agent-under-test`.
    pub fn enrolled(relay: &DevRelay, program: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.toml");
        let arguments = vec![config.into(), dir.path().into()];
        Self::with(relay, program.into(), arguments, dir)
    }

    /// Enrolls an agent with machines, which wants a KVM that runs Linux.
    pub fn with_machines(relay: &DevRelay) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.toml");
        let arguments = vec![
            "--config".into(),
            config.into(),
            "--image-dir".into(),
            image_dir().into(),
            "run".into(),
        ];
        let agent = Self::with(relay, agent_binary(), arguments, dir);
        agent.configure("[run]\nallow_volatile_state = true\n");
        agent
    }

    /// The same with `program`, the `agent-to-tamper`.
    pub fn with_machines_to_tamper_with(relay: &DevRelay, program: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.toml");
        let arguments = vec![config.into(), image_dir().into(), dir.path().into()];
        let agent = Self::with(relay, program.into(), arguments, dir);
        agent.configure("[run]\nallow_volatile_state = true\n");
        agent
    }

    fn with(relay: &DevRelay, program: PathBuf, arguments: Vec<OsString>, dir: TempDir) -> Self {
        let state = dir.path().join("state");
        StateDir::open(&state).unwrap();
        let endpoint_id = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
        let endpoint_id = endpoint_id.trim().to_owned();
        let pending = PendingIdentity::prepare(&state.join("identity.json"), false).unwrap();
        relay.enroll(&endpoint_id, &STANDARD.encode(pending.public_key()));
        pending
            .enrolled(Registration {
                endpoint_id: endpoint_id.clone(),
                tenant_id: relay.tenant_id().to_owned(),
                registered_at: relay.now().to_string(),
                relay: relay.http_url(),
            })
            .unwrap();
        let (id, key) = (relay.signing_key_id(), relay.tenant_public_key_hex());
        let keys = format!("[[key]]\nid = {id:?}\npublic_key = {key:?}\n");
        fs::write(state.join("keys.toml"), keys).unwrap();
        let place = state.to_str().unwrap();
        let config = format!("state_dir = {place:?}\nrelay = {:?}\n", relay.ws_url());
        fs::write(dir.path().join("config.toml"), config).unwrap();
        Self { program, arguments, environment: Vec::new(), child: None, endpoint_id, dir }
    }

    /// Enrolls, starts, and waits for a session.
    pub async fn serving(relay: &DevRelay, program: &str) -> Self {
        let mut agent = Self::enrolled(relay, program);
        agent.start();
        agent.session(relay).await;
        agent
    }

    /// Adds a table or keys to the configuration.
    pub fn configure(&self, text: &str) {
        let path = self.dir.path().join("config.toml");
        let before = fs::read_to_string(&path).unwrap();
        fs::write(path, before + text).unwrap();
    }

    /// Sets a variable of processes that are started from now on.
    pub fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.environment.push((name.to_owned(), value.into()));
    }

    /// Starts the process.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let log = fs::OpenOptions::new().append(true).create(true).open(self.log_file()).unwrap();
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// Runs the process to its end where its state lies on a disk that cannot be written.
    pub fn run_on_a_read_only_disk(&self) -> std::process::Output {
        let script = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c", script]);
        command.arg(self.state()).arg(&self.program).args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.output().unwrap()
    }

    /// The session it has with the relay, now or soon.
    pub async fn session(&self, relay: &DevRelay) -> SessionInfo {
        let session = relay.wait_for_endpoint(&self.endpoint_id, LIMIT).await;
        session.unwrap_or_else(|| panic!("no session\n{}", self.log()))
    }

    /// The endpoint's id.
    pub fn id(&self) -> &str {
        &self.endpoint_id
    }

    /// What it keeps.
    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Ids of the commands it ran, in order.
    pub fn runs(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir.path().join("runs.log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Waits until that many commands have begun, in all.
    pub fn has_run(&self, count: usize) {
        let until = Instant::now() + LIMIT;
        while self.runs().len() < count {
            assert!(Instant::now() < until, "{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What it said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// Writes a file that the process looks at; without text it goes away.
    pub fn tell(&self, name: &str, text: Option<&str>) {
        let path = self.dir.path().join(name);
        match text {
            Some(text) => fs::write(path, text).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Bounds the size of the files it writes; `None` lifts the bound.
    pub fn limit_files(&self, bytes: Option<u64>) {
        let limit = Rlimit { current: bytes, maximum: None };
        prlimit(Some(self.pid()), Resource::Fsize, limit).unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().expect("it does not run"))
    }

    /// Process ids: the agent's own first, then those of its children.
    pub fn processes(&self) -> Vec<i32> {
        let own = self.pid().as_raw_nonzero().get();
        let mut processes = vec![own];
        for task in fs::read_dir(format!("/proc/{own}/task")).unwrap() {
            let children = fs::read_to_string(task.unwrap().path().join("children"));
            let children = children.unwrap_or_default();
            processes
                .extend(children.split_ascii_whitespace().map(|pid| pid.parse::<i32>().unwrap()));
        }
        processes
    }

    /// Kills it and waits for its end.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.ended();
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it does not run");
        let until = Instant::now() + LIMIT;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            if Instant::now() > until {
                let _ = child.kill();
                panic!("it does not end\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Runs one of the agent's own subcommands on its state directory.
    pub fn command(&self, words: &[&str]) -> std::process::Output {
        let mut command = Command::new(agent_binary());
        command.args(words).arg("--state-dir").arg(self.state()).output().unwrap()
    }
}

impl Drop for ServedAgent {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Flips a bit in the middle of a file.
pub fn damage(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(path, bytes).unwrap();
}
