//! A DHCPv4 client (RFC 2131, 2132): one exchange at a time over a UDP socket that is bound to the link.

mod codec;

use codec::{Question, Reply};
use machined_controllers::network::{DhcpHost, LeaseRequest, LeaseTerms, LinkError};
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

/// How long to wait for an answer before asking again. RFC 2131 wants 4 s first; on a local network that only costs boot time.
const RETRIES: [Duration; 3] = [Duration::from_millis(700), Duration::from_millis(1300), Duration::from_secs(2)];
/// The largest UDP payload that a client must take is 548 bytes; servers may send more to those who say so.
const DATAGRAM_BYTES: usize = 1500;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// DHCP on this machine's links.
#[derive(Debug, Default)]
pub struct LinuxDhcp;

fn socket(link: &str) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_broadcast(true)?;
    socket.bind_device(Some(link.as_bytes()))?;
    socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68).into())?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket.into())
}

/// Sends `question` until something that answers it comes.
async fn ask(socket: &UdpSocket, to: Ipv4Addr, question: &Question<'_>) -> Result<Reply, BoxError> {
    let packet = question.encode()?;
    let mut buffer = [0; DATAGRAM_BYTES];
    for patience in RETRIES {
        socket.send_to(&packet, (to, 67)).await?;
        let deadline = Instant::now() + patience;
        while let Ok(received) = timeout_at(deadline, socket.recv_from(&mut buffer)).await {
            let (length, _) = received?;
            // Broadcasts for others, and garbage, are not for us.
            if let Some(reply) = codec::reply_to(question, &buffer[..length]) {
                return Ok(reply);
            }
        }
    }
    Err("no DHCP server answered".into())
}

async fn exchange(link: &str, hardware: &[u8], request: LeaseRequest) -> Result<LeaseTerms, BoxError> {
    let socket = socket(link)?;
    let question = |kind| Question { kind, hardware, transaction: codec::transaction() };
    let (to, second) = match request {
        LeaseRequest::New => {
            let discover = question(codec::Kind::Discover);
            let Reply::Offer(offer) = ask(&socket, Ipv4Addr::BROADCAST, &discover).await? else {
                return Err("the DHCP server answered a discovery with something else than an offer".into());
            };
            (Ipv4Addr::BROADCAST, codec::Kind::Select { address: offer.address, server: offer.server })
        }
        LeaseRequest::Renew { address, server } => (server, codec::Kind::Extend { address }),
        LeaseRequest::Rebind { address } => (Ipv4Addr::BROADCAST, codec::Kind::Extend { address }),
    };
    match ask(&socket, to, &question(second)).await? {
        Reply::Ack(terms) => Ok(terms),
        Reply::Nak => Err("the DHCP server refused the address".into()),
        Reply::Offer(_) => Err("the DHCP server answered a request with an offer".into()),
    }
}

impl DhcpHost for LinuxDhcp {
    async fn exchange(&self, link: &str, hardware: &[u8], request: LeaseRequest) -> Result<LeaseTerms, LinkError> {
        let failed = |source| LinkError { doing: format!("get an address for {link} by DHCP"), source };
        exchange(link, hardware, request).await.map_err(failed)
    }
}
