//! Every order that stays unpaid is closed, once, at its deadline; what is paid or cancelled in time is left alone.

use std::time::Duration;

use overdue::stats::Count;
use overdue_testkit::broker::PLUMBING;
use serde_json::json;
use tokio::time::Instant;

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

/// Wakes that come back early from their lane wait up to half a second for others.
#[tokio::test]
async fn orders_placed_one_by_one_share_the_messages_of_their_first_lane() {
    World::with(async |world| {
        let pod = world.pod(&[]);
        world.ready().await;
        // A copy of every wake that goes into the lane.
        world.broker().subscribe("tap", PLUMBING, &["order.delay.5s"], &[]).await.expect("a queue");
        let (began, mut last) = (Instant::now(), 0);
        for n in 0..100 {
            last = world.place(7 * SECOND + n * Duration::from_millis(13), &[]).await;
        }
        world.outbox_empty().await;
        let (messages, took) = (world.depth("tap").await, began.elapsed());
        let most = 2.0 + took.as_secs_f64() / 0.5;
        assert!(f64::from(messages) <= most, "{messages} messages for 100 orders placed in {took:?}");
        assert!(world.closed(last).await < ON_TIME);
        world.all_settled().await;
        assert_eq!(pod.shared.stats.get(Count::Swept), 0);
        pod.stop().await;
    })
    .await;
}
