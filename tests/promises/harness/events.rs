//! A subscriber of the shop's events, as any other service of the shop is one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use overdue_testkit::subscriber;
use serde_json::Value;

use super::world::World;

/// On a busy machine too.
const PATIENCE: Duration = Duration::from_secs(300);

impl World {
    /// Subscribes to events with a queue of the test's own.
    pub async fn subscribe(&self, kinds: &[&str]) -> Subscriber {
        let subscriber = subscriber::Subscriber::listen(Arc::new(self.broker()), "events", kinds);
        Subscriber { subscriber: subscriber.await.expect("a queue"), taken: 0 }
    }
}

/// A subscriber of events, which takes them in the order in which they came.
pub struct Subscriber {
    subscriber: subscriber::Subscriber,
    taken: usize,
}

impl Subscriber {
    /// The next event: its id, and the event. One that comes again is taken again.
    pub async fn next(&mut self) -> (String, Value) {
        let taken = self.taken;
        let next = self.subscriber.wait_for(PATIENCE, |news| news.order.len() > taken);
        next.await.expect("an event");
        self.taken += 1;
        self.subscriber.read(|news| {
            assert!(news.wrong.is_empty(), "{:?}", news.wrong);
            let id = &news.order[taken];
            (id.clone(), news.events[id].body.clone())
        })
    }

    /// Every event published so far and not taken: its id, and how often it came.
    pub async fn all(&mut self, world: &World) -> HashMap<String, usize> {
        world.outbox_empty().await;
        self.subscriber.catch_up(PATIENCE).await.expect("all was heard");
        let taken = self.taken;
        let (seen, arrived) = self.subscriber.read(|news| {
            assert!(news.wrong.is_empty(), "{:?}", news.wrong);
            let mut seen = HashMap::new();
            for id in &news.order[taken..] {
                *seen.entry(id.clone()).or_insert(0) += 1;
            }
            (seen, news.order.len())
        });
        self.taken = arrived;
        seen
    }
}

/// The order that an event's id names.
pub fn order_of(event_id: &str) -> i64 {
    let order = event_id.split(':').nth(1).and_then(|order| order.parse().ok());
    order.unwrap_or_else(|| panic!("{event_id}: which order?"))
}
