//! RTMP publishers: each one a connection that sends the clip in real time, again and again.

use std::{
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use clap::Args;
use rml_rtmp::{
    handshake::{Handshake, HandshakeProcessResult, PeerType},
    sessions::{
        ClientSession, ClientSessionConfig, ClientSessionEvent as Event, ClientSessionResult, PublishRequestType,
        StreamMetadata,
    },
    time::RtmpTimestamp,
};
use serde::Serialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, sleep_until, timeout},
};

use crate::{
    Load,
    clip::{self, Clip, Kind, Tag},
    process::{Cost, Probe},
    report::Quantiles,
};

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    load: Load,
    /// An FLV file with H.264 and AAC instead of the standard clip
    #[arg(long)]
    file: Option<PathBuf>,
    #[command(flatten)]
    variant: clip::Variant,
    /// Put the send time into every nth picture; towards viewers each may cost a small packet of its own
    #[arg(long, default_value_t = 10)]
    stamp_every: usize,
}

#[derive(Serialize)]
pub(crate) struct Report {
    client: &'static str,
    url: String,
    count: u32,
    published: u32,
    failed: u32,
    /// The first reason, as an example.
    failure: Option<String>,
    connect_ms: Option<Quantiles>,
    frames: u64,
    bytes: u64,
    /// How far behind its schedule the generator itself was.
    late_ms: Option<Quantiles>,
    #[serde(flatten)]
    cost: Cost,
}

/// Publishers begin spread over a gop, as they do in life: else all keyframes of all streams meet.
const SPREAD: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Outcome {
    connect_ms: f64,
    frames: u64,
    bytes: u64,
    late_ms: Vec<f64>,
}

pub(crate) async fn run(options: Options) -> Result<Report> {
    let load = &options.load;
    let clip = Arc::new(Clip::load(options.file.as_deref(), options.variant, options.stamp_every)?);
    let mut probe = Probe::new(load.server_pid)?;
    let measured_from = Instant::now() + SPREAD + load.settling();
    let until = measured_from + load.measured();

    let mut publishers = JoinSet::new();
    for number in 0..load.count {
        let (url, clip) = (load.url_of(number), clip.clone());
        let delay = SPREAD * number / load.count;
        publishers.spawn(async move {
            sleep(delay).await;
            publish(&url, &clip, until).await
        });
    }
    sleep_until(measured_from.into()).await;
    probe.begin()?;
    // Publishers hang up at the end, so the cost has to be told just before.
    sleep_until((until - Duration::from_millis(50)).into()).await;
    let cost = probe.end(load.count)?;

    let (mut connect_ms, mut late_ms, mut failure) = (Vec::new(), Vec::new(), None);
    let (mut frames, mut bytes) = (0, 0);
    for outcome in publishers.join_all().await {
        match outcome {
            Ok(outcome) => {
                connect_ms.push(outcome.connect_ms);
                late_ms.extend(outcome.late_ms);
                frames += outcome.frames;
                bytes += outcome.bytes;
            }
            Err(error) => failure = failure.or(Some(format!("{error:#}"))),
        }
    }
    let published = connect_ms.len() as u32;
    Ok(Report {
        client: "rtmp",
        url: load.url.clone(),
        count: load.count,
        published,
        failed: load.count - published,
        failure,
        connect_ms: Quantiles::of(connect_ms),
        frames,
        bytes,
        late_ms: Quantiles::of(late_ms),
        cost,
    })
}

async fn publish(url: &str, clip: &Clip, until: Instant) -> Result<Outcome> {
    let asked = Instant::now();
    let mut connection = timeout(PATIENCE, Connection::open(url)).await.context("no answer to publish")??;
    let mut outcome = Outcome { connect_ms: asked.elapsed().as_secs_f64() * 1e3, ..Outcome::default() };
    for header in &clip.headers {
        connection.send(header, 0).await?;
    }
    let began = Instant::now();
    for round in 0.. {
        for tag in &clip.tags {
            let time_ms = round * clip.length_ms + tag.time_ms;
            let due = began + Duration::from_millis(time_ms.into());
            if due >= until {
                connection.close().await?;
                return Ok(outcome);
            }
            connection.read_until(due).await?;
            if tag.kind == Kind::Video {
                outcome.late_ms.push(due.elapsed().as_secs_f64() * 1e3);
            }
            outcome.bytes += connection.send(tag, time_ms).await? as u64;
            outcome.frames += 1;
        }
    }
    Ok(outcome)
}

/// One publishing connection: the session and its socket.
struct Connection {
    socket: TcpStream,
    session: ClientSession,
}

impl Connection {
    async fn open(url: &str) -> Result<Self> {
        let (address, app, key) = split_url(url)?;
        let mut socket = TcpStream::connect(&address).await.with_context(|| format!("connecting to {address}"))?;
        socket.set_nodelay(true)?;
        let leftover = shake_hands(&mut socket).await?;

        let mut config = ClientSessionConfig::new();
        config.tc_url = Some(format!("rtmp://{address}/{app}"));
        config.flash_version = "FMLE/3.0 (compatible; headwater-bench)".to_owned();
        let (session, results) = ClientSession::new(config).map_err(told)?;
        let mut connection = Self { socket, session };
        connection.apply(results).await?;
        let request = connection.session.request_connection(app).map_err(told)?;
        connection.apply(vec![request]).await?;
        let results = connection.session.handle_input(&leftover).map_err(told)?;
        let mut events = connection.apply(results).await?;
        loop {
            for event in std::mem::take(&mut events) {
                match event {
                    Event::ConnectionRequestAccepted => {
                        let live = PublishRequestType::Live;
                        let request = connection.session.request_publishing(key.clone(), live).map_err(told)?;
                        connection.apply(vec![request]).await?;
                    }
                    Event::ConnectionRequestRejected { description } => bail!("connect refused: {description}"),
                    Event::UnhandleableOnStatusCode { code } => bail!("publish refused: {code}"),
                    Event::PublishRequestAccepted => {
                        let mut metadata = StreamMetadata::new();
                        (metadata.video_width, metadata.video_height) = (Some(1280), Some(720));
                        let message = connection.session.publish_metadata(&metadata).map_err(told)?;
                        connection.apply(vec![message]).await?;
                        return Ok(connection);
                    }
                    _ => {}
                }
            }
            events = connection.read().await?;
        }
    }

    async fn send(&mut self, tag: &Tag, time_ms: u32) -> Result<usize> {
        let (time, body) = (RtmpTimestamp::new(time_ms), Bytes::from(tag.stamped()));
        let message = match tag.kind {
            Kind::Audio => self.session.publish_audio_data(body, time, false),
            Kind::Video => self.session.publish_video_data(body, time, false),
        };
        let ClientSessionResult::OutboundResponse(packet) = message.map_err(told)? else { return Ok(0) };
        self.socket.write_all(&packet.bytes).await.context("server hung up")?;
        Ok(packet.bytes.len())
    }

    /// Listens (acknowledgements, pings) until it is time to send.
    async fn read_until(&mut self, due: Instant) -> Result<()> {
        loop {
            tokio::select! {
                biased;
                () = sleep_until(due.into()) => return Ok(()),
                readable = self.socket.readable() => {
                    readable?;
                    let mut buffer = [0; 4096];
                    match self.socket.try_read(&mut buffer) {
                        Ok(length) => {
                            self.take(&buffer[..length]).await?;
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => return Err(error).context("reading from server"),
                    }
                }
            }
        }
    }

    async fn read(&mut self) -> Result<Vec<Event>> {
        let mut buffer = [0; 4096];
        let length = self.socket.read(&mut buffer).await?;
        self.take(&buffer[..length]).await
    }

    async fn take(&mut self, bytes: &[u8]) -> Result<Vec<Event>> {
        ensure!(!bytes.is_empty(), "server hung up");
        let results = self.session.handle_input(bytes).map_err(told)?;
        self.apply(results).await
    }

    /// Sends what the session wants sent and returns what it has to tell.
    async fn apply(&mut self, results: Vec<ClientSessionResult>) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        for result in results {
            match result {
                ClientSessionResult::OutboundResponse(packet) => self.socket.write_all(&packet.bytes).await?,
                ClientSessionResult::RaisedEvent(event) => events.push(event),
                ClientSessionResult::UnhandleableMessageReceived(_) => {}
            }
        }
        Ok(events)
    }

    async fn close(mut self) -> Result<()> {
        let results = self.session.stop_publishing().map_err(told)?;
        self.apply(results).await?;
        self.socket.shutdown().await?;
        Ok(())
    }
}

/// Returns what came behind the handshake.
async fn shake_hands(socket: &mut TcpStream) -> Result<Vec<u8>> {
    let mut handshake = Handshake::new(PeerType::Client);
    socket.write_all(&handshake.generate_outbound_p0_and_p1().map_err(told)?).await?;
    let mut buffer = [0; 4096];
    loop {
        let length = socket.read(&mut buffer).await?;
        ensure!(length > 0, "server hung up in the handshake");
        match handshake.process_bytes(&buffer[..length]).map_err(told)? {
            HandshakeProcessResult::InProgress { response_bytes } => socket.write_all(&response_bytes).await?,
            HandshakeProcessResult::Completed { response_bytes, remaining_bytes } => {
                socket.write_all(&response_bytes).await?;
                return Ok(remaining_bytes);
            }
        }
    }
}

/// The session's errors can't cross threads as they are.
fn told(error: impl std::fmt::Debug) -> anyhow::Error {
    anyhow::anyhow!("RTMP: {error:?}")
}

/// `rtmp://host[:port]/app/key` as address, app and key.
fn split_url(url: &str) -> Result<(String, String, String)> {
    let parts = url.strip_prefix("rtmp://").and_then(|rest| {
        let (host, path) = rest.split_once('/')?;
        let (app, key) = path.split_once('/')?;
        Some((host, app, key))
    });
    let (host, app, key) = parts.with_context(|| format!("{url} is not rtmp://HOST/APP/KEY"))?;
    let address = if host.contains(':') { host.to_owned() } else { format!("{host}:1935") };
    Ok((address, app.to_owned(), key.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_rtmp_url_has_three_parts() {
        let split = |url| split_url(url).map(|(address, app, key)| format!("{address} {app} {key}"));
        assert_eq!(split("rtmp://127.0.0.1/live/a-0").unwrap(), "127.0.0.1:1935 live a-0");
        assert_eq!(split("rtmp://[::1]:1936/live/a?token=x").unwrap(), "[::1]:1936 live a?token=x");
        assert!(split("http://127.0.0.1/live/a").is_err());
    }
}
