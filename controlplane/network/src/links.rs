//! Links, addresses and routes in one network namespace, over rtnetlink; each call states what should be.
//!
//! A [`Links`] is a netlink socket that belongs to the namespace it was opened in. Its driver runs beside the work
//! in the same task ([`Links::run`]), so no background task outlives an operation.

use crate::cidr::Cidr;
use crate::namespace::{self, NamespaceError};
use futures_util::TryStreamExt;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol};
use rtnetlink::{Handle, LinkBridge, LinkBridgePort, LinkUnspec, LinkVeth, RouteMessageBuilder};
use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::Path;

/// A link, address or route could not be made as it should be.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No netlink socket.
    #[error("cannot open a netlink socket")]
    Socket(#[source] io::Error),
    /// The pod's namespace cannot be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The kernel refused.
    #[error("cannot {doing}")]
    Kernel {
        /// What was being done, with the link's name.
        doing: String,
        /// What the kernel said.
        #[source]
        source: rtnetlink::Error,
    },
    /// A link that must be there is not.
    #[error("there is no link {name}")]
    Missing {
        /// Its name.
        name: String,
    },
    /// The socket closed in the middle of the work.
    #[error("the netlink socket closed")]
    Closed,
}

/// A netlink socket in one namespace.
pub(crate) struct Links {
    handle: Handle,
}

/// What the kernel says of a link.
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) controller: Option<u32>,
}

impl Links {
    /// Runs `work` with a socket in the calling thread's namespace.
    pub(crate) async fn here<T, F>(work: impl FnOnce(Self) -> F) -> Result<T, LinkError>
    where
        F: Future<Output = Result<T, LinkError>>,
    {
        Self::run(rtnetlink::new_connection().map_err(LinkError::Socket)?, work).await
    }

    /// Runs `work` with a socket in the namespace that is pinned at `path`.
    pub(crate) async fn inside<T, F>(path: &Path, work: impl FnOnce(Self) -> F) -> Result<T, LinkError>
    where
        F: Future<Output = Result<T, LinkError>>,
    {
        let runtime = tokio::runtime::Handle::current();
        let connection = namespace::enter(path, move || {
            let _in_runtime = runtime.enter();
            rtnetlink::new_connection()
        })?;
        Self::run(connection, work).await
    }

    async fn run<T, F, D, M>(
        (driver, handle, _events): (D, Handle, M),
        work: impl FnOnce(Self) -> F,
    ) -> Result<T, LinkError>
    where
        D: Future<Output = ()>,
        F: Future<Output = Result<T, LinkError>>,
    {
        tokio::select! {
            result = work(Self { handle }) => result,
            () = driver => Err(LinkError::Closed),
        }
    }

    /// The link of that name, if there is one.
    pub(crate) async fn find(&self, name: &str) -> Result<Option<Link>, LinkError> {
        let found = self.handle.link().get().match_name(name.to_owned()).execute().try_next().await;
        match found {
            Ok(message) => Ok(message.map(|message| describe(&message))),
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -nix::libc::ENODEV => Ok(None),
            Err(source) => Err(failed(format!("look for link {name}"))(source)),
        }
    }

    async fn required(&self, name: &str) -> Result<Link, LinkError> {
        self.find(name).await?.ok_or_else(|| LinkError::Missing { name: name.to_owned() })
    }

    /// A bridge of that name and hardware address, up.
    pub(crate) async fn ensure_bridge(&self, name: &str, mtu: u32, hardware: [u8; 6]) -> Result<u32, LinkError> {
        if self.find(name).await?.is_none() {
            let message = LinkBridge::new(name).mtu(mtu).address(hardware.to_vec()).build();
            let made = self.handle.link().add(message).execute().await;
            made.map_err(failed(format!("make the bridge {name}")))?;
        }
        let bridge = self.required(name).await?;
        let message = LinkUnspec::new_with_index(bridge.index).address(hardware.to_vec()).up().build();
        self.set(message, name).await?;
        Ok(bridge.index)
    }

    /// A pair of links: `inner` in this socket's namespace, `outer` in the namespace of `outside`.
    pub(crate) async fn make_pair(&self, inner: &str, outer: &str, mtu: u32, outside: &File) -> Result<(), LinkError> {
        let message = LinkVeth::new(inner, outer).mtu(mtu).build();
        let made = self.handle.link().add(message).execute().await;
        made.map_err(failed(format!("make the link pair {inner} and {outer}")))?;
        let message = LinkUnspec::new_with_name(outer).mtu(mtu).setns_by_fd(outside.as_raw_fd()).build();
        self.set(message, outer).await
    }

    /// Makes the link a port of the bridge; packets may leave by the port they came from, which a pod needs that
    /// reaches itself through a service.
    pub(crate) async fn join_bridge(&self, port: &str, bridge: u32) -> Result<(), LinkError> {
        let link = self.required(port).await?;
        if link.controller != Some(bridge) {
            let message = LinkUnspec::new_with_index(link.index).controller(bridge).build();
            self.set(message, port).await?;
        }
        let set = self.handle.link().set_port(LinkBridgePort::new(link.index).hairpin(true).build()).execute().await;
        set.map_err(failed(format!("let packets turn around on bridge port {port}")))?;
        self.up(port).await
    }

    /// Switches the link on and returns its index.
    pub(crate) async fn up(&self, name: &str) -> Result<(), LinkError> {
        let link = self.required(name).await?;
        self.set(LinkUnspec::new_with_index(link.index).up().build(), name).await
    }

    async fn set(&self, message: LinkMessage, name: &str) -> Result<(), LinkError> {
        self.handle.link().set(message).execute().await.map_err(failed(format!("set up the link {name}")))
    }

    /// Gives the link an address; one that it has already is kept.
    pub(crate) async fn ensure_address(&self, name: &str, address: Ipv4Addr, prefix: u8) -> Result<(), LinkError> {
        let link = self.required(name).await?;
        let added = self.handle.address().add(link.index, address.into(), prefix).replace().execute().await;
        added.map_err(failed(format!("give {name} the address {address}/{prefix}")))
    }

    /// Routes the range to the link itself.
    pub(crate) async fn ensure_link_route(&self, name: &str, range: (Ipv4Addr, u8)) -> Result<(), LinkError> {
        let link = self.required(name).await?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(range.0, range.1)
            .scope(netlink_packet_route::route::RouteScope::Link)
            .output_interface(link.index)
            .build();
        let added = self.handle.route().add(route).replace().execute().await;
        added.map_err(failed(format!("route {}/{} to {name}", range.0, range.1)))
    }

    /// Routes everything else over `gateway` on the link.
    pub(crate) async fn ensure_default_route(&self, name: &str, gateway: Ipv4Addr) -> Result<(), LinkError> {
        let link = self.required(name).await?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).output_interface(link.index).build();
        let added = self.handle.route().add(route).replace().execute().await;
        added.map_err(failed(format!("route everything over {gateway} on {name}")))
    }

    /// Routes the pods of another node over its address.
    pub(crate) async fn ensure_pod_route(&self, range: Cidr, gateway: Ipv4Addr) -> Result<(), LinkError> {
        let route = pod_route(range).gateway(gateway).build();
        let added = self.handle.route().add(route).replace().execute().await;
        added.map_err(failed(format!("route {range} over {gateway}")))
    }

    /// Takes such a route away.
    pub(crate) async fn remove_pod_route(&self, range: Cidr) -> Result<(), LinkError> {
        let removed = self.handle.route().del(pod_route(range).build()).execute().await;
        removed.map_err(failed(format!("remove the route to {range}")))
    }

    /// The routes that [`Links::ensure_pod_route`] made, in this run or an earlier one.
    pub(crate) async fn pod_routes(&self) -> Result<BTreeMap<Cidr, Ipv4Addr>, LinkError> {
        let routes = self.handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
        let routes: Vec<RouteMessage> = routes.try_collect().await.map_err(failed("read the routes".to_owned()))?;
        let ours = routes.iter().filter(|route| route.header.protocol == POD_ROUTES);
        Ok(ours.filter_map(read_pod_route).collect())
    }

    /// Removes the link, and with it its peer; a missing one is no error.
    pub(crate) async fn remove(&self, name: &str) -> Result<(), LinkError> {
        match self.find(name).await? {
            Some(link) => {
                let removed = self.handle.link().del(link.index).execute().await;
                removed.map_err(failed(format!("remove the link {name}")))
            }
            None => Ok(()),
        }
    }
}

/// Marks routes to pods of other nodes as ours; a number that nobody has in iproute2's list.
const POD_ROUTES: RouteProtocol = RouteProtocol::Other(86);

fn pod_route(range: Cidr) -> RouteMessageBuilder<Ipv4Addr> {
    RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(range.network(), range.prefix()).protocol(POD_ROUTES)
}

fn read_pod_route(route: &RouteMessage) -> Option<(Cidr, Ipv4Addr)> {
    let v4 = |address: &RouteAddress| match address {
        RouteAddress::Inet(v4) => Some(*v4),
        _other => None,
    };
    let network = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => v4(address),
        _other => None,
    });
    let gateway = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => v4(address),
        _other => None,
    });
    Some((Cidr::new(network?, route.header.destination_prefix_length).ok()?, gateway?))
}

fn failed(doing: String) -> impl FnOnce(rtnetlink::Error) -> LinkError {
    move |source| LinkError::Kernel { doing, source }
}

fn describe(message: &LinkMessage) -> Link {
    let controller = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Controller(index) => Some(*index),
        _other => None,
    });
    Link { index: message.header.index, controller }
}
