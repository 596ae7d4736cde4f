//! What must hold for every input of every decoder. The fuzz targets look for inputs that break it; the tests of the
//! service run the kept corpus and generated inputs through the same functions.

#![expect(clippy::expect_used, reason = "an expectation that fails is a property that does not hold")]
#![allow(clippy::missing_panics_doc, reason = "all of them panic where a property does not hold")]

pub mod corpus;
pub mod frames;
pub mod management;
pub mod message;
pub mod parked;
pub mod settings;

/// A decoder's name, which is also its file's in the corpus, and what must hold for its input.
pub type Property = (&'static str, fn(&[u8]));

/// Every decoder.
pub const ALL: [Property; 5] = [
    ("frames", frames::holds),
    ("management", management::holds),
    ("message", message::holds),
    ("parked", parked::holds),
    ("settings", settings::holds),
];
