//! A private RabbitMQ, one node or a cluster of three, with the project's configuration; its nodes can be killed, frozen,
//! cut off from each other, and started again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use overdue_testkit::process::{Process, Signal, run};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use super::account::Account;
use super::{free_port, newest, project};

/// The nodes, and the Erlang port mapper that they share.
#[derive(Debug)]
pub struct RabbitMq {
    installation: Installation,
    folder: PathBuf,
    account: Account,
    epmd_port: u16,
    nodes: Vec<Node>,
    _epmd: Process,
}

#[derive(Debug)]
struct Node {
    name: String,
    port: u16,
    distribution_port: u16,
    process: Option<Process>,
}

/// Where the server and Erlang are.
#[derive(Debug)]
struct Installation {
    home: PathBuf,
    erlang: PathBuf,
}

impl Installation {
    /// The distribution's, or what RABBITMQ_HOME and ERLANG_BIN say.
    fn find() -> Result<Self> {
        let home = match std::env::var_os("RABBITMQ_HOME") {
            Some(home) => home.into(),
            None => newest("/usr/lib/rabbitmq/lib", "rabbitmq_server-")
                .context("RabbitMQ is not installed; or name its folder in RABBITMQ_HOME")?,
        };
        let erlang = std::env::var_os("ERLANG_BIN").map_or_else(|| PathBuf::from("/usr/bin"), PathBuf::from);
        ensure!(erlang.join("erl").exists(), "no erl in {}; name its folder in ERLANG_BIN", erlang.display());
        Ok(Self { home, erlang })
    }

    fn epmd(&self) -> Result<PathBuf> {
        let root = self.erlang.join("erl").canonicalize()?;
        let beside = root.parent().context("erl's folder")?;
        let mut candidates = vec![beside.join("epmd"), self.erlang.join("epmd")];
        if let Ok(releases) = std::fs::read_dir(beside.join("..")) {
            candidates.extend(releases.flatten().map(|entry| entry.path().join("bin/epmd")));
        }
        candidates.into_iter().find(|path| path.exists()).context("no epmd beside erl")
    }
}

impl RabbitMq {
    /// Starts one node, or as many as a cluster should have.
    pub async fn new(folder: PathBuf, account: Account, nodes: usize) -> Result<Self> {
        let installation = Installation::find()?;
        let folder = account.folder(folder)?;
        let cookie = folder.join(".erlang.cookie");
        std::fs::write(&cookie, format!("{:x}", rand::random::<u128>()))?;
        std::fs::set_permissions(&cookie, std::os::unix::fs::PermissionsExt::from_mode(0o400))?;
        account.own(&cookie)?;
        let epmd_port = free_port()?;
        let mut epmd = account.command(&installation.epmd()?, &folder);
        epmd.args(["-port", &epmd_port.to_string(), "-address", "127.0.0.1"]);
        let epmd = Process::start("epmd", &mut epmd, &folder.join("epmd.log"))?;
        let nodes = (1..=nodes)
            .map(|n| {
                let name = format!("trial{epmd_port}-{n}@localhost");
                Ok(Node { name, port: free_port()?, distribution_port: free_port()?, process: None })
            })
            .collect::<Result<_>>()?;
        let mut cluster = Self { installation, folder, account, epmd_port, nodes, _epmd: epmd };
        cluster.configure()?;
        for n in 0..cluster.nodes.len() {
            cluster.spawn(n)?;
        }
        for n in 0..cluster.nodes.len() {
            cluster.up(n).await?;
        }
        Ok(cluster)
    }

    /// The version, as its folder says it.
    pub fn version(&self) -> String {
        let name = self.installation.home.file_name().unwrap_or_default().to_string_lossy();
        name.rsplit('-').next().unwrap_or_default().to_owned()
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Where a node is.
    pub fn url(&self, node: usize) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.nodes[node].port)
    }

    fn configure(&self) -> Result<()> {
        let production = std::fs::read_to_string(project().join("rabbitmq/rabbitmq.conf"))?;
        for (n, node) in self.nodes.iter().enumerate() {
            let mut lines = vec![
                production.clone(),
                format!("listeners.tcp.1 = 127.0.0.1:{}", node.port),
                "disk_free_limit.absolute = 100MB".to_owned(),
            ];
            if self.nodes.len() > 1 {
                lines.push("cluster_formation.peer_discovery_backend = classic_config".to_owned());
                let members = self.nodes.iter().enumerate();
                lines.extend(members.map(|(n, node)| {
                    format!("cluster_formation.classic_config.nodes.{} = {}", n + 1, node.name)
                }));
            }
            let own = self.account.folder(self.folder.join(n.to_string()))?;
            for part in ["data", "log", "generated"] {
                self.account.folder(own.join(part))?;
            }
            std::fs::write(own.join("rabbitmq.conf"), lines.join("\n") + "\n")?;
            std::fs::write(own.join("enabled_plugins"), "[].\n")?;
            std::fs::copy(project().join("rabbitmq/advanced.config"), own.join("advanced.config"))?;
        }
        Ok(())
    }

    /// One of the server's own scripts, in a node's environment.
    fn script(&self, name: &str, node: usize) -> Command {
        let (own, Installation { home, erlang }) = (self.folder.join(node.to_string()), &self.installation);
        let Node { name: node_name, distribution_port, .. } = &self.nodes[node];
        let mut command = self.account.command(&home.join("sbin").join(name), &self.folder);
        let path = |file: &str| own.join(file);
        let loopback = "-kernel inet_dist_use_interface {127,0,0,1}";
        command
            .env("PATH", format!("{}:/usr/bin:/bin", erlang.display()))
            .env("HOME", &self.folder)
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_NODENAME", node_name)
            .env("RABBITMQ_DIST_PORT", distribution_port.to_string())
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", loopback)
            .env("RABBITMQ_CTL_ERL_ARGS", loopback)
            .env("RABBITMQ_MNESIA_BASE", path("data"))
            .env("RABBITMQ_LOG_BASE", path("log"))
            .env("RABBITMQ_PLUGINS_DIR", home.join("plugins"))
            .env("RABBITMQ_CONFIG_FILE", path("rabbitmq.conf"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", path("advanced.config"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", path("enabled_plugins"))
            .env("RABBITMQ_GENERATED_CONFIG_DIR", path("generated"))
            .env("RABBITMQ_SCHEMA_DIR", path("generated/schema"))
            .env("RABBITMQ_PID_FILE", path("data/pid"))
            // The script becomes the Erlang VM, so that its pid is the broker's.
            .env("RUNNING_UNDER_SYSTEMD", "true");
        command
    }

    /// `rabbitmqctl` on a node.
    pub async fn ctl(&self, node: usize, arguments: &[&str]) -> Result<String> {
        run(self.script("rabbitmqctl", node).args(arguments), Duration::from_secs(30)).await
    }

    /// Starts a node without waiting for it.
    fn spawn(&mut self, node: usize) -> Result<()> {
        let log = self.log(node);
        let mut command = self.script("rabbitmq-server", node);
        self.nodes[node].process = Some(Process::start("RabbitMQ", &mut command, &log)?);
        Ok(())
    }

    fn log(&self, node: usize) -> PathBuf {
        self.folder.join(node.to_string()).join("console.log")
    }

    /// Starts a node, and returns when it answers.
    pub async fn start(&mut self, node: usize) -> Result<()> {
        self.spawn(node)?;
        self.up(node).await
    }

    async fn up(&mut self, node: usize) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(90);
        while !answers(self.nodes[node].port).await {
            if let Some(status) = self.nodes[node].process.as_mut().and_then(Process::has_ended) {
                anyhow::bail!("RabbitMQ ended while starting ({status}); see {}", self.log(node).display());
            }
            ensure!(Instant::now() < deadline, "RabbitMQ does not answer; see {}", self.log(node).display());
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// SIGKILL.
    pub async fn kill(&mut self, node: usize) -> Result<()> {
        let Some(mut process) = self.nodes[node].process.take() else { return Ok(()) };
        process.signal_all(Signal::KILL)?;
        process.ended(Duration::from_secs(10)).await?;
        Ok(())
    }

    /// SIGTERM, and its end.
    pub async fn stop(&mut self, node: usize) -> Result<()> {
        let Some(mut process) = self.nodes[node].process.take() else { return Ok(()) };
        process.signal(Signal::TERM)?;
        process.ended(Duration::from_secs(60)).await?;
        Ok(())
    }

    /// Stops it in its tracks.
    pub fn freeze(&self, node: usize) -> Result<()> {
        self.nodes[node].process.as_ref().map_or(Ok(()), |process| process.signal(Signal::STOP))
    }

    /// Goes on.
    pub fn thaw(&self, node: usize) -> Result<()> {
        self.nodes[node].process.as_ref().map_or(Ok(()), |process| process.signal(Signal::CONT))
    }

    /// A node's first process.
    pub fn pid(&self, node: usize) -> Result<i32> {
        Ok(self.nodes[node].process.as_ref().context("the node does not run")?.pid()?.as_raw_nonzero().get())
    }

    /// Whether a node runs.
    pub fn runs(&self, node: usize) -> bool {
        self.nodes[node].process.is_some()
    }

    /// Cuts a node off from all others: it knows a wrong cookie for them, so that neither side can connect again.
    pub async fn isolate(&self, node: usize) -> Result<()> {
        self.for_others(node, "erlang:set_cookie(N, 'cut off'), erlang:disconnect_node(N)").await
    }

    /// Lets it back in.
    pub async fn reunite(&self, node: usize) -> Result<()> {
        self.for_others(node, "erlang:set_cookie(N, erlang:get_cookie()), net_adm:ping(N)").await
    }

    async fn for_others(&self, node: usize, action: &str) -> Result<()> {
        let others = self.nodes.iter().enumerate().filter(|(n, _)| *n != node);
        let names: Vec<_> = others.map(|(_, node)| format!("'{}'", node.name)).collect();
        let expression = format!("[begin {action} end || N <- [{}]].", names.join(", "));
        self.ctl(node, &["eval", &expression]).await.map(drop)
    }

    /// Waits until every quorum queue can do without a node, as an operator does before taking it away. False where the node
    /// could not be asked for a minute: Erlang's distribution may hang after a node was cut off, while the broker on it works
    /// (seen once on 3.10.8). To start it again is the remedy.
    pub async fn wait_until_dispensable(&self, node: usize) -> Result<bool> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let mut check = self.script("rabbitmq-queues", node);
            let outcome = run(check.arg("check_if_node_is_quorum_critical"), Duration::from_secs(30)).await;
            match outcome {
                Ok(_) => return Ok(true),
                Err(error) if Instant::now() > deadline => {
                    // The exit code is the same as where the node is critical.
                    let unasked = error.to_string().contains("unable to perform an operation on node");
                    return if unasked { Ok(false) } else { Err(error) };
                }
                Err(_) => sleep(Duration::from_millis(500)).await,
            }
        }
    }

    /// The node that leads a queue.
    pub async fn leader_of(&self, queue: &str) -> Result<usize> {
        let running = (0..self.nodes.len()).find(|n| self.runs(*n)).context("no node runs")?;
        let list = self.ctl(running, &["-q", "list_queues", "name", "leader", "--no-table-headers"]).await?;
        let line = list.lines().find_map(|line| line.strip_prefix(queue)?.strip_prefix('\t'));
        let leader = line.with_context(|| format!("{queue} has no leader"))?.trim();
        let known = self.nodes.iter().position(|node| node.name == leader);
        known.with_context(|| format!("{leader} is no node of ours"))
    }
}

/// Whether a broker greets: an open port alone may be one that still boots.
pub async fn answers(port: u16) -> bool {
    let greeting = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        stream.write_all(b"AMQP\x00\x00\x09\x01").await.ok()?;
        (stream.read_u8().await.ok()? == 1).then_some(())
    };
    timeout(Duration::from_secs(2), greeting).await.ok().flatten().is_some()
}

impl AsRef<Path> for RabbitMq {
    fn as_ref(&self) -> &Path {
        &self.folder
    }
}
