//! The command line: the few settings that people type, and what start-up prints for them to paste.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use headwater_common::config::{Config, ConfigError, Layers};

/// A live streaming server: publish by RTMP, watch by WebRTC and HLS, keep MP4.
#[derive(clap::Parser)]
#[command(name = "headwater", version)]
pub(crate) struct Flags {
    /// Settings file (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print every setting with its default and what it does
    #[arg(long)]
    pub(crate) print_config: bool,
    /// Directory for recordings and the registry
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Address for pages, HLS, WHEP and REST
    #[arg(long, value_name = "ADDR")]
    http: Option<SocketAddr>,
    /// Address for RTMP
    #[arg(long, value_name = "ADDR")]
    rtmp: Option<SocketAddr>,
    /// Address for WebRTC media, UDP and TCP
    #[arg(long, value_name = "ADDR")]
    rtc: Option<SocketAddr>,
    /// Address that viewers reach this machine at, where it is not its own (may be given several times)
    #[arg(long, value_name = "IP")]
    public_ip: Vec<IpAddr>,
}

impl Flags {
    /// Defaults, then the file, then the environment, then these flags.
    pub(crate) fn config(&self) -> Result<Config, ConfigError> {
        let mut layers = Layers::defaults()?;
        if let Some(path) = &self.config {
            layers = layers.file(path)?;
        }
        layers = layers.environment(
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
        )?;
        if let Some(data) = &self.data {
            layers = layers.with(&["data"], data.to_string_lossy().into_owned());
        }
        for (section, address) in [("http", self.http), ("rtmp", self.rtmp), ("rtc", self.rtc)] {
            if let Some(address) = address {
                layers = layers.with(&[section, "listen"], address.to_string());
            }
        }
        if !self.public_ip.is_empty() {
            let addresses: Vec<_> = self.public_ip.iter().map(IpAddr::to_string).collect();
            layers = layers.with(&["rtc", "public_ips"], addresses);
        }
        layers.build()
    }
}

/// What to paste into OBS and into a browser.
pub(crate) fn print_addresses(config: &Config) {
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
    println!("Headwater {} is running.", env!("CARGO_PKG_VERSION"));
    println!("  Publish  OBS, Settings > Stream, Custom:  Server {rtmp}   Stream key mystream");
    println!("  Watch    {http}/{app}/play.html?id=mystream");
    println!("  HLS      {http}/{app}/streams/mystream.m3u8");
    println!("  Overview {http}/");
    if config.tls.is_set() {
        println!("  TLS      HTTPS on {}, RTMPS on {}", config.http.tls_listen, config.rtmp.tls_listen);
    }
}
