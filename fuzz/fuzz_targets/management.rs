#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| overdue_properties::management::holds(input));
