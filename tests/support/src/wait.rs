//! Waiting for a value of the outside world, which gives no signal when it is there.

use std::fmt;
use std::future::Future;
use std::time::Duration;
use tokio::time::Instant;

/// How often the outside world is looked at. Short against anything that is waited for, long against one look.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The value did not come.
#[derive(Debug)]
pub struct NotInTime {
    what: String,
    limit: Duration,
    last: String,
}

impl fmt::Display for NotInTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} did not come within {:?}; last seen: {}", self.what, self.limit, self.last)
    }
}

impl std::error::Error for NotInTime {}

/// Looks until `look` finds the value. What it saw instead is told when it never comes.
///
/// # Errors
/// [`NotInTime`] after `limit`.
pub async fn wait_for<T, E, F, L>(what: impl Into<String>, limit: Duration, mut look: L) -> Result<T, NotInTime>
where
    L: FnMut() -> F,
    F: Future<Output = Result<T, E>>,
    E: fmt::Display,
{
    let end = Instant::now() + limit;
    let mut last = "nothing yet".to_owned();
    loop {
        match tokio::time::timeout_at(end, look()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(seen)) => last = seen.to_string(),
            Err(_) => return Err(NotInTime { what: what.into(), limit, last }),
        }
        // A look that never waits is never cut short: the clock is asked as well.
        if Instant::now() >= end {
            return Err(NotInTime { what: what.into(), limit, last });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiting_ends_at_its_limit_whether_or_not_a_look_takes_time() {
        let limit = Duration::from_millis(1);
        let at_once = wait_for("a value", limit, async || Err::<(), _>("something else")).await;
        assert_eq!(
            at_once.expect_err("because it never comes").to_string(),
            "a value did not come within 1ms; last seen: something else"
        );
        let never = wait_for("a value", limit, std::future::pending::<Result<(), &str>>).await;
        assert_eq!(
            never.expect_err("because it never comes").to_string(),
            "a value did not come within 1ms; last seen: nothing yet"
        );
    }
}
