//! A relay, an agent, and a few commands: enrolls the agent, has it serve, sends it tools and prints
//! what came back, with the state of each reset and the time it took.
//!
//! `demo AGENT IMAGE_DIR [COUNT] [--tamper AGENT_TO_TAMPER]`. With a count it sends that many
//! `echo`s one after the other and prints how the time between envelope and result is spent. With
//! an agent that lets its machines be tampered with it also shows what becomes of one that was.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dev_relay::{Config, DevRelay, DispatchOptions, Outcome};
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The tool whose machine is tampered with.
const WRITE: &str = "write_file";

/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(120);

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let tamper = arguments.iter().position(|word| word == "--tamper");
    let tamper = tamper.map(|at| arguments.split_off(at)).and_then(|words| words.get(1).cloned());
    let [agent, image, count @ ..] = arguments.as_slice() else {
        return Err("say where the agent and its image are: demo AGENT IMAGE_DIR [COUNT]".into());
    };
    let count: usize = count.first().map_or(Ok(0), |text| text.parse())?;
    let relay = DevRelay::start(Config::default()).await?;
    println!("relay      {} (loopback, in memory)", relay.ws_url());
    let home = std::env::temp_dir().join(format!("brainstorm-demo-{}", std::process::id()));
    let serving = Serving::start(&relay, agent, Program::Agent, image, &home).await?;
    println!("endpoint   {} has a session\n", serving.endpoint_id);

    let tools = [
        ("echo", json!({"message": "hello from the relay"})),
        ("uname", json!({})),
        ("text_search", json!({"pattern": "root", "path": "/etc/passwd"})),
        ("cat", json!({"path": "/nonexistent"})),
        ("rm", json!({})),
    ];
    for (tool, params) in tools {
        let (outcome, took) = run(&relay, &serving.endpoint_id, tool, &params).await?;
        print(tool, &outcome, took);
    }
    for _ in 0..count {
        let params = json!({"message": "hello"});
        let (outcome, _) = run(&relay, &serving.endpoint_id, "echo", &params).await?;
        if !outcome.is_completed() {
            print("echo", &outcome, Duration::ZERO);
            return Err("a command did not complete".into());
        }
    }
    println!("{}", serving.ask(&["status"])?);
    if count > 0 {
        distributions(&serving.ask(&["status", "--json"])?)?;
    }
    println!("{}", serving.ask(&["audit", "verify"])?);
    drop(serving);
    if let Some(program) = tamper {
        tampered(&relay, agent, &program, image, &home).await?;
    }
    if let Some(violation) = relay.violations().first() {
        return Err(format!("the agent broke the protocol: {violation}").into());
    }
    Ok(())
}

/// A clean command, one whose machine is tampered with, and the way back.
async fn tampered(
    relay: &DevRelay,
    agent: &str,
    program: &str,
    image: &str,
    home: &Path,
) -> Result<()> {
    println!("An agent on a host where another process changes machines behind its back.\n");
    let serving =
        Serving::start(relay, agent, Program::ToTamper(program.into()), image, home).await?;
    let endpoint = &serving.endpoint_id;
    let params = json!({"path": "/work/note", "content": "a note"});
    let completes = async |title: &str| {
        println!("{title}");
        let (outcome, took) = run(relay, endpoint, WRITE, &params).await?;
        print(WRITE, &outcome, took);
        if outcome.is_completed() { Ok(()) } else { Err("the command did not complete") }?;
        Result::Ok(())
    };
    let fails = async |title: &str, code: &str| {
        println!("{title}");
        let (outcome, took) = run(relay, endpoint, WRITE, &params).await?;
        print(WRITE, &outcome, took);
        if outcome.code() == Some(code) {
            Result::Ok(())
        } else {
            Err(format!("{code} was expected").into())
        }
    };
    completes("A clean command: its reset is verified.").await?;
    std::fs::write(home.join("tamper"), "base")?;
    fails(
        "Now one bit of the disk, as the guest reads it, is flipped behind the machine's back.",
        "ENDPOINT_RESET_VERIFICATION_DIVERGENCE",
    )
    .await?;
    fails("The next command finds a closed door.", "ENDPOINT_INTEGRITY_MONITOR_TRIPPED").await?;
    println!("$ brainstorm-agent explain\n{}", serving.ask(&["explain"])?);
    println!("$ brainstorm-agent clear --reason \"it was a demonstration\"");
    println!("{}", serving.ask(&["clear", "--reason", "it was a demonstration"])?);
    completes("And work again, on a machine that was booted anew.").await?;
    println!("{}", serving.ask(&["audit", "verify"])?);
    Ok(())
}

async fn run(
    relay: &DevRelay,
    endpoint: &str,
    tool: &str,
    params: &Value,
) -> Result<(Outcome, Duration)> {
    let mut command = relay.dispatch(endpoint, tool, params, &DispatchOptions::default())?;
    let outcome = command.outcome(LIMIT).await?;
    Ok((outcome, command.timings().to_end().unwrap_or_default()))
}

fn print(tool: &str, outcome: &Outcome, time: Duration) {
    let frame = outcome.frame();
    println!("$ {tool}  ({:.1} ms from dispatch to result)", time.as_secs_f64() * 1000.0);
    match outcome.code() {
        None => print!("{}", frame["payload"]["stdout"].as_str().unwrap_or_default()),
        Some(code) => {
            let error = if frame["error"].is_object() { &frame["error"] } else { frame };
            println!("{code}: {}", error["message"].as_str().unwrap_or_default());
        }
    }
    let reset = &frame["sandbox_reset_state"];
    if reset.is_object() {
        let details = &reset["verification_details"];
        let hash = details["fs_hash"].as_str().unwrap_or_default();
        println!(
            "  reset: verified {}, disk {}..., {} descriptors of {}, machine {}",
            reset["verification_passed"],
            hash.get(..18).unwrap_or(hash),
            details["open_fd_count"],
            details["open_fd_count_baseline"],
            details["vmm_api_state"].as_str().unwrap_or_default(),
        );
    }
    println!();
}

fn distributions(status: &str) -> Result<()> {
    let status: Value = serde_json::from_str(status)?;
    let recent = &status["recent"];
    println!(
        "{:<8} {:>12} {:>12} {:>12} {:>12}   microseconds, {} commands",
        "", "p50", "p90", "p99", "max", recent["commands"]
    );
    for part in ["verify", "store", "ack", "wait", "execute", "reset", "send", "total"] {
        let [p50, p90, p99, max] =
            ["p50_us", "p90_us", "p99_us", "max_us"].map(|of| recent[part][of].as_f64());
        let text = |value: Option<f64>| format!("{:.0}", value.unwrap_or_default());
        println!(
            "{part:<8} {:>12} {:>12} {:>12} {:>12}",
            text(p50),
            text(p90),
            text(p99),
            text(max)
        );
    }
    println!();
    Ok(())
}

/// Which program serves.
enum Program {
    /// The agent itself.
    Agent,
    /// The one that looks for orders to tamper in its directory.
    ToTamper(PathBuf),
}

/// An agent that serves the relay. Its process and its directory end with this.
struct Serving {
    agent: PathBuf,
    home: PathBuf,
    child: Child,
    endpoint_id: String,
}

impl Serving {
    async fn start(
        relay: &DevRelay,
        agent: &str,
        program: Program,
        image: &str,
        home: &Path,
    ) -> Result<Self> {
        let token = relay.issue_token(None);
        let enrolled = Command::new(agent)
            .arg("enroll")
            .args(["--relay", &relay.http_url(), "--token", &token.token])
            .args(["--tenant-key", &relay.tenant_public_key_hex()])
            .args(["--signing-key-id", &relay.signing_key_id(), "--json", "--state-dir"])
            .arg(home)
            .output()?;
        if !enrolled.status.success() {
            return Err(String::from_utf8_lossy(&enrolled.stderr).into_owned().into());
        }
        let answer: Value = serde_json::from_slice(&enrolled.stdout)?;
        let endpoint_id = answer["endpoint_id"].as_str().unwrap_or_default().to_owned();
        // A demonstration may forget: temporary directories often are memory.
        let config = home.join("config.toml");
        let (place, url) = (home.to_string_lossy(), relay.ws_url());
        let settings =
            format!("state_dir = {place:?}\nrelay = {url:?}\n[run]\nallow_volatile_state = true\n");
        std::fs::write(&config, settings)?;
        let log = std::fs::File::create(home.join("log"))?;
        let mut command = match program {
            Program::Agent => {
                let mut command = Command::new(agent);
                command.args(["--image-dir", image, "--config"]).arg(config).arg("run");
                command
            }
            Program::ToTamper(program) => {
                let mut command = Command::new(program);
                command.arg(config).arg(image).arg(home);
                command
            }
        };
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
        let serving = Self { agent: agent.into(), home: home.to_owned(), child, endpoint_id };
        if relay.wait_for_endpoint(&serving.endpoint_id, LIMIT).await.is_none() {
            let log = std::fs::read_to_string(home.join("log"))?;
            return Err(format!("the agent does not connect:\n{log}").into());
        }
        Ok(serving)
    }

    fn ask(&self, words: &[&str]) -> Result<String> {
        let output =
            Command::new(&self.agent).args(words).arg("--state-dir").arg(&self.home).output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // What is left of a demonstration has no further use.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.home);
    }
}
