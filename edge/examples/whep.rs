//! Plays raw H.264 (with access unit delimiters) and Ogg Opus from two files or pipes to WHEP viewers, at the pace
//! they come in: `whep HTTP_PORT MEDIA_PORT VIDEO.h264 AUDIO.ogg`, then http://127.0.0.1:HTTP_PORT/live/whep/x.

use std::{
    fs::File,
    io::{self, Read},
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use headwater_common::{
    live::{BroadcastId, Claim, Hub, Publisher, Takeover, Writer},
    media::{Codec, Info, Kind, Sample, Shape, opus},
    rtc::{Engine, Settings},
    telemetry::Telemetry,
};
use headwater_edge::webrtc;

const FRAME_US: i64 = 1_000_000 / 30;

fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}

fn pictures(path: &str, writer: &Mutex<Writer>) -> anyhow::Result<()> {
    let mut input = File::open(path)?;
    let (mut buffer, mut chunk) = (Vec::new(), vec![0; 64 * 1024]);
    let (mut sets, mut announced, mut dts_us) = ((Vec::new(), Vec::new()), false, 0);
    loop {
        let read = input.read(&mut chunk)?;
        if read == 0 {
            return Ok(());
        }
        buffer.extend_from_slice(&chunk[..read]);
        // An access unit is complete when the next delimiter has come.
        while let Some(end) = buffer.windows(5).skip(5).position(|w| w == [0, 0, 0, 1, 9]).map(|at| at + 5) {
            let unit: Vec<u8> = buffer.drain(..end).collect();
            let (mut payload, mut keyframe) = (Vec::new(), false);
            for range in headwater_common::media::nal::annex_b_units(&unit) {
                let nal = &unit[range];
                match nal[0] & 0x1f {
                    7 => sets.0 = nal.to_vec(),
                    8 => sets.1 = nal.to_vec(),
                    9 => {}
                    kind => {
                        keyframe |= kind == 5;
                        payload.extend((nal.len() as u32).to_be_bytes());
                        payload.extend(nal);
                    }
                }
            }
            let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
            if keyframe && !announced {
                let (sps, pps) = &sets;
                let mut config = vec![1, sps[1], sps[2], sps[3], 0xff, 0xe1];
                config.extend((sps.len() as u16).to_be_bytes());
                config.extend(sps);
                config.push(1);
                config.extend((pps.len() as u16).to_be_bytes());
                config.extend(pps);
                let shape = Shape::Video { width: 640, height: 360, reorders: false };
                writer.announce(Info { codec: Codec::H264, config: config.into(), shape })?;
                announced = true;
            }
            let sample = Sample { dts_us, pts_us: dts_us, keyframe, payload: payload.into() };
            writer.write(Kind::Video, sample, now_us())?;
            dts_us += FRAME_US;
        }
    }
}

fn sound(path: &str, writer: &Mutex<Writer>) -> anyhow::Result<()> {
    let mut input = io::BufReader::new(File::open(path)?);
    let (mut packet, mut dts_us) = (Vec::new(), 0);
    loop {
        let mut header = [0; 27];
        if input.read_exact(&mut header).is_err() {
            return Ok(());
        }
        let mut lengths = vec![0; usize::from(header[26])];
        input.read_exact(&mut lengths)?;
        for length in lengths {
            let start = packet.len();
            packet.resize(start + usize::from(length), 0);
            input.read_exact(&mut packet[start..])?;
            if length == 255 {
                continue;
            }
            let payload = Bytes::from(std::mem::take(&mut packet));
            let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
            if payload.starts_with(b"OpusHead") {
                let config = opus::Config::parse(&payload)?.dops();
                let shape = Shape::Audio { sample_rate: 48_000, channels: 2 };
                writer.announce(Info { codec: Codec::Opus, config, shape })?;
            } else if !payload.starts_with(b"OpusTags") {
                let samples = opus::packet_samples(&payload).unwrap_or(960);
                writer.write(Kind::Audio, Sample { dts_us, pts_us: dts_us, keyframe: true, payload }, now_us())?;
                dts_us += i64::from(samples) * 1_000 / 48;
            }
        }
    }
}

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [http, media, video, audio] = &args[..] else { anyhow::bail!("HTTP_PORT MEDIA_PORT VIDEO.h264 AUDIO.ogg") };
    let telemetry = Telemetry::new();
    let listen = format!("[::]:{media}").parse()?;
    let engine = Engine::start(Settings { listen, ..Settings::default() }, &telemetry)?;
    let hub = Hub::new();
    let id = BroadcastId::new("live", "x")?;
    let publisher = Publisher { protocol: "file", remote: String::new(), agent: String::new() };
    let claim = Claim { epoch: 1, next_gop: 0, discontinuity: 0, publisher };
    let writer = Arc::new(Mutex::new(hub.claim(&id, claim, Takeover::Replace, now_us())?));
    for (path, read) in [(video, pictures as fn(&str, &Mutex<Writer>) -> anyhow::Result<()>), (audio, sound)] {
        let (path, writer) = (path.clone(), writer.clone());
        std::thread::spawn(move || read(&path, &writer).inspect_err(|err| eprintln!("{path}: {err}")));
    }
    let app = webrtc::router(engine.clone(), hub, &webrtc::Settings::default())
        .route("/metrics", axum::routing::get(move || async move { telemetry.render() }))
        .route("/sessions", axum::routing::get(move || async move { axum::Json(engine.sessions(&id)) }));
    let address = format!("127.0.0.1:{http}");
    tokio::runtime::Runtime::new()?.block_on(async move {
        axum::serve(tokio::net::TcpListener::bind(address).await?, app).await?;
        Ok(())
    })
}
