//! Serves as HLS what an encoder sends as FLV over plain TCP, for trying players without any ingest:
//!
//! ```text
//! cargo run --example hls_from_flv -- 127.0.0.1:8080 127.0.0.1:9000
//! ffmpeg -re -i clip.mp4 -c copy -f flv tcp://127.0.0.1:9000
//! hls.js, VLC, Safari: http://127.0.0.1:8080/live/streams/test.m3u8
//! ```
//!
//! Every connection is a publisher of `live/test`; a new one takes over. An optional third argument delays sound by so
//! many milliseconds, as a transcoder would.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use bytes::Bytes;
use headwater_common::{
    live::{BroadcastId, Claim, Hub, Publisher, Takeover, Writer},
    media::{Codec, Info, Kind, Sample},
    telemetry::Telemetry,
};
use headwater_edge::hls::{Hls, router};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    time::interval,
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let http = arguments.next().unwrap_or("127.0.0.1:8080".into());
    let flv = arguments.next().unwrap_or("127.0.0.1:9000".into());
    let delay_ms: u64 = arguments.next().map_or(Ok(0), |text| text.parse()).context("delay in milliseconds")?;
    let hub = Hub::new();
    let hls = Hls::new(hub.clone(), &Telemetry::new());
    let publishers = TcpListener::bind(flv).await?;
    let listener = TcpListener::bind(http).await?;
    let sweeper = hub.clone();
    tokio::spawn(async move {
        let mut seconds = interval(Duration::from_secs(1));
        loop {
            seconds.tick().await;
            sweeper.sweep(now_us());
        }
    });
    tokio::spawn(async move {
        let mut epoch = 0;
        while let Ok((stream, _)) = publishers.accept().await {
            epoch += 1;
            let hub = hub.clone();
            tokio::spawn(async move {
                let end = publish(hub, stream, epoch, Duration::from_millis(delay_ms)).await;
                eprintln!("publisher {epoch}: {end:?}");
            });
        }
    });
    axum::serve(listener, router(hls).into_make_service_with_connect_info::<SocketAddr>()).await?;
    Ok(())
}

async fn publish(hub: Arc<Hub>, mut stream: TcpStream, epoch: u64, delay: Duration) -> anyhow::Result<()> {
    let publisher = Publisher { protocol: "flv", remote: stream.peer_addr()?.to_string(), agent: String::new() };
    let claim = Claim { epoch, next_gop: 0, discontinuity: 0, publisher };
    let mut writer = hub.claim(&BroadcastId::new("live", "test")?, claim, Takeover::Replace, now_us())?;
    // "FLV", version, flags, header length, length of the tag before the first.
    stream.read_exact(&mut [0; 13]).await?;
    let mut held: std::collections::VecDeque<(tokio::time::Instant, i64, Bytes)> = Default::default();
    loop {
        let mut head = [0; 11];
        if stream.read_exact(&mut head).await.is_err() {
            held.drain(..).try_for_each(|(_, time_us, body)| tag(&mut writer, 8, time_us, body))?;
            writer.finish(now_us());
            return Ok(());
        }
        let [kind, size @ .., a, b, c, extended, _, _, _] = head;
        let size = u32::from_be_bytes([0, size[0], size[1], size[2]]) as usize;
        let time_us = i64::from(u32::from_be_bytes([extended, a, b, c])) * 1000;
        let mut body = vec![0; size];
        stream.read_exact(&mut body).await?;
        stream.read_exact(&mut [0; 4]).await?;
        if kind == 8 {
            held.push_back((tokio::time::Instant::now() + delay, time_us, body.into()));
        } else {
            tag(&mut writer, kind, time_us, body.into())?;
        }
        while let Some((_, time_us, body)) = held.pop_front_if(|(due, ..)| *due <= tokio::time::Instant::now()) {
            tag(&mut writer, 8, time_us, body)?;
        }
    }
}

/// One FLV tag: H.264 as `frame+codec, type, composition time, data`, AAC as `format, type, data`.
fn tag(writer: &mut Writer, kind: u8, dts_us: i64, body: Bytes) -> anyhow::Result<()> {
    match (kind, body.get(..2)) {
        (9, Some([_, 0])) if body.len() > 5 => writer.announce(Info::from_config(Codec::H264, body.slice(5..))?)?,
        (9, Some([first, 1])) if body.len() > 5 => {
            let composition_us = i64::from(i32::from_be_bytes([body[2], body[3], body[4], 0]) >> 8) * 1000;
            let (pts_us, keyframe) = (dts_us + composition_us, first >> 4 == 1);
            writer.write(Kind::Video, Sample { dts_us, pts_us, keyframe, payload: body.slice(5..) }, now_us())?;
        }
        (8, Some([_, 0])) => writer.announce(Info::from_config(Codec::Aac, body.slice(2..))?)?,
        (8, Some([_, 1])) => {
            let sample = Sample { dts_us, pts_us: dts_us, keyframe: true, payload: body.slice(2..) };
            writer.write(Kind::Audio, sample, now_us())?;
        }
        _ => {}
    }
    Ok(())
}

fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}
