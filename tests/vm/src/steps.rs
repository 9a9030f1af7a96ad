//! What a long run says while it goes: one line a step, with the time it took and, while it runs, what it does.

use anyhow::Result;
use std::fs::File;
use std::future::Future;
use std::io::{IsTerminal, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// How often a running step shows that it runs, on a terminal.
const PULSE: Duration = Duration::from_secs(1);

/// The same where every pulse is a line of its own.
const QUIET_PULSE: Duration = Duration::from_secs(60);

/// Bytes from the end of a log in which its last line is looked for.
const LOG_TAIL: i64 = 1024;

/// Characters of a log's last line that fit beside a step's name.
const DOING_MAX: usize = 48;

/// Steps that were taken, and how long each took.
#[derive(Debug, Default)]
pub struct Steps {
    taken: Vec<(String, Duration)>,
}

impl Steps {
    /// Takes a step; while it runs, it shows for how long.
    ///
    /// # Errors
    /// The step's own.
    pub async fn take<T>(&mut self, name: &str, step: impl Future<Output = Result<T>>) -> Result<T> {
        self.take_with(name, String::new, step).await
    }

    /// Takes a step that writes a log; while it runs, the last line of the log is shown.
    ///
    /// # Errors
    /// The step's own.
    pub async fn take_logged<T>(&mut self, name: &str, log: &Path, step: impl Future<Output = Result<T>>) -> Result<T> {
        self.take_with(name, || last_line(log).unwrap_or_default(), step).await
    }

    async fn take_with<T>(
        &mut self,
        name: &str,
        doing: impl Fn() -> String,
        step: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let begin = Instant::now();
        let terminal = std::io::stdout().is_terminal();
        let period = if terminal { PULSE } else { QUIET_PULSE };
        let mut pulse = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
        tokio::pin!(step);
        let result = loop {
            tokio::select! {
                result = &mut step => break result,
                _ = pulse.tick() => {
                    let seconds = begin.elapsed().as_secs();
                    let (start, end) = if terminal { (CLEAR, "") } else { ("", "\n") };
                    print!("{start}  {name} ... {seconds} s {}{end}", doing());
                    std::io::stdout().flush()?;
                }
            }
        };
        let took = begin.elapsed();
        let start = if terminal { CLEAR } else { "" };
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

/// To the start of the line, and nothing behind it.
const CLEAR: &str = "\r\x1b[K";

/// The last line of a log with something in it, cut to what fits.
fn last_line(log: &Path) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let end = i64::try_from(file.metadata().ok()?.len()).ok()?;
    file.seek(SeekFrom::End(-end.min(LOG_TAIL))).ok()?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail).ok()?;
    let tail = String::from_utf8_lossy(&tail);
    let line = tail.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    Some(line.chars().filter(|c| !c.is_control()).take(DOING_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_a_log_is_its_last_with_words() {
        let file = std::env::temp_dir().join(format!("cairn-steps-{}", std::process::id()));
        std::fs::write(&file, format!("{}\n   Compiling gix v0.90.0\n\n", "x".repeat(5000)))
            .expect("because it is ours");
        assert_eq!(last_line(&file).as_deref(), Some("Compiling gix v0.90.0"));
        std::fs::write(&file, "\n").expect("because it is ours");
        assert_eq!(last_line(&file), None);
        std::fs::remove_file(&file).expect("because it is ours");
        assert_eq!(last_line(&file), None);
    }
}
