//! Every order that stays unpaid is closed, once, at its deadline; what is paid or cancelled in time is left alone.

use std::time::Duration;

use overdue::stats::Count;
use serde_json::json;

use crate::harness::World;

const SECOND: Duration = Duration::from_secs(1);

/// Far above what is usual, and far below what any polling would need: the machines of a test run are busy.
const ON_TIME: Duration = SECOND;

#[tokio::test]
async fn an_unpaid_order_is_closed_at_its_deadline_with_stock_and_event() {
    World::with(async |world| {
        world.stock(2, 100).await;
        let pod = world.pod(&[]);
        world.ready().await;
        let mut events = world.subscribe(&["order.closed"]).await;
        let order = world.place(2 * SECOND, &[(1, 3), (2, 1)]).await;

        assert!(world.closed(order).await < ON_TIME);
        world.assert_stock_conserved(100).await;
        let (id, event) = events.next().await;
        assert_eq!(event["id"], json!(id));
        assert_eq!(event["type"], json!("order.closed"));
        assert_eq!(event["data"]["order_id"], json!(order));
        assert_eq!(pod.shared.stats.get(Count::Swept), 0);
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn short_windows_do_not_wait_behind_long_ones() {
    World::with(async |world| {
        let pod = world.pod(&[]);
        world.ready().await;
        let long = world.place(5 * SECOND, &[]).await;
        let odd = world.place(Duration::from_millis(3_333), &[]).await;
        let short = world.place(SECOND, &[]).await;
        for order in [short, odd, long] {
            assert!(world.closed(order).await < ON_TIME);
        }
        assert_eq!(pod.shared.stats.get(Count::Swept), 0);
        pod.stop().await;
    })
    .await;
}
