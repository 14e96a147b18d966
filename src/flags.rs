//! The command line: how to run, and the few settings that people type.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use headwater_common::{
    config::{Config, ConfigError, Layers},
    node::Role,
};

/// A live streaming server: publish by RTMP, watch by WebRTC and HLS, keep MP4.
///
/// Without a command it takes publishers and serves viewers, and needs no other service.
#[derive(clap::Parser)]
#[command(name = "headwater", version)]
pub(crate) struct Flags {
    #[command(subcommand)]
    command: Option<Command>,
    /// Settings file (TOML)
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Print every setting with its default and what it does
    #[arg(long)]
    print_config: bool,
    /// Directory for recordings and the registry
    #[arg(long, value_name = "DIR", global = true)]
    data: Option<PathBuf>,
    /// Address for pages, HLS, WHEP and REST
    #[arg(long, value_name = "ADDR", global = true)]
    http: Option<SocketAddr>,
    /// Address for RTMP
    #[arg(long, value_name = "ADDR", global = true)]
    rtmp: Option<SocketAddr>,
    /// Address for WebRTC media, UDP and TCP
    #[arg(long, value_name = "ADDR", global = true)]
    rtc: Option<SocketAddr>,
    /// Address for the other nodes of a cluster
    #[arg(long, value_name = "ADDR", global = true)]
    grpc: Option<SocketAddr>,
    /// Address that viewers reach this machine at, where it is not its own (may be given several times)
    #[arg(long, value_name = "IP", global = true)]
    public_ip: Vec<IpAddr>,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Run as a part of a cluster that takes publishers
    Origin,
    /// Run as a part of a cluster that serves viewers
    Edge,
    /// Print a secret for the nodes of a cluster to share
    ClusterSecret,
    /// Write certificates for the nodes of a cluster to share, instead of a secret
    ClusterCert {
        /// Directory for ca.pem, certificate.pem and key.pem
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

/// What was asked for.
pub(crate) enum Task {
    Run(Role),
    PrintConfig,
    PrintSecret,
    WriteCertificates(PathBuf),
}

impl Flags {
    pub(crate) fn task(&self) -> Task {
        match &self.command {
            _ if self.print_config => Task::PrintConfig,
            None => Task::Run(Role::Whole),
            Some(Command::Origin) => Task::Run(Role::Origin),
            Some(Command::Edge) => Task::Run(Role::Edge),
            Some(Command::ClusterSecret) => Task::PrintSecret,
            Some(Command::ClusterCert { out }) => Task::WriteCertificates(out.clone()),
        }
    }

    /// Defaults, then the file, then the environment, then these flags.
    pub(crate) fn config(&self, role: Role) -> Result<Config, ConfigError> {
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
        for (section, address) in [("http", self.http), ("rtmp", self.rtmp), ("rtc", self.rtc), ("cluster", self.grpc)]
        {
            if let Some(address) = address {
                layers = layers.with(&[section, "listen"], address.to_string());
            }
        }
        if !self.public_ip.is_empty() {
            let addresses: Vec<_> = self.public_ip.iter().map(IpAddr::to_string).collect();
            layers = layers.with(&["rtc", "public_ips"], addresses);
        }
        let config = layers.build()?;
        config.check_for(role)?;
        Ok(config)
    }
}
