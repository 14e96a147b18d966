//! What start-up prints: what to paste into OBS and into a browser, for as much of that as this node does.

use std::net::{IpAddr, SocketAddr};

use headwater_common::{config::Config, node::Role};

pub(crate) fn print(config: &Config, role: Role) {
    let host = |address: &SocketAddr| {
        let public = config.rtc.public_ips.first().copied().unwrap_or(address.ip());
        match public {
            ip if ip.is_unspecified() => "localhost".to_owned(),
            IpAddr::V6(ip) => format!("[{ip}]"),
            IpAddr::V4(ip) => ip.to_string(),
        }
    };
    let port = |address: &SocketAddr, usual: u16| match address.port() {
        port if port == usual => String::new(),
        port => format!(":{port}"),
    };
    let app = config.apps.keys().next().map_or("live", String::as_str);
    let rtmp = format!("rtmp://{}{}/{app}", host(&config.rtmp.listen), port(&config.rtmp.listen, 1935));
    let http = format!("http://{}{}", host(&config.http.listen), port(&config.http.listen, 80));
    println!(
        "Headwater {} is running{}.",
        env!("CARGO_PKG_VERSION"),
        match role {
            Role::Whole => "",
            Role::Origin => " as an origin",
            Role::Edge => " as an edge",
        }
    );
    if role.takes_publishers() {
        println!("  Publish  OBS, Settings > Stream, Custom:  Server {rtmp}   Stream key mystream");
    }
    if role.serves_viewers() {
        println!("  Watch    {http}/{app}/play.html?id=mystream");
        println!("  HLS      {http}/{app}/streams/mystream.m3u8");
    }
    println!("  Overview {http}/");
    match (config.tls.is_set(), role.takes_publishers()) {
        (true, true) => println!("  TLS      HTTPS on {}, RTMPS on {}", config.http.tls_listen, config.rtmp.tls_listen),
        (true, false) => println!("  TLS      HTTPS on {}", config.http.tls_listen),
        (false, _) => {}
    }
}
