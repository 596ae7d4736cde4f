//! Where a trial takes place: the servers, and in them a database and a prefix of the round's own, a shop and pods.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use overdue_testkit::broker::{Broker, PLUMBING};
use overdue_testkit::deployment::Deployment;
use overdue_testkit::subscriber::Subscriber;
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool};
use tokio::time::{Instant, sleep};

use crate::pods::{TriedPod, binary};
use crate::servers::Servers;
use crate::shop::Till;
use crate::shop::script::{PRODUCTS, STOCK};
use crate::timeline::Timeline;

/// One round's arena.
#[derive(Debug)]
pub struct Arena {
    /// The servers, shared by all rounds.
    pub servers: Arc<Servers>,
    /// The round's own deployment.
    pub deployment: Deployment,
    /// The pods.
    pub pods: Vec<TriedPod>,
    /// The shop.
    pub till: Arc<Till>,
    /// For whoever looks, so that nobody who looks has to wait for buyers.
    pub eyes: PgPool,
    /// Who is told.
    pub subscriber: Subscriber,
    /// What happens.
    pub timeline: Timeline,
    /// The pods' logs.
    pub logs: PathBuf,
    database: String,
    lanes: &'static str,
}

/// How an arena is set up.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Part of every name.
    pub name: String,
    /// How many pods.
    pub pods: usize,
    /// What they do.
    pub roles: &'static str,
    /// The delay lanes.
    pub lanes: &'static str,
    /// Other settings.
    pub settings: Vec<(&'static str, String)>,
}

impl Arena {
    /// Sets it up: schema, stock, topology, subscriber, pods.
    pub async fn new(servers: Arc<Servers>, plan: &Plan) -> Result<Self> {
        Self::with_binary(servers, plan, &binary()).await
    }

    /// The same with this build's pods.
    pub async fn with_binary(servers: Arc<Servers>, plan: &Plan, binary: &Path) -> Result<Self> {
        let database = format!("trial_{}", plan.name);
        let (server, database_url) = {
            let postgres = servers.postgres.lock().await;
            (postgres.url("postgres"), postgres.url(&database))
        };
        execute(&server, &format!("CREATE DATABASE {database}")).await?;
        let amqp_urls = {
            let rabbit = servers.rabbit.lock().await;
            (0..rabbit.nodes()).map(|node| rabbit.url(node)).collect()
        };
        let mut settings = vec![("OVERDUE_LANES", plan.lanes.to_owned())];
        settings.extend(plan.settings.iter().cloned());
        let mut deployment = Deployment {
            database_url: database_url.clone(),
            amqp_urls,
            prefix: format!("{}.", plan.name),
            settings,
            binary: binary.to_owned(),
        };
        deployment.overdue(&["migrate"]).await?;
        let pool =
            PgPoolOptions::new().max_connections(30).acquire_timeout(ACQUIRE).connect_lazy(&database_url)?;
        pool.execute(HISTORY).await?;
        if let Some(pooler) = servers.pooler.get() {
            deployment.database_url = pooler.url(&database);
        }
        deployment.overdue(&["topology", "declare"]).await?;
        let broker = Arc::new(Broker::new(&deployment.amqp_urls, &deployment.prefix));
        let events = &["order.closed", "order.cancelled"];
        let subscriber = Subscriber::listen(Arc::clone(&broker), SUBSCRIBER, events).await?;
        broker.subscribe(TAP, PLUMBING, &["order.delay.*"], &[]).await?;
        let till = Arc::new(Till::new(pool, broker, deployment.clone()));
        till.shop.stock(PRODUCTS, STOCK).await?;
        let logs = servers.folder.join(&plan.name);
        std::fs::create_dir_all(&logs).with_context(|| logs.display().to_string())?;
        let mut pods = Vec::new();
        for n in 1..=plan.pods {
            pods.push(TriedPod::start(&format!("pod-{n}"), &deployment, plan.roles, &logs).await?);
        }
        let eyes = PgPoolOptions::new().max_connections(4).connect_lazy(&database_url)?;
        let timeline = Timeline::default();
        Ok(Self {
            servers,
            deployment,
            pods,
            till,
            eyes,
            subscriber,
            timeline,
            logs,
            database,
            lanes: plan.lanes,
        })
    }

    /// The shop's way to the database.
    pub fn pool(&self) -> &PgPool {
        &self.till.shop.pool
    }

    /// Every queue that must be empty in the end.
    fn queues(&self) -> Vec<String> {
        let lanes = self.lanes.split(',').map(|lane| format!("order.delay.{lane}.queue"));
        lanes.chain(["order.delay.queue".to_owned(), "order.process.queue".to_owned()]).collect()
    }

    /// What is not as it should be in the end; empty when everything has settled.
    pub async fn unsettled(&self) -> Result<Vec<String>> {
        let (pending, closed, outbox): (i64, i64, i64) = sqlx::query_as(
            "SELECT count(*) FILTER (WHERE status = 'PENDING'), count(*) FILTER (WHERE status = 'CLOSED'),
                    (SELECT count(*) FROM outbox) FROM orders",
        )
        .fetch_one(self.pool())
        .await?;
        let told = self.subscriber.closed();
        let mut unsettled = Vec::new();
        let mut expect = |what: &str, count: i64| {
            if count != 0 {
                unsettled.push(format!("{count} {what}"));
            }
        };
        expect("orders PENDING", pending);
        expect("outbox rows", outbox);
        expect("closed orders without an event", (closed - i64::try_from(told)?).max(0));
        for queue in self.queues() {
            expect(&format!("messages in {queue}"), self.till.broker.depth(&queue).await?.into());
        }
        Ok(unsettled)
    }

    /// Waits until everything has settled, and stays so for a while; how long it took.
    pub async fn wait_until_idle(&self, patience: Duration) -> Result<Duration> {
        let began = Instant::now();
        let (mut noted, mut empty_since) = (began, None);
        loop {
            let unsettled = match self.unsettled().await {
                Ok(unsettled) if unsettled.is_empty() => {
                    if empty_since.get_or_insert_with(Instant::now).elapsed() > UNSEEN {
                        return Ok(began.elapsed());
                    }
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
                Ok(unsettled) => unsettled.join(", "),
                Err(error) => format!("{error:#}"),
            };
            empty_since = None;
            anyhow::ensure!(began.elapsed() < patience, "after {patience:?} there are still {unsettled}");
            if noted.elapsed() > Duration::from_secs(5) {
                noted = Instant::now();
                self.timeline.note(format!("waiting: {unsettled}"));
            }
            for pod in &self.pods {
                pod.check().await?;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Removes the round's database, queues and logs.
    pub async fn remove(self) -> Result<()> {
        for queue in self.queues().iter().map(String::as_str).chain(["order.parked.queue", SUBSCRIBER, TAP]) {
            self.till.broker.delete(queue).await?;
        }
        self.till.broker.delete_exchanges().await?;
        tokio::join!(self.till.shop.pool.close(), self.eyes.close());
        let server = self.servers.postgres.lock().await.url("postgres");
        execute(&server, &format!("DROP DATABASE {} WITH (FORCE)", self.database)).await?;
        std::fs::remove_dir_all(&self.logs)?;
        Ok(())
    }

    /// Where to look after a failure.
    pub fn remains(&self) -> String {
        format!(
            "database {}, prefix {}, logs in {}",
            self.database,
            self.deployment.prefix,
            self.logs.display()
        )
    }
}

/// A message that a pod has in flight is in no queue; it is in one again, or done, sooner than this.
const UNSEEN: Duration = Duration::from_millis(1_200);

/// Longest wait for a connection. Short, because the pool's pauses between attempts grow to a fifth of it.
const ACQUIRE: Duration = Duration::from_secs(2);

/// The subscriber's queue.
const SUBSCRIBER: &str = "trial.events";
/// A queue that is sent a copy of every wake, so that they can be replayed.
pub const TAP: &str = "trial.tap";

/// Every change of a status, as PostgreSQL sees it: the checker's own record.
const HISTORY: &str = "
    CREATE TABLE trial_history (
        id bigint GENERATED ALWAYS AS IDENTITY, order_id bigint, before text, after text,
        payment_deadline timestamptz, at timestamptz DEFAULT clock_timestamp());
    CREATE FUNCTION trial_note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO trial_history (order_id, before, after, payment_deadline)
        VALUES (OLD.order_id, OLD.status, NEW.status, OLD.payment_deadline);
        RETURN NULL;
    END $$;
    CREATE TRIGGER trial_note AFTER UPDATE OF status ON orders FOR EACH ROW EXECUTE FUNCTION trial_note()";

async fn execute(server: &str, statement: &str) -> Result<()> {
    let mut connection = PgConnection::connect(server).await?;
    connection.execute(AssertSqlSafe(statement)).await.with_context(|| statement.to_owned())?;
    connection.close().await?;
    Ok(())
}
