//! Two shops with one vhost and prefix by mistake, staging and production: each notices it by the other's probes.

use overdue::stats::Count;
use sqlx::PgPool;

use crate::harness::{World, eventually, with_path};

#[tokio::test]
async fn each_of_two_shops_on_one_prefix_notices_the_other() {
    World::with(async |world| {
        let other = format!("{}_staging", world.name);
        world.sql(&format!("CREATE DATABASE {other}")).await;
        let url = with_path(&world.database_url, &other);
        let pool = PgPool::connect(&url).await.expect("the other database");
        overdue::database::migrate(&pool.connect_options()).await.expect("migrated");
        let often = ("probe_every", "500ms");
        let production = world.pod(&[often]);
        let staging = world.pod(&[often, ("database_url", &url)]);
        eventually("both have seen the other's probes", async || {
            production.shared.stats.get(Count::ForeignProbes) > 0
                && staging.shared.stats.get(Count::ForeignProbes) > 0
        })
        .await;
        production.stop().await;
        staging.stop().await;
        pool.close().await;
        world.sql(&format!("DROP DATABASE {other} WITH (FORCE)")).await;
    })
    .await;
}

#[tokio::test]
async fn a_shop_alone_sees_only_its_own_probes() {
    World::with(async |world| {
        let pods = [world.pod(&[("probe_every", "200ms")]), world.pod(&[("probe_every", "200ms")])];
        eventually("probes have come back to both", async || {
            world.number("SELECT count(*) FROM lane_probes WHERE returned_at IS NOT NULL").await >= 3
        })
        .await;
        for pod in pods {
            assert_eq!(pod.shared.stats.get(Count::ForeignProbes), 0);
            pod.stop().await;
        }
    })
    .await;
}
