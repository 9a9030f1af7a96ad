//! Ages as kubectl shows them: the two largest units that matter, never more.

use jiff::Timestamp;

/// Returns the time since `then` in kubectl's short form (`45s`, `3m12s`, `5h10m`, `2d4h`, `400d`, `2y30d`).
pub fn since(then: Timestamp, now: Timestamp) -> String {
    short(now.duration_since(then).as_secs())
}

/// Returns a number of seconds in kubectl's short form.
pub fn short(seconds: i64) -> String {
    // The clocks of two machines differ a little; more than that is a mistake worth seeing.
    if seconds < -1 {
        return "<invalid>".into();
    }
    let seconds = seconds.max(0);
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    let two = |large: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{large}{unit}") } else { format!("{large}{unit}{small}{small_unit}") }
    };
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 24 * 8 => two(days, "d", hours % 24, "h"),
        () if hours < 24 * 365 * 2 => format!("{days}d"),
        () if hours < 24 * 365 * 8 => two(days / 365, "y", days % 365, "d"),
        () => format!("{}y", days / 365),
    }
}
