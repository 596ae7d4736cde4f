//! What the tests stand on: a world of one's own, a shop in it, pods, and a breaker and an alarm for connections.

mod alarm;
mod events;
mod hostile;
mod management;
pub mod mix;
mod pods;
mod raw;
mod roles;
mod shop;
mod tls;
mod users;
mod verify;
mod waiting;
mod world;

pub use alarm::Alarm;
pub use events::{Subscriber, order_of};
pub use hostile::Hostile;
pub use overdue_testkit::breaker::{Breaker, Line};
pub use overdue_testkit::machine::stretched;
pub use overdue_testkit::process::Signal;
pub use pods::{Process, TestPod};
pub use raw::{CONTENT_TYPE, EXPIRATION, HEADERS, long, short};
pub use roles::{Roles, run as run_as};
pub use tls::Terminator;
pub use users::Shop;
pub use waiting::{eventually, patiently};
pub use world::{NOBODY, World, address, at, env, with_path};
