//! `sim`: runs seed after seed until the time is over or one breaks. `cargo xtask sim` builds and starts it.

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// How often it says how far it is.
const WORD_PERIOD: Duration = Duration::from_secs(10);

fn main() -> Result<()> {
    let (first, minutes) = arguments()?;
    let begin = Instant::now();
    let (mut seed, mut word) = (first, begin);
    let (mut calls, mut revisions, mut watched) = (0, 0, 0);
    loop {
        match tests_sim::run(seed, None) {
            Ok(report) => {
                calls += report.calls;
                revisions += report.revisions;
                watched += report.watched;
            }
            Err(error) => bail!("seed {seed} breaks {error:#}\nagain: cargo xtask sim --seed {seed} --minutes 0"),
        }
        let over = begin.elapsed().as_secs_f64() >= minutes * 60.0;
        if over || word.elapsed() >= WORD_PERIOD {
            word = Instant::now();
            let count = seed - first + 1;
            println!(
                "  {count} seeds from {first} hold: {calls} calls, {revisions} revisions, {watched} changes watched"
            );
        }
        if over {
            return Ok(());
        }
        seed += 1;
    }
}

fn arguments() -> Result<(u64, f64)> {
    let (mut seed, mut minutes) = (1, 2.0);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        match (name.as_str(), arguments.next()) {
            ("--seed", Some(value)) => seed = value.parse()?,
            ("--minutes", Some(value)) => minutes = value.parse()?,
            _ => bail!("{name} is not known; use: sim [--seed S] [--minutes N]"),
        }
    }
    Ok((seed, minutes))
}
