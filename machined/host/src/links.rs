//! Links, addresses and routes over rtnetlink.
//!
//! Each call opens a netlink socket of its own and drives it to the end of the call: no task, nothing to restart.

use futures_util::TryStreamExt;
use machined_config::Cidr;
use machined_controllers::network::{LinkChange, LinkError, LinkHost, LinkStatus};
use machined_reconcile::Trigger;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};
use rtnetlink::{AddressMessageBuilder, Handle, LinkUnspec, MulticastGroup, RouteMessageBuilder};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

/// The kernel answers netlink at once; this long means that something is badly wrong.
const NETLINK_TIMEOUT: Duration = Duration::from_secs(10);

/// The kernel's network.
#[derive(Debug, Default)]
pub struct LinuxLinks;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Runs `work` with a netlink connection and drives the connection meanwhile.
async fn netlink<T, F>(doing: impl FnOnce() -> String, work: impl FnOnce(Handle) -> F) -> Result<T, LinkError>
where
    F: Future<Output = Result<T, BoxError>>,
{
    let done = async {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::pin!(connection);
        tokio::select! {
            done = work(handle) => done,
            () = &mut connection => Err("the netlink connection ended".into()),
        }
    };
    let done = tokio::time::timeout(NETLINK_TIMEOUT, done).await;
    done.unwrap_or_else(|late| Err(late.into())).map_err(|source| LinkError { doing: doing(), source })
}

fn link_of(message: LinkMessage) -> Option<(String, LinkStatus)> {
    let (mut name, mut hardware) = (None, Vec::new());
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text),
            LinkAttribute::Address(bytes) => hardware = bytes,
            _ => {}
        }
    }
    let name = name?;
    let flags = message.header.flags;
    let status = LinkStatus {
        index: message.header.index,
        hardware,
        physical: Path::new("/sys/class/net").join(&name).join("device").exists(),
        loopback: flags.contains(LinkFlags::Loopback),
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        addresses: Vec::new(),
        gateways: Vec::new(),
    };
    Some((name, status))
}

/// Permanent addresses of global scope; the kernel's own (link-local, autoconfigured) are left to the kernel.
fn address_of(message: &AddressMessage) -> Option<(u32, Cidr)> {
    let permanent = message.header.flags.contains(AddressHeaderFlags::Permanent);
    if !permanent || message.header.scope != AddressScope::Universe {
        return None;
    }
    // On point-to-point links the two differ, and the local one is ours.
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    Some((message.header.index, Cidr::new(local.or(address)?, message.header.prefix_len)?))
}

fn gateway_of(message: &RouteMessage) -> Option<(u32, IpAddr)> {
    let header = &message.header;
    let main = header.table == RouteHeader::RT_TABLE_MAIN && header.kind == RouteType::Unicast;
    if header.destination_prefix_length != 0 || !main {
        return None;
    }
    let (mut link, mut gateway) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(IpAddr::V4(*address)),
            RouteAttribute::Gateway(RouteAddress::Inet6(address)) => gateway = Some(IpAddr::V6(*address)),
            _ => {}
        }
    }
    link.zip(gateway)
}

async fn read(handle: Handle) -> Result<BTreeMap<String, LinkStatus>, BoxError> {
    let messages: Vec<LinkMessage> = handle.link().get().execute().try_collect().await?;
    let mut links: BTreeMap<String, LinkStatus> = messages.into_iter().filter_map(link_of).collect();
    let mut by_index: BTreeMap<u32, &mut LinkStatus> = links.values_mut().map(|link| (link.index, link)).collect();
    let addresses: Vec<AddressMessage> = handle.address().get().execute().try_collect().await?;
    for (index, address) in addresses.iter().filter_map(address_of) {
        if let Some(link) = by_index.get_mut(&index) {
            link.addresses.push(address);
        }
    }
    let families = [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()];
    for family in families {
        let routes: Vec<RouteMessage> = handle.route().get(family).execute().try_collect().await?;
        for (index, gateway) in routes.iter().filter_map(gateway_of) {
            if let Some(link) = by_index.get_mut(&index) {
                link.gateways.push(gateway);
            }
        }
    }
    for link in links.values_mut() {
        link.addresses.sort_unstable();
        link.gateways.sort_unstable();
    }
    Ok(links)
}

async fn index_of(handle: &Handle, link: &str) -> Result<u32, BoxError> {
    let found = handle.link().get().match_name(link.to_owned()).execute().try_next().await?;
    found.map(|message| message.header.index).ok_or_else(|| "there is no such link".into())
}

/// What is there already, or gone already, is as it should be.
fn tolerate(result: Result<(), rtnetlink::Error>, errno: nix::errno::Errno) -> Result<(), BoxError> {
    match result {
        Err(rtnetlink::Error::NetlinkError(message)) if message.raw_code() == -(errno as i32) => Ok(()),
        other => other.map_err(Into::into),
    }
}

fn default_route(index: u32, gateway: IpAddr) -> RouteMessage {
    match gateway {
        IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new().output_interface(index).gateway(v4).build(),
        IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new().output_interface(index).gateway(v6).build(),
    }
}

fn address_message(index: u32, cidr: Cidr) -> AddressMessage {
    match cidr.address() {
        IpAddr::V4(v4) => AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(v4, cidr.prefix()).build(),
        IpAddr::V6(v6) => AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(v6, cidr.prefix()).build(),
    }
}

async fn make(handle: Handle, change: LinkChange) -> Result<(), BoxError> {
    use nix::errno::Errno;
    match change {
        LinkChange::Up { link } => {
            let index = index_of(&handle, &link).await?;
            Ok(handle.link().change(LinkUnspec::new_with_index(index).up().build()).execute().await?)
        }
        LinkChange::AddAddress { link, address } => {
            let index = index_of(&handle, &link).await?;
            let added = handle.address().add(index, address.address(), address.prefix()).execute().await;
            tolerate(added, Errno::EEXIST)
        }
        LinkChange::RemoveAddress { link, address } => {
            let index = index_of(&handle, &link).await?;
            let removed = handle.address().del(address_message(index, address)).execute().await;
            tolerate(removed, Errno::EADDRNOTAVAIL)
        }
        LinkChange::AddGateway { link, gateway } => {
            let index = index_of(&handle, &link).await?;
            tolerate(handle.route().add(default_route(index, gateway)).execute().await, Errno::EEXIST)
        }
        LinkChange::RemoveGateway { link, gateway } => {
            let index = index_of(&handle, &link).await?;
            tolerate(handle.route().del(default_route(index, gateway)).execute().await, Errno::ESRCH)
        }
    }
}

fn story(change: &LinkChange) -> String {
    match change {
        LinkChange::Up { link } => format!("set {link} up"),
        LinkChange::AddAddress { link, address } => format!("add {address} to {link}"),
        LinkChange::RemoveAddress { link, address } => format!("remove {address} from {link}"),
        LinkChange::AddGateway { link, gateway } => format!("add the default route over {gateway} on {link}"),
        LinkChange::RemoveGateway { link, gateway } => format!("remove the default route over {gateway} on {link}"),
    }
}

impl LinkHost for LinuxLinks {
    async fn links(&self) -> Result<BTreeMap<String, LinkStatus>, LinkError> {
        netlink(|| "read the kernel's links".to_owned(), read).await
    }

    async fn change(&self, change: &LinkChange) -> Result<(), LinkError> {
        netlink(|| story(change), |handle| make(handle, change.clone())).await
    }

    fn set_hostname(&self, name: &str) -> Result<(), LinkError> {
        nix::unistd::sethostname(name)
            .map_err(|errno| LinkError { doing: format!("set the host name to {name}"), source: errno.into() })
    }
}

/// The watch on the kernel's network ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkWatchError {
    /// No socket.
    #[error("cannot watch the kernel's network")]
    Socket(#[from] std::io::Error),
    /// The socket was closed.
    #[error("the kernel closed the watch on its network")]
    Closed,
}

/// Fires `trigger` whenever the kernel's links, addresses or routes change. Never returns but with an error.
///
/// # Errors
/// [`LinkWatchError`]; the caller starts it again.
pub async fn watch_links(trigger: Trigger) -> Result<(), LinkWatchError> {
    use MulticastGroup::{Ipv4Ifaddr, Ipv4Route, Ipv6Ifaddr, Ipv6Route, Link};
    use futures_util::StreamExt;
    let groups = [Link, Ipv4Ifaddr, Ipv6Ifaddr, Ipv4Route, Ipv6Route];
    let (connection, _handle, mut messages) = rtnetlink::new_multicast_connection(&groups)?;
    // What changed before the watch stood is seen by this first look.
    trigger.fire();
    let hear = async {
        while messages.next().await.is_some() {
            trigger.fire();
        }
    };
    tokio::select! {
        () = connection => {}
        () = hear => {}
    }
    Err(LinkWatchError::Closed)
}
