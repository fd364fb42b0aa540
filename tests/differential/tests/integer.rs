//! Random blocks of integer instructions.

use std::time::Duration;

use differential::forms::Kind;
use differential::sweep::{Extent, sweep};

#[test]
fn cases_end_as_on_the_host() {
    sweep(Kind::Integer, &Extent { seed: 1, cases: 200_000, time: Duration::from_secs(20) });
}
