//! What the tests stand on: a world of one's own, a shop in it, pods, and a breaker for connections.

mod breaker;
mod management;
mod pods;
mod shop;
mod world;

pub use breaker::{Breaker, Line};
pub use pods::{Process, TestPod};
pub use shop::{Subscriber, order_of};
pub use world::{World, env, eventually, with_path};
