//! Listening sockets as every door wants them: IPv4 and IPv6 on one, an error that names address and purpose.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
};

use socket2::{Domain, Protocol, Socket, Type};

/// How many connections may wait to be accepted: a whole audience may come back in the second after a restart.
const BACKLOG: i32 = 4096;

/// "[::]" means every address of the machine. Where the kernel has no IPv6 that is every IPv4 address.
pub fn listen_tcp(address: SocketAddr, purpose: &str) -> anyhow::Result<TcpListener> {
    let listener = bind_tcp(address).or_else(|error| match (without_ipv6(address), error.raw_os_error()) {
        (Some(v4), Some(libc_no_ipv6)) if NO_IPV6.contains(&libc_no_ipv6) => bind_tcp(v4),
        _ => Err(error),
    });
    listener.map_err(|error| anyhow::anyhow!("listen on {address} for {purpose}: {error}"))
}

/// An address of this machine that others may reach: not loopback if there is another one, IPv4 before IPv6.
pub fn first_address(listening: IpAddr) -> io::Result<IpAddr> {
    let mut addresses: Vec<IpAddr> = if_addrs::get_if_addrs()?
        .into_iter()
        .map(|interface| interface.ip())
        .filter(|ip| listening.is_ipv6() || ip.is_ipv4())
        // A link-local address means nothing without the peer's own name for the link.
        .filter(|ip| !matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local()))
        .collect();
    addresses.sort_by_key(|ip| (ip.is_loopback(), ip.is_ipv6()));
    addresses.into_iter().next().ok_or_else(|| io::Error::other("this machine has no address"))
}

/// EAFNOSUPPORT and EADDRNOTAVAIL on Linux.
const NO_IPV6: [i32; 2] = [97, 99];

fn without_ipv6(address: SocketAddr) -> Option<SocketAddr> {
    (address.is_ipv6() && address.ip().is_unspecified()).then(|| (Ipv4Addr::UNSPECIFIED, address.port()).into())
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Otherwise a restart has to wait until the old connections are forgotten.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_socket_takes_both_families() {
        let listener = listen_tcp("[::]:0".parse().unwrap(), "test").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    }

    #[test]
    fn a_taken_port_is_named_with_its_purpose() {
        let taken = listen_tcp("127.0.0.1:0".parse().unwrap(), "test").unwrap();
        let address = taken.local_addr().unwrap();
        let error = listen_tcp(address, "RTMP").unwrap_err().to_string();
        assert!(error.contains(&address.to_string()) && error.contains("RTMP"), "{error}");
    }
}
