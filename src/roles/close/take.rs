//! What arrives is taken in hand: wakes are held or sent on, probes noted, what cannot be understood parked.

use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;

use super::WakeConsumer;
use super::in_flight::{Held, Tag};
use crate::broker::BrokerError;
use crate::broker::consumer::Deliveries;
use crate::lanes::LONGEST_HOLD;
use crate::probes;
use crate::roles::RoleError;
use crate::stats::Count;
use crate::wire::keys::KEY_PROCESS;
use crate::wire::message::{self, Reading};
use crate::wire::parked::parked;
use crate::wire::wake::Wake;

/// Deliveries taken in one go before the rest of the loop has its turn.
const MOST_AT_ONCE: usize = 256;

impl WakeConsumer {
    /// Told to stop, it takes whatever it is sent, to know when that is all.
    pub(super) fn has_room(&self) -> bool {
        self.stopping || self.in_flight.orders() < self.shared.config.max_in_flight_orders
    }

    /// Takes this delivery and all that have arrived with it.
    pub(super) fn take_arrived(
        &mut self,
        first: lapin::Result<Delivery>,
        consumer: &mut Option<Deliveries>,
    ) -> Result<(), RoleError> {
        let mut next = Some(first);
        for n in 1.. {
            let Some(delivery) = next else { break };
            self.take(delivery.map_err(|source| BrokerError::during("taking wakes", source))?);
            // The end of the stream, if it is met here, is met again by the next call.
            let room = n < MOST_AT_ONCE && self.has_room();
            next = if room { next_delivery(consumer).now_or_never().flatten() } else { None };
        }
        Ok(())
    }

    fn take(&mut self, delivery: Delivery) {
        let Delivery { delivery_tag: tag, data, properties, redelivered, .. } = delivery;
        self.shared.stats.add(Count::Redelivered, usize::from(redelivered));
        let now = self.shared.clock.now();
        let envelope = message::envelope(&properties);
        if let Some(token) = probes::token(&data, envelope.kind) {
            self.in_flight.take(tag, 0);
            self.probes.push((token, tag));
            return;
        }
        let from_service = message::expired_in(&properties, &self.intake);
        let max_window = self.shared.config.max_window;
        let reading = Reading { now, max_window, delay_is_over: true, from_service };
        match message::read(&data, envelope, reading) {
            Ok(wakes) => {
                self.in_flight.take(tag, wakes.len());
                for wake in wakes {
                    self.hold_or_reschedule(wake, tag);
                }
            }
            Err(malformed) => {
                self.in_flight.take(tag, 1);
                let reason = malformed.to_string();
                self.malformed = Some((malformed, self.malformed.take().map_or(1, |(_, count)| count + 1)));
                self.to_park.push((parked(data, &properties, &reason, KEY_PROCESS, now), vec![tag]));
            }
        }
    }

    /// Holds a wake, or sends it on where much time remains.
    pub(super) fn hold_or_reschedule(&mut self, wake: Wake, tag: Tag) {
        let now = self.shared.clock.now();
        let near = wake.due.since(now) <= LONGEST_HOLD && self.has_leisure();
        if (near || self.shared.scheduler.holds(&wake, now)) && !self.handing_over {
            self.in_flight.wait(Held { wake, tag, deferrals: 0 });
        } else {
            self.outbound.push((wake, tag));
        }
    }

    /// Whether there is room for wakes that another lane could carry nearer to their moment: holding them costs nothing but
    /// room, while every further lane costs messages, and the fewer orders one carries the more. Half of the room is for
    /// wakes that are due, which would else stand in the queue behind those that are not.
    fn has_leisure(&self) -> bool {
        let config = &self.shared.config;
        2 * self.in_flight.unacknowledged() <= self.messages_ahead()
            && 2 * self.in_flight.orders() <= config.max_in_flight_orders
    }
}

pub(super) async fn next_delivery(consumer: &mut Option<Deliveries>) -> Option<lapin::Result<Delivery>> {
    match consumer {
        Some(consumer) => consumer.next().await,
        None => None,
    }
}
