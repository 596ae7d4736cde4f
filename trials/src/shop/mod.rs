//! The shop on trial: its buyers pay, cancel and extend orders, and its services announce them, whatever happens to the
//! servers. It remembers what it was told.

pub mod letter;
pub mod script;
pub mod till;

pub use letter::Letter;
pub use script::{End, Life, Via};
pub use till::{Ledger, Till, Told};
