//! Random blocks of x87 and vector instructions.

use std::time::Duration;

use differential::forms::Kind;
use differential::sweep::{Extent, sweep};

#[test]
fn cases_end_as_on_the_host() {
    sweep(Kind::Vector, &Extent { seed: 2, cases: 400_000, time: Duration::from_secs(30) });
}
