//! Carries decisions out: tasks that close, publish and record; acknowledgements; log lines.

use std::collections::HashMap;
use std::sync::Arc;

use lapin::options::{BasicAckOptions, BasicNackOptions};

use super::decide::{Effect, Publication, Report};
use super::in_flight::{Ack, Held};
use super::{Session, Verdicts, probes};
use crate::broker::together_in_order;
use crate::closing::{Closer, Verdict};
use crate::roles::RoleError;
use crate::stats::Count;

impl Session {
    /// Starts long work as a task, which [`Session::wait`] awaits, and does the rest at once.
    pub(super) async fn carry_out(&mut self, effect: Effect) -> Result<(), RoleError> {
        match effect {
            Effect::Close(batch) => _ = self.closing.spawn(close(self.shared.closer.clone(), batch)),
            Effect::CloseApart(batch) => {
                self.closing_apart.spawn(close(self.shared.closer.clone(), batch));
            }
            Effect::CloseAlone(held) => {
                self.closing_apart.spawn(close_alone(self.shared.closer.clone(), held));
            }
            Effect::Publish(publication) => self.publish(publication),
            Effect::RecordProbes(tokens, tags) => {
                let shared = Arc::clone(&self.shared);
                self.recording_probes.spawn(async move {
                    probes::record_returned(&shared, &tokens).await?;
                    Ok(tags)
                });
            }
            Effect::Acknowledge(acks) => self.acknowledge(acks).await?,
            Effect::CancelConsumer => {
                if let Some(consumer) = &self.consumer {
                    self.shared.broker.cancel(&self.channel, consumer).await?;
                }
            }
            Effect::ConsumerLost => return Err(self.consumer_lost()),
            Effect::CountFailed(orders) => self.shared.stats.add(Count::Failed, orders),
            Effect::Report(report) => log(&report),
        }
        Ok(())
    }

    fn publish(&mut self, Publication { wakes, parked, tags }: Publication) {
        let (shared, publisher) = (Arc::clone(&self.shared), Arc::clone(&self.publisher));
        self.publishing.spawn(async move {
            let (rescheduled, parking) = (wakes.len(), parked.len());
            let mut messages = shared.scheduler.messages(wakes, shared.clock.now());
            messages.extend(parked);
            publisher.publish(messages).await?;
            shared.stats.add(Count::Rescheduled, rescheduled);
            shared.stats.add(Count::Parked, parking);
            Ok(tags)
        });
    }

    async fn acknowledge(&self, acks: Vec<Ack>) -> Result<(), RoleError> {
        let acks = acks.into_iter();
        let acks =
            acks.map(|Ack { tag, multiple }| self.channel.basic_ack(tag, BasicAckOptions { multiple }));
        self.shared.broker.bounded("acknowledging", together_in_order(acks)).await?;
        Ok(())
    }

    /// Requeues what is left at once, and logs it. The broker would requeue it when the connection closes, but a nack
    /// shows that the consumer did not crash, and newer brokers do not count it against the message.
    pub(super) async fn give_back(&mut self) {
        self.closing.abort_all();
        self.closing_apart.abort_all();
        self.publishing.abort_all();
        self.recording_probes.abort_all();
        // First, even with nothing in flight: finished messages must not be redelivered.
        let done = self.state.in_flight.take_acks();
        let _ = self.acknowledge(done).await;
        let (messages, orders) = (self.state.in_flight.messages(), self.state.in_flight.orders());
        if messages > 0 {
            let all = BasicNackOptions { multiple: true, requeue: true };
            let nack =
                self.shared.broker.bounded("giving messages back", self.channel.basic_nack(0, all)).await;
            tracing::info!(
                event = "gave_back",
                messages,
                orders,
                given_back = nack.is_ok(),
                "requeued what was in flight"
            );
        }
    }
}

async fn close(closer: Closer, batch: Vec<Held>) -> Result<Verdicts, RoleError> {
    let verdicts = closer.close(batch.iter().map(|held| held.wake.order_id).collect()).await?;
    Ok(with_verdicts(batch, &verdicts))
}

async fn close_alone(closer: Closer, held: Held) -> Result<Verdicts, RoleError> {
    let verdicts = closer.close_alone(held.wake.order_id).await?;
    Ok(with_verdicts(vec![held], &verdicts))
}

fn with_verdicts(batch: Vec<Held>, verdicts: &HashMap<i64, Verdict>) -> Verdicts {
    let verdict = |held: &Held| verdicts.get(&held.wake.order_id).cloned().unwrap_or(Verdict::Locked);
    batch.into_iter().map(|held| (held, verdict(&held))).collect()
}

fn log(report: &Report) {
    match report {
        Report::Stopping(orders) => {
            tracing::info!(event = "stopping", orders, "stopping: finishing what is in flight");
        }
        Report::HandingOver(orders) => {
            tracing::info!(
                event = "handing_over",
                orders,
                "handing over orders that could not be closed soon"
            );
        }
        Report::ParkingOrder(order_id, reason) => {
            tracing::error!(
                event = "parking_order",
                order_id,
                reason,
                "parking an order that cannot be closed"
            );
        }
        Report::ParkingUnknown(count, first) => {
            tracing::error!(
                event = "parking_unknown_orders",
                count,
                first,
                "parking orders that messages name but that do not exist"
            );
        }
        Report::ParkingMalformed(count, reason) => {
            tracing::warn!(event = "parking_malformed", count, %reason, "parking malformed messages of the process queue");
        }
    }
}
