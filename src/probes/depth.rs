//! How many messages and consumers a queue has, without the management API.

use lapin::Connection;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;

use crate::broker::Broker;

#[derive(Clone, Copy, Debug)]
pub struct Depth {
    /// Ready messages: neither those delivered to a consumer, nor expired ones that have not reached their target.
    pub messages: u32,
    pub consumers: u32,
}

/// Asks a queue for its depth; `None` when it does not exist or does not answer.
pub async fn depth(broker: &Broker, connection: &Connection, queue: &str) -> Option<Depth> {
    // A channel of its own, because the broker closes it when there is no such queue.
    let channel = broker.channel(connection).await.ok()?;
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::durable() };
    let state = channel.queue_declare(queue.into(), passive, FieldTable::default());
    let state = broker.bounded("asking for a queue's depth", state).await.ok()?;
    let _ = broker.bounded("closing a channel", channel.close(200, "done".into())).await;
    Some(Depth { messages: state.message_count(), consumers: state.consumer_count() })
}

/// Why a probe is not back from a lane, as far as the number of messages in the lane shows; `None` is an unknown number.
#[must_use]
pub fn cause(messages: Option<u32>, queue: &str, process: &str) -> String {
    match messages {
        // Expired messages that wait for their target are not counted.
        Some(0) => format!(
            "messages that went into it are neither in it nor here. Either they have expired and wait because {process} cannot \
             be reached (`overdue topology verify`), or {queue} was purged or created again, or another shop with this \
             prefix takes its messages"
        ),
        Some(_) => format!(
            "messages stay in it after their expiry. Either {process} cannot be reached (`overdue topology verify`), or \
             a message without expiration stands first in {queue} (look at it in the management UI, and purge it)"
        ),
        None => format!("a probe is overdue, and {queue} does not answer (`overdue topology verify`)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_lane_is_not_said_to_hold_messages_and_a_silent_one_is_not_said_to_be_empty() {
        let of = |messages| cause(messages, "lane", "process");
        assert!(of(Some(3)).contains("messages stay in it") && of(Some(3)).contains("stands first"));
        assert!(!of(Some(0)).contains("messages stay in it") && !of(Some(0)).contains("stands first"));
        assert!(of(None).contains("does not answer"));
    }
}
