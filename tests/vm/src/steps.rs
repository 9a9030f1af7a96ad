//! What a long run says while it goes: one line a step, with the time it took.

use anyhow::Result;
use std::future::Future;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// How often a running step shows that it runs.
const PULSE: Duration = Duration::from_secs(1);

/// Steps that were taken, and how long each took.
#[derive(Debug, Default)]
pub struct Steps {
    taken: Vec<(String, Duration)>,
}

impl Steps {
    /// Takes a step; on a terminal its line counts the seconds.
    ///
    /// # Errors
    /// The step's own.
    pub async fn take<T>(&mut self, name: &str, step: impl Future<Output = Result<T>>) -> Result<T> {
        let begin = Instant::now();
        let terminal = std::io::stdout().is_terminal();
        let mut pulse = tokio::time::interval(PULSE);
        tokio::pin!(step);
        let result = loop {
            tokio::select! {
                result = &mut step => break result,
                _ = pulse.tick() => if terminal {
                    print!("\r  {name} ... {:.0} s ", begin.elapsed().as_secs_f64());
                    std::io::stdout().flush()?;
                },
            }
        };
        let took = begin.elapsed();
        let start = if terminal { "\r" } else { "" };
        match &result {
            Ok(_) => println!("{start}  {name:<52} {:>7.1} s", took.as_secs_f64()),
            Err(_) => println!("{start}  {name:<52} failed"),
        }
        self.taken.push((name.to_owned(), took));
        result
    }

    /// Names and times, in order.
    #[must_use]
    pub fn taken(&self) -> &[(String, Duration)] {
        &self.taken
    }
}
