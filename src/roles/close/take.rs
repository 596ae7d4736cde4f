//! What arrives is read: wakes, probes, and what cannot be understood.

use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;

use super::decide::Arrival;
use crate::broker::BrokerError;
use crate::broker::consumer::Deliveries;
use crate::probes;
use crate::roles::RoleError;
use crate::roles::shared::Shared;
use crate::stats::Count;
use crate::wire::keys::KEY_PROCESS;
use crate::wire::message::{self, Reading};
use crate::wire::parked::parked;

/// Deliveries taken in one go before anything else has its turn.
const MOST_AT_ONCE: usize = 256;

/// This delivery and all that have arrived with it, while there is room for so many orders.
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
        // The end of the stream, if it is met here, is met again by the next call.
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

/// `intake` is the intake queue's name: what has expired there comes from services.
fn read(shared: &Shared, intake: &str, delivery: Delivery) -> Arrival {
    let Delivery { delivery_tag: tag, data, properties, redelivered, .. } = delivery;
    shared.stats.add(Count::Redelivered, usize::from(redelivered));
    let envelope = message::envelope(&properties);
    if let Some(token) = probes::token(&data, envelope.kind) {
        return Arrival::Probe(tag, token);
    }
    let (now, max_window) = (shared.clock.now(), shared.config.max_window);
    let from_service = message::expired_in(&properties, intake);
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
