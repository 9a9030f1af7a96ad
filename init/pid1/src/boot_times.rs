//! When each part of the boot was over, in milliseconds since the kernel started.
//!
//! Stage one hands its part to stage two as an argument; stage two writes all of it to /run/cairn/boot-times for
//! machined, one `name milliseconds` a line.

use std::time::Duration;

/// Where machined finds them.
pub(crate) const BOOT_TIMES: &str = "/run/cairn/boot-times";
/// More marks than there are; what stage two is handed beyond them is dropped.
const MARKS_MAX: usize = 32;

/// Names and times, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BootTimes(Vec<(String, u64)>);

impl BootTimes {
    /// Adds a mark. Names have no spaces, colons or commas.
    pub(crate) fn mark(&mut self, name: &str, uptime: Duration) {
        if self.0.len() < MARKS_MAX {
            self.0.push((name.to_owned(), u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX)));
        }
    }

    /// For stage two's command line.
    pub(crate) fn to_argument(&self) -> String {
        self.0.iter().map(|(name, millis)| format!("{name}:{millis}")).collect::<Vec<_>>().join(",")
    }

    /// From stage one; what is not understood is left out, times are not worth a failing boot.
    pub(crate) fn from_argument(text: &str) -> Self {
        let marks = text.split(',').filter_map(|mark| {
            let (name, millis) = mark.split_once(':')?;
            Some((name.to_owned(), millis.parse().ok()?))
        });
        Self(marks.take(MARKS_MAX).collect())
    }

    /// For the file.
    pub(crate) fn to_file(&self) -> String {
        self.0.iter().map(|(name, millis)| format!("{name} {millis}\n")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_survive_the_change_of_stages() {
        let mut times = BootTimes::default();
        times.mark("pid1", Duration::from_millis(4600));
        times.mark("modules", Duration::from_micros(5_900_999));
        assert_eq!(BootTimes::from_argument(&times.to_argument()), times);
        assert_eq!(times.to_file(), "pid1 4600\nmodules 5900\n");
    }

    #[test]
    fn nonsense_is_left_out() {
        assert_eq!(BootTimes::from_argument("a,b:x,c:3"), BootTimes(vec![("c".to_owned(), 3)]));
        assert_eq!(BootTimes::from_argument(""), BootTimes::default());
    }
}
