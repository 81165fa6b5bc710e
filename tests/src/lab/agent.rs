//! The agent under test, run in a node's namespace.

use std::{
    env, fs,
    fs::File,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{
    netns::Entrance,
    process::{Process, describe},
    topology::Lab,
};

const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);

/// The agent's binary: `LB_AGENT`, else the one that cargo has put next to the
/// running executable or its folder.
///
/// # Errors
/// There is none.
pub fn agent_binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("LB_AGENT") {
        return Ok(path.into());
    }
    let own = env::current_exe()?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("lb-agent"))
        .find(|path| path.is_file())
        .with_context(|| {
            format!(
                "no lb-agent near {}; build it or set LB_AGENT",
                own.display()
            )
        })
}

/// `lb-agent run` in a node; killed when dropped. Its log is printed when the
/// test that drops it panics.
#[derive(Debug)]
pub struct AgentProcess {
    node: String,
    netns: Entrance,
    binary: PathBuf,
    arguments: Vec<String>,
    socket: PathBuf,
    log: PathBuf,
    process: Option<Process>,
}

impl Lab {
    /// Starts the agent in a node with the node's own pins and socket; use
    /// [`AgentProcess::wait_ready`] before counting on it.
    ///
    /// # Errors
    /// There is no agent binary, or it cannot be started.
    pub fn start_agent(&self, node: u8, arguments: &[&str]) -> Result<AgentProcess> {
        self.start_agent_from(&agent_binary()?, node, arguments)
    }

    /// As [`Self::start_agent`], with a binary of the caller's choice.
    ///
    /// # Errors
    /// The binary cannot be started.
    pub fn start_agent_from(
        &self,
        binary: &Path,
        node: u8,
        arguments: &[&str],
    ) -> Result<AgentProcess> {
        let name = &self.node(node).name;
        let socket = self.agent_socket(node);
        let mut all: Vec<String> = ["run", "--node-name", name, "--bpffs"]
            .map(Into::into)
            .into();
        all.push(self.pins(node).display().to_string());
        all.push("--socket".into());
        all.push(socket.display().to_string());
        all.extend(arguments.iter().map(|&argument| argument.into()));
        let mut agent = AgentProcess {
            node: name.clone(),
            netns: self.node(node).netns.clone(),
            binary: binary.to_owned(),
            arguments: all,
            socket,
            log: self.folder().join(format!("{name}.log")),
            process: None,
        };
        agent.start()?;
        Ok(agent)
    }

    /// Where the agent of a node listens for status requests.
    #[must_use]
    pub fn agent_socket(&self, node: u8) -> PathBuf {
        self.folder().join(format!("{}.sock", self.node(node).name))
    }
}

impl AgentProcess {
    /// Name of the node.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Uses another build from the next start on.
    pub fn set_binary(&mut self, binary: impl Into<PathBuf>) {
        self.binary = binary.into();
    }

    /// Starts a stopped or killed agent again, with the same arguments.
    ///
    /// # Errors
    /// It still runs, or cannot be started.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the agent of {} runs", self.node);
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = self.netns.command(&self.binary)?;
        command
            .args(&self.arguments)
            .stdin(std::process::Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let process = Process::spawn(command);
        let process = process.with_context(|| format!("starting {}", self.binary.display()))?;
        self.process = Some(process);
        Ok(())
    }

    /// Waits until the agent has programmed all that it was told.
    ///
    /// # Errors
    /// The agent ends, or is not ready in 20 seconds; the error ends with its log.
    pub fn wait_ready(&mut self) -> Result<()> {
        self.wait_for("synced", |status| status["synced"] == true)
    }

    /// Waits until the status satisfies `is_reached`.
    ///
    /// # Errors
    /// As [`Self::wait_ready`].
    pub fn wait_for(&mut self, what: &str, is_reached: impl Fn(&Value) -> bool) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let status = self.status();
            if status.as_ref().is_ok_and(&is_reached) {
                return Ok(());
            }
            let process = self.process.as_mut().context("the agent is stopped")?;
            if let Some(status) = process.exited()? {
                bail!(
                    "the agent of {} ended: {}\n{}",
                    self.node,
                    describe(status),
                    self.log()
                );
            }
            if Instant::now() > deadline {
                let last =
                    status.map_or_else(|error| format!("{error:#}"), |json| json.to_string());
                bail!("{} is not {what}: {last}\n{}", self.node, self.log());
            }
            thread::sleep(POLL);
        }
    }

    /// What the agent serves at `/status`.
    ///
    /// # Errors
    /// The agent does not listen, or answers other than 200 with JSON.
    pub fn status(&self) -> Result<Value> {
        let body = get(&self.socket, "/status")?;
        serde_json::from_str(&body).with_context(|| format!("/status is no JSON: {body}"))
    }

    /// Asks the agent to end (SIGTERM) and waits.
    ///
    /// # Errors
    /// It does not run, does not end in 10 seconds, or ends with a failure.
    pub fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the agent is stopped")?;
        process.signal(Signal::SIGTERM)?;
        let status = process.wait(STOP_LIMIT)?;
        ensure!(
            status.success(),
            "agent: {}\n{}",
            describe(status),
            self.log()
        );
        Ok(())
    }

    /// Kills the agent (SIGKILL).
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the agent is stopped")?;
        process.kill()?;
        Ok(())
    }

    /// Stops, starts and waits until ready.
    ///
    /// # Errors
    /// As the three of them.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.start()?;
        self.wait_ready()
    }

    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// All that the agent has printed, over its restarts.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log).map_or_else(
            |error| format!("no log: {error}"),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- agent of {} ---\n{}", self.node, self.log());
        }
    }
}

/// Body of a GET over a unix socket (HTTP/1.1, not chunked).
fn get(socket: &Path, path: &str) -> Result<String> {
    let mut stream = UnixStream::connect(socket)
        .with_context(|| format!("connecting to {}", socket.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: lb\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    let (head, body) = response
        .split_once("\r\n\r\n")
        .context("no HTTP response")?;
    let line = head.lines().next().unwrap_or_default();
    ensure!(
        line.split(' ').nth(1) == Some("200"),
        "{path}: {line}: {body}"
    );
    ensure!(
        !head.to_lowercase().contains("chunked"),
        "{path}: a chunked body"
    );
    Ok(body.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_a_whole_200_is_a_body() {
        let table = [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", Some("{}")),
            ("HTTP/1.1 503 Service Unavailable\r\n\r\n{}", None),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}",
                None,
            ),
            ("nonsense", None),
        ];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sock");
        let listener = UnixListener::bind(&path).unwrap();
        for (response, expect) in table {
            let body = thread::scope(|scope| {
                scope.spawn(|| {
                    let (mut stream, _) = listener.accept().unwrap();
                    let mut request = [0; 128];
                    let length = stream.read(&mut request).unwrap();
                    assert!(request[..length].starts_with(b"GET /status HTTP/1.1\r\n"));
                    stream.write_all(response.as_bytes()).unwrap();
                });
                get(&path, "/status")
            });
            assert_eq!(body.ok().as_deref(), expect);
        }
    }
}
