//! Publishes events to subscribers, who may refuse them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::broker::publisher::{Answer, Publisher};
use crate::outbox::refused::{OrderEvent, Why};
use crate::roles::RoleError;
use crate::roles::shared::Shared;
use crate::wire::event::source;
use crate::wire::outgoing::Outgoing;

/// Types of events that the broker does not confirm at present: they are for a queue without a majority. They are retried on
/// a separate connection, because the broker stops reading from a connection with some thirty of them.
#[derive(Debug, Default)]
pub(super) struct Doubtful(Mutex<BTreeSet<String>>);

impl Doubtful {
    pub fn contains(&self, kind: &str) -> bool {
        self.with(|kinds| kinds.contains(kind))
    }

    pub fn add(&self, kind: &str) {
        self.with(|kinds| kinds.insert(kind.to_owned()));
    }

    /// Forgets one type, or all with `None`.
    pub fn clear(&self, kind: Option<&str>) {
        self.with(|kinds| kinds.retain(|doubtful| kind.is_some_and(|kind| kind != doubtful)));
    }

    fn with<T>(&self, change: impl FnOnce(&mut BTreeSet<String>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Events whose confirms are awaited together.
const TOGETHER: usize = 1_000;

/// When everything is refused, the channel may be at fault: RabbitMQ 3.10.8 refuses all messages from a channel to a quorum
/// queue whose leader was unknown when the channel first published to it. A new channel is tried this often at most.
const NEW_CHANNEL: Duration = Duration::from_secs(30);

pub(super) struct Teller<'a> {
    shared: &'a Arc<Shared>,
    purpose: &'static str,
    publisher: Publisher,
    /// When a new channel was last tried because everything was refused.
    renewed: Option<Instant>,
}

impl<'a> Teller<'a> {
    pub async fn connect(shared: &'a Arc<Shared>, purpose: &'static str) -> Result<Self, RoleError> {
        let publisher = Publisher::of_events(&shared.broker, purpose).await?;
        Ok(Self { shared, purpose, publisher, renewed: None })
    }

    /// Publishes these events, at most one for each order, and returns the broker's answer to each. A type that is not
    /// confirmed is doubtful from then on.
    pub async fn tell(
        &mut self,
        events: &[OrderEvent],
        doubtful: &Doubtful,
    ) -> Result<Vec<Answer>, RoleError> {
        let mut answers = vec![Answer::Silence; events.len()];
        for (kind, of_kind) in by_kind(events) {
            for chunk in of_kind.chunks(TOGETHER) {
                // An earlier chunk may have made it doubtful.
                if doubtful.contains(kind) {
                    break;
                }
                let told = self.tell_together(events, chunk, doubtful).await?;
                chunk.iter().zip(told).for_each(|(n, answer)| answers[*n] = answer);
            }
        }
        Ok(answers)
    }

    /// Publishes events of one type.
    async fn tell_together(
        &mut self,
        events: &[OrderEvent],
        chunk: &[usize],
        doubtful: &Doubtful,
    ) -> Result<Vec<Answer>, RoleError> {
        let patience = self.shared.config.broker_timeout;
        let mut told = self.publisher.publish_each(self.messages(events, chunk), patience).await?;
        let believed = !told.contains(&Answer::Silence) && !all_refused(&told);
        if believed || (all_refused(&told) && !self.may_renew()) {
            return Ok(told);
        }
        // Try once more on a new connection before believing the answer. If none can be opened, the broker is at fault.
        self.renew().await?;
        let open: Vec<_> = (0..told.len()).filter(|n| told[*n] != Answer::Confirmed).collect();
        let again: Vec<_> = open.iter().map(|n| chunk[*n]).collect();
        let answers = self.publisher.publish_each(self.messages(events, &again), patience).await?;
        open.into_iter().zip(answers).for_each(|(n, answer)| told[n] = answer);
        if told.contains(&Answer::Silence) {
            doubtful.add(&events[chunk[0]].kind);
            self.renew().await?;
        }
        Ok(told)
    }

    /// Retries events once.
    pub async fn try_again(
        &mut self,
        events: &[OrderEvent],
        patience: Duration,
    ) -> Result<Vec<Answer>, RoleError> {
        let mut answers = vec![Answer::Silence; events.len()];
        for (_, chunk) in by_kind(events) {
            let told = self.publisher.publish_each(self.messages(events, &chunk), patience).await?;
            if told.contains(&Answer::Silence) || (all_refused(&told) && self.may_renew()) {
                self.renew().await?;
            }
            chunk.iter().zip(told).for_each(|(n, answer)| answers[*n] = answer);
        }
        Ok(answers)
    }

    fn messages(&self, events: &[OrderEvent], chunk: &[usize]) -> Vec<Outgoing> {
        let source = source(&self.shared.config.shop);
        chunk.iter().map(|n| events[*n].event().message(&source)).collect()
    }

    /// Opens a new connection for the next messages.
    async fn renew(&mut self) -> Result<(), RoleError> {
        // The old connection is dropped, which closes its socket: the broker may no longer read a close request from it.
        self.publisher = Publisher::of_events(&self.shared.broker, self.purpose).await?;
        Ok(())
    }

    fn may_renew(&mut self) -> bool {
        let may = self.renewed.is_none_or(|last| last.elapsed() > NEW_CHANNEL);
        if may {
            self.renewed = Some(Instant::now());
        }
        may
    }

    pub async fn close(self) {
        self.publisher.close().await;
    }
}

/// The events' indices by type: each type has subscribers of its own.
fn by_kind(events: &[OrderEvent]) -> BTreeMap<&str, Vec<usize>> {
    let mut kinds: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (n, event) in events.iter().enumerate() {
        kinds.entry(&*event.kind).or_default().push(n);
    }
    kinds
}

fn all_refused(answers: &[Answer]) -> bool {
    answers.iter().all(|answer| *answer == Answer::Refused)
}

/// Why an event could not be published; `None` if it was confirmed.
pub(super) fn why(answer: Answer) -> Option<Why> {
    match answer {
        Answer::Confirmed => None,
        Answer::Refused => Some(Why::Refused),
        Answer::Silence => Some(Why::Unconfirmed),
    }
}
