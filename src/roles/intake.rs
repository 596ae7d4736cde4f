//! Takes order-created messages from services and puts their wakes into the lanes.

use std::sync::Arc;

use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicNackOptions};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::broker::consumer::{Deliveries, QUIET, QUIET_AT_LAST};
use crate::broker::publisher::Publisher;
use crate::broker::{self, BrokerError};
use crate::roles::RoleError;
use crate::roles::shared::{Shared, after_stop};
use crate::stats::Count;
use crate::wire::envelope::envelope;
use crate::wire::keys::KEY_DELAY;
use crate::wire::message::{self, Reading};
use crate::wire::outgoing::Outgoing;
use crate::wire::parked::parked;
use crate::wire::wake::Wake;

/// Messages taken together. Foreign bodies may be as large as the broker lets them (`max_message_size` in
/// `rabbitmq/rabbitmq.conf`), so this also bounds the memory that they take.
const BATCH: u16 = 100;

/// One session: connects, works until `stop` or until something breaks.
///
/// # Errors
/// The first broker error; the caller builds a new session. Unacknowledged messages are redelivered.
pub async fn session(shared: &Arc<Shared>, stop: &CancellationToken) -> Result<(), RoleError> {
    let publisher = Publisher::connect(&shared.broker, "intake").await?;
    let connection = shared.broker.connect("intake").await?;
    let (channel, mut consumer) =
        shared.broker.consume(&connection, &shared.broker.names.intake(), BATCH).await?;
    tracing::info!(event = "taking_messages", "taking order-created messages");
    let ended = || BrokerError::ConsumerEnded { queue: shared.broker.names.intake() };
    let mut stopping = false;
    loop {
        let batch = tokio::select! {
            // Take no more messages. Those that the broker has already sent are forwarded, or they would be redelivered.
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                let last = gather_last(&mut consumer).await?;
                shared.broker.cancel(&channel, &consumer).await?;
                last
            }
            delivery = consumer.next() => match delivery {
                Some(first) => gather(first, &mut consumer)?,
                None if stopping => break,
                None => return Err(ended().into()),
            },
        };
        let Some(last) = batch.last().map(|delivery| delivery.delivery_tag) else {
            continue;
        };
        let (messages, understood, malformed) = forward(shared, batch);
        tokio::select! {
            published = publisher.publish(messages) => published?,
            // A broker may block publishers for long. This batch is not acknowledged, so nothing is lost.
            () = after_stop(stop, shared.config.drain_timeout) => break,
        }
        shared.stats.add(Count::Intake, understood);
        shared.stats.add(Count::Parked, malformed);
        // Every delivery of this channel up to `last` was in this batch or an earlier one.
        let ack = channel.basic_ack(last, BasicAckOptions { multiple: true });
        shared.broker.bounded("acknowledging", ack).await?;
    }
    let all = BasicNackOptions { multiple: true, requeue: true };
    let _ = shared.broker.bounded("giving messages back", channel.basic_nack(0, all)).await;
    publisher.close().await;
    broker::close(&connection).await;
    Ok(())
}

/// This delivery and those that have arrived with it, up to [`BATCH`].
fn gather(first: lapin::Result<Delivery>, consumer: &mut Deliveries) -> Result<Vec<Delivery>, RoleError> {
    let mut batch = Vec::new();
    let mut next = Some(first);
    while let Some(delivery) = next {
        batch.push(delivery.map_err(|source| BrokerError::during("taking order-created messages", source))?);
        let room = batch.len() < usize::from(BATCH);
        next = if room { consumer.next().now_or_never().flatten() } else { None };
    }
    Ok(batch)
}

/// The deliveries that still arrive once nothing is acknowledged any more.
async fn gather_last(consumer: &mut Deliveries) -> Result<Vec<Delivery>, RoleError> {
    let (mut batch, latest) = (Vec::new(), Instant::now() + QUIET_AT_LAST);
    while batch.len() < usize::from(BATCH)
        && let Ok(Some(first)) = timeout_at(latest.min(Instant::now() + QUIET), consumer.next()).await
    {
        batch.extend(gather(first, consumer)?);
    }
    Ok(batch)
}

/// The messages that forward these deliveries: wakes into lanes, malformed messages to the parked queue. Also returns the
/// number of wakes and of malformed messages.
fn forward(shared: &Shared, batch: Vec<Delivery>) -> (Vec<Outgoing>, usize, usize) {
    let now = shared.clock.now();
    let reading =
        Reading { now, max_window: shared.config.max_window, delay_is_over: false, from_service: true };
    let mut wakes: Vec<Wake> = Vec::with_capacity(batch.len());
    let mut malformed = Vec::new();
    let mut example = String::new();
    for Delivery { data, properties, redelivered, .. } in batch {
        shared.stats.add(Count::Redelivered, usize::from(redelivered));
        match message::read(&data, envelope(&properties), reading) {
            Ok(read) => wakes.extend(read),
            Err(error) => {
                example = error.to_string();
                malformed.push(parked(data, &properties, &example, KEY_DELAY, now));
            }
        }
    }
    // One line for all of them, so that a flood of messages does not become a flood of log lines.
    if !malformed.is_empty() {
        tracing::warn!(
            event = "parking_malformed",
            count = malformed.len(),
            reason = example,
            "parking malformed order-created messages"
        );
    }
    let counts = (wakes.len(), malformed.len());
    let mut messages = shared.scheduler.messages(wakes, now);
    messages.append(&mut malformed);
    (messages, counts.0, counts.1)
}
