//! Time from SNTP servers (RFC 4330), and the machine's clock.

use hickory_resolver::TokioResolver;
use machined_controllers::time::{Offset, TimeError, TimeHost};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::UdpSocket;

/// Servers answer within a round trip; further away than this, their time is worth little.
const PATIENCE: Duration = Duration::from_secs(2);
/// Name servers are tried one after the other, each for a few seconds.
const NAME_PATIENCE: Duration = Duration::from_secs(8);
/// Length of a packet without authentication, in bytes.
const PACKET_BYTES: usize = 48;
/// Seconds from 1900, where NTP counts from, to 1970.
const NTP_EPOCH: u64 = 2_208_988_800;
/// NTP's seconds wrap in 2036; until 2104 a small number means the next era.
const ERA_SECONDS: u64 = 1 << 32;

/// This machine's clock.
#[derive(Debug, Default)]
pub struct LinuxClock;

/// An instant since 1970 as NTP's 32 bits of seconds and 32 bits of fraction.
fn to_ntp(since_1970: Duration) -> [u8; 8] {
    let seconds = (since_1970.as_secs() + NTP_EPOCH) % ERA_SECONDS;
    let fraction = (u64::from(since_1970.subsec_nanos()) << 32) / 1_000_000_000;
    (seconds << 32 | fraction).to_be_bytes()
}

fn from_ntp(bytes: [u8; 8]) -> Duration {
    let value = u64::from_be_bytes(bytes);
    let seconds = value >> 32;
    // Before 1970 there were no machines to ask, so a smaller number is of the next era.
    let since_1900 = if seconds < NTP_EPOCH { seconds + ERA_SECONDS } else { seconds };
    let nanos = ((value & 0xffff_ffff) * 1_000_000_000) >> 32;
    Duration::new(since_1900 - NTP_EPOCH, nanos as u32)
}

/// The offset that an answer shows; `None` when it does not answer our question or the server has no time.
fn offset_of(answer: &[u8], sent: Duration, received: Duration) -> Option<Offset> {
    let field = |at: usize| answer.get(at..at + 8)?.try_into().ok();
    let (leap, mode) = (answer.first()? >> 6, answer.first()? & 7);
    let stratum = *answer.get(1)?;
    let ours: [u8; 8] = field(24)?;
    if ours != to_ntp(sent) || mode != 4 || leap == 3 || stratum == 0 || stratum > 15 {
        return None;
    }
    let (arrived, left) = (from_ntp(field(32)?), from_ntp(field(40)?));
    // ((arrived - sent) + (left - received)) / 2, without going below zero on the way.
    let (server, own) = ((arrived + left) / 2, (sent + received) / 2);
    Some(if server >= own { Offset::Behind(server - own) } else { Offset::Ahead(own - server) })
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The address of a server that is named by address or by name. The resolver file is read again each time: leases change it.
async fn resolve(server: &str) -> std::io::Result<IpAddr> {
    if let Ok(address) = server.parse() {
        return Ok(address);
    }
    // glibc's resolver does not work in a static binary.
    let resolver = TokioResolver::builder_tokio().and_then(|builder| builder.build()).map_err(std::io::Error::other)?;
    let found = tokio::time::timeout(NAME_PATIENCE, resolver.lookup_ip(server)).await?;
    let addresses = found.map_err(std::io::Error::other)?;
    addresses.iter().next().ok_or_else(|| std::io::Error::other("the name has no address"))
}

async fn ask(address: IpAddr) -> std::io::Result<Offset> {
    let own = if address.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind((own, 0)).await?;
    // Connected, so that only this server's packets arrive.
    socket.connect((address, 123)).await?;
    let sent = now();
    let mut packet = [0; PACKET_BYTES];
    packet[0] = 4 << 3 | 3;
    packet[40..].copy_from_slice(&to_ntp(sent));
    socket.send(&packet).await?;
    let mut answer = [0; PACKET_BYTES];
    let length = tokio::time::timeout(PATIENCE, socket.recv(&mut answer)).await??;
    offset_of(&answer[..length], sent, now())
        .ok_or_else(|| std::io::Error::other("the server's answer has no time in it"))
}

impl TimeHost for LinuxClock {
    async fn ask(&self, server: &str) -> Result<Offset, TimeError> {
        let failed = |source| TimeError { doing: format!("ask {server} for the time"), source };
        let address = resolve(server).await.map_err(failed)?;
        ask(address).await.map_err(failed)
    }

    fn step(&self, offset: Offset) -> Result<(), TimeError> {
        let time = match offset {
            Offset::Behind(size) => now() + size,
            Offset::Ahead(size) => now().saturating_sub(size),
        };
        let failed = |error| TimeError { doing: "set the clock".to_owned(), source: std::io::Error::other(error) };
        init_linux::clock::set_time_of_day(time).map_err(failed)
    }

    fn slew(&self, offset: Offset) -> Result<(), TimeError> {
        let failed = |error| TimeError { doing: "adjust the clock".to_owned(), source: std::io::Error::other(error) };
        let (ahead, size) = match offset {
            Offset::Behind(size) => (false, size),
            Offset::Ahead(size) => (true, size),
        };
        init_linux::clock::slew_time_of_day(size, ahead).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer of a server whose clock is `ahead` of ours, reached and answering after one second each way.
    fn answer(sent: Duration, ahead: Duration) -> Vec<u8> {
        let mut packet = vec![0; PACKET_BYTES];
        packet[0] = 4 << 3 | 4;
        packet[1] = 2;
        packet[24..32].copy_from_slice(&to_ntp(sent));
        let there = sent + Duration::from_secs(1) + ahead;
        packet[32..40].copy_from_slice(&to_ntp(there));
        packet[40..48].copy_from_slice(&to_ntp(there));
        packet
    }

    fn near(offset: Option<Offset>, wanted: Duration) -> bool {
        matches!(offset, Some(Offset::Behind(size)) if size.abs_diff(wanted) < Duration::from_micros(1))
    }

    #[test]
    fn the_way_there_and_back_cancels_out() {
        let sent = Duration::from_secs(1_800_000_000);
        let ahead = Duration::from_millis(2500);
        assert!(near(offset_of(&answer(sent, ahead), sent, sent + Duration::from_secs(2)), ahead));
    }

    #[test]
    fn the_end_of_the_first_era_is_nothing_special() {
        // 2036-02-07 06:28:15 UTC is the last second of NTP's first era.
        let sent = Duration::from_secs(ERA_SECONDS - NTP_EPOCH - 1);
        let ahead = Duration::from_secs(5);
        assert!(near(offset_of(&answer(sent, ahead), sent, sent + Duration::from_secs(2)), ahead));
    }

    #[test]
    fn answers_to_other_questions_and_servers_without_time_are_refused() {
        let sent = Duration::from_secs(1_800_000_000);
        let good = answer(sent, Duration::ZERO);
        assert_eq!(offset_of(&good, sent + Duration::from_secs(1), sent), None);
        let mut unsynchronised = good.clone();
        unsynchronised[0] |= 3 << 6;
        assert_eq!(offset_of(&unsynchronised, sent, sent), None);
        assert_eq!(offset_of(&good[..40], sent, sent), None);
        assert_eq!(offset_of(&[], sent, sent), None);
    }
}
