//! Decodes deliveries: wakes, probes, and malformed messages.

use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;

use super::decide::Arrival;
use crate::broker::BrokerError;
use crate::broker::consumer::Deliveries;
use crate::probes;
use crate::roles::RoleError;
use crate::roles::shared::Shared;
use crate::stats::Count;
use crate::wire::envelope::{envelope, expired_in};
use crate::wire::keys::KEY_PROCESS;
use crate::wire::message::{self, Reading};
use crate::wire::parked::parked;

/// Most deliveries taken in one go, before other events have their turn.
const MOST_AT_ONCE: usize = 256;

/// This delivery and those that have arrived with it, as long as there is room for more orders.
pub(super) fn arrived(
    shared: &Shared,
    intake: &str,
    first: lapin::Result<Delivery>,
    consumer: &mut Option<Deliveries>,
    mut room: usize,
) -> Result<Vec<Arrival>, RoleError> {
    let (mut arrivals, mut next) = (Vec::new(), Some(first));
    while let Some(delivery) = next {
        let delivery = delivery.map_err(|source| BrokerError::during("taking wakes", source))?;
        let arrival = read(shared, intake, delivery);
        room = room.saturating_sub(orders(&arrival));
        arrivals.push(arrival);
        // If the stream ends here, the next call sees the end again: the stream is fused.
        let more = room > 0 && arrivals.len() < MOST_AT_ONCE;
        next = if more { next_delivery(consumer).now_or_never().flatten() } else { None };
    }
    Ok(arrivals)
}

fn orders(arrival: &Arrival) -> usize {
    match arrival {
        Arrival::Wakes(_, wakes) => wakes.len(),
        Arrival::Probe(..) => 0,
        Arrival::Malformed(..) => 1,
    }
}

/// `intake` is the intake queue's name: messages that expired there come from services.
fn read(shared: &Shared, intake: &str, delivery: Delivery) -> Arrival {
    let Delivery { delivery_tag: tag, data, properties, redelivered, .. } = delivery;
    shared.stats.add(Count::Redelivered, usize::from(redelivered));
    let envelope = envelope(&properties);
    if let Some(token) = probes::token(&data, envelope.kind) {
        return Arrival::Probe(tag, token);
    }
    let (now, max_window) = (shared.clock.now(), shared.config.max_window);
    let from_service = expired_in(&properties, intake);
    let reading = Reading { now, max_window, delay_is_over: true, from_service };
    match message::read(&data, envelope, reading) {
        Ok(wakes) => Arrival::Wakes(tag, wakes),
        Err(malformed) => {
            let message = parked(data, &properties, &malformed.to_string(), KEY_PROCESS, now);
            Arrival::Malformed(tag, Box::new((malformed, message)))
        }
    }
}

pub(super) async fn next_delivery(consumer: &mut Option<Deliveries>) -> Option<lapin::Result<Delivery>> {
    match consumer {
        Some(consumer) => consumer.next().await,
        None => None,
    }
}
