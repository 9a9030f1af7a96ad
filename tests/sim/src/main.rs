//! Runs the simulator: seed after seed, until the time is over or an invariant breaks.

use std::time::{Duration, Instant};

fn main() -> anyhow::Result<()> {
    let mut seed = 1;
    let mut minutes = 1.0;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments.next();
        match (argument.as_str(), value) {
            ("--seed", Some(value)) => seed = value.parse()?,
            ("--minutes", Some(value)) => minutes = value.parse()?,
            _ => anyhow::bail!("use: sim [--seed S] [--minutes N]"),
        }
    }
    let end = Instant::now() + Duration::from_secs_f64(minutes * 60.0);
    loop {
        let begin = Instant::now();
        match tests_sim::run(seed) {
            Ok(report) => println!("seed {seed}: {report:?} in {:.1} s", begin.elapsed().as_secs_f64()),
            Err(error) => anyhow::bail!("seed {seed} breaks: {error:#}\nagain: cargo xtask sim --seed {seed} --minutes 0"),
        }
        if Instant::now() >= end {
            return Ok(());
        }
        seed += 1;
    }
}
