//! `close_rate` is kept by all pods together, by wakes and sweep alike, and no order is lost over it.

use std::time::Duration;

use crate::harness::{World, eventually};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn two_pods_close_no_faster_than_the_rate_and_stop_in_time() {
    World::with(async |world| {
        world.stock(1, 1_000).await;
        let soon = [("sweep_grace", "500ms"), ("sweep_every", "200ms"), ("drain_timeout", "1s")];
        let settings = [&soon[..], &[("close_rate", "100"), ("close_batch", "10")]].concat();
        let pods = [world.pod(&settings), world.pod(&settings)];
        world.ready().await;
        eventually("each pod has seen the other", async || {
            let seen = "SELECT count(*) FROM pods WHERE seen_at > (SELECT max(started_at) FROM pods)";
            world.number(seen).await == 2
        })
        .await;
        world.place_many(220, 2 * SECOND, 2 * SECOND, &[(1, 1)]).await;
        world.all_settled().await;
        // Each pod may close a batch at once, and two more are under way when the last ones begin.
        let last =
            "SELECT (extract(epoch FROM max(closed_at - payment_deadline)) * 1000)::bigint FROM orders";
        let last = world.number(last).await;
        assert!(last >= 1_600, "220 orders took {last} ms at 100 orders/s");
        world.assert_stock_conserved(1_000).await;

        // A pod that waits for its turn stops in time, and gives back what it has not closed.
        world.place_many(2_000, SECOND, SECOND, &[]).await;
        eventually("the first are closed", async || {
            world.number("SELECT count(*) FROM orders WHERE status = 'CLOSED'").await > 240
        })
        .await;
        for pod in pods {
            pod.stop().await;
        }
        let left = world.number("SELECT count(*) FROM orders WHERE status = 'PENDING'").await;
        assert!(left > 0, "2,000 orders were closed in no time");
        let pod = world.pod(&soon);
        world.all_settled().await;
        pod.stop().await;
    })
    .await;
}
