//! A promoted standby or a restored backup may lack transactions that subscribers were told of. Pods notice that the server
//! or its timeline is another, and one of them reports it.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use overdue::config::Config;
use overdue::config::settings::Raw;
use overdue::database::{self, Database};
use sqlx::postgres::PgPoolOptions;
use tokio::process::{Child, Command};

use crate::harness::{World, eventually};

#[tokio::test]
async fn a_change_is_reported_once_over_all_pods() {
    World::with(async |world| {
        let noted =
            async || world.number("SELECT coalesce(system_identifier, 0) FROM overdue_database").await;
        assert!(!database::note(&world.database()).await.expect("noted"), "the first server is no change");
        let server = noted().await;
        assert_ne!(server, 0);
        for change in
            ["timeline = timeline + 1", "system_identifier = 1", "timeline = 77, system_identifier = 77"]
        {
            world.sql(&format!("UPDATE overdue_database SET {change}")).await;
            let here = world.database();
            let look = || Box::pin(database::note(&here));
            let reports = tokio::join!(look(), look(), look(), look());
            let reports: [_; 4] = reports.into();
            let reported = reports.into_iter().filter(|report| *report.as_ref().expect("noted")).count();
            assert_eq!(reported, 1, "{change}");
            assert_eq!(noted().await, server);
            assert!(!look().await.expect("noted"), "it is reported once");
        }
        // A pod looks when its sessions begin.
        world.sql("UPDATE overdue_database SET system_identifier = 1").await;
        let pod = world.process(&[]);
        pod.reports("database_changed").await;
        assert_eq!(noted().await, server);
        pod.kill().await;
    })
    .await;
}

/// The folder of PostgreSQL's programs, where it is installed from packages.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut folders: Vec<_> = versions.filter_map(|version| Some(version.ok()?.path().join("bin"))).collect();
    folders.sort();
    folders.into_iter().rev().find(|folder| folder.join("pg_basebackup").exists())
}

struct Server {
    process: Child,
    port: u16,
}

/// A command that is not run as root, which PostgreSQL refuses.
fn plain(program: PathBuf, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    if std::fs::metadata("/proc/self").is_ok_and(|it| std::os::unix::fs::MetadataExt::uid(&it) == 0) {
        command.uid(65534).gid(65534);
    }
    command
}

impl Server {
    async fn start(programs: &Path, folder: &Path, data: &str) -> Self {
        let port =
            std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("one").port();
        let mut command = plain(programs.join("postgres"), folder);
        command.args(["-D", data, "-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
        command.args(["-c", "unix_socket_directories=", "-c", "fsync=off"]);
        let server = Self { process: command.spawn().expect("postgres starts"), port };
        eventually("PostgreSQL answers", async || {
            PgPoolOptions::new().max_connections(1).connect(&server.url()).await.is_ok()
        })
        .await;
        server
    }

    fn url(&self) -> String {
        format!("postgres://overdue@127.0.0.1:{}/postgres", self.port)
    }
}

/// A database as a pod uses it.
fn at(url: &str) -> Database {
    let raw = Raw::with(&[("database_url", url), ("amqp_url", "amqp://nowhere")]).expect("settings");
    database::pool(&Config::from_raw(&raw).expect("a configuration")).expect("a pool")
}

#[tokio::test]
async fn a_promoted_standby_is_another_timeline() {
    let Some(programs) = programs() else {
        // Services from containers: the row's changes above are what is tested.
        return;
    };
    let folder = std::env::temp_dir().join(format!("overdue-standby-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("for all");
    let initdb = plain(programs.join("initdb"), &folder)
        .args(["-D", "primary", "-U", "overdue", "-A", "trust", "-N", "--locale=C", "-E", "UTF8"])
        .status()
        .await;
    assert!(initdb.expect("initdb runs").success());
    let mut primary = Server::start(&programs, &folder, "primary").await;
    let pool = PgPoolOptions::new().connect(&primary.url()).await.expect("a pool");
    database::migrate(&pool.connect_options()).await.expect("migrated");
    assert!(!database::note(&at(&primary.url())).await.expect("noted"));
    let port = primary.port.to_string();
    let copy = plain(programs.join("pg_basebackup"), &folder)
        .args(["-h", "127.0.0.1", "-p", &port, "-U", "overdue", "-D", "standby", "-R", "-c", "fast"])
        .status()
        .await;
    assert!(copy.expect("pg_basebackup runs").success());
    let mut standby = Server::start(&programs, &folder, "standby").await;
    let copy = PgPoolOptions::new().connect(&standby.url()).await.expect("a pool");
    assert!(!database::note(&at(&standby.url())).await.expect("asked"), "a standby is not written to");
    pool.close().await;
    primary.process.kill().await.expect("the primary is lost");

    sqlx::query("SELECT pg_promote()").execute(&copy).await.expect("promoted");
    eventually("it is no standby any more", async || {
        let standby = sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(&copy).await;
        standby.is_ok_and(|standby: bool| !standby)
    })
    .await;
    assert!(database::note(&at(&standby.url())).await.expect("noted"), "another timeline");
    assert!(!database::note(&at(&standby.url())).await.expect("noted"));
    copy.close().await;
    standby.process.kill().await.expect("ended");
    let _ = std::fs::remove_dir_all(&folder);
}
