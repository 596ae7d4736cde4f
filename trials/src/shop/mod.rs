//! The shop: it places, pays, cancels and extends orders by plain SQL, and services announce orders by AMQP, whatever
//! happens to the servers. It remembers what it was told.

pub mod announcer;
pub mod letter;
pub mod script;
pub mod subscriber;
pub mod till;

pub use announcer::Announcer;
pub use letter::Letter;
pub use script::{End, Life, Via};
pub use subscriber::Subscriber;
pub use till::{Ledger, Till, Told};
